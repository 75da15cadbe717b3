"""What a person may have meant by a name that there is not."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def meant(name: str, accepted: Iterable[str]) -> str:
    """ "did you mean X? " where one of the accepted names is close to the name; else nothing.

    >>> meant("OpenVino", ("eager", "openvino")), meant("x", ("eager",))
    ('did you mean openvino? ', '')
    """
    plain = {_plain(one): one for one in accepted if one}
    wanted = _plain(name)
    near = difflib.get_close_matches(wanted, plain, 1) or [
        one for one in plain if len(wanted) > 2 and one.startswith(wanted)
    ]
    return f"did you mean {plain[near[0]]}? " if near else ""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")

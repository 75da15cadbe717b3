"""Which accepted name a person may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggestion(name: str, accepted: Iterable[str]) -> str:
    """Return "did you mean X? " if one of the accepted names is close to `name`, else an empty text.

    >>> suggestion("OpenVino", ("eager", "openvino")), suggestion("x", ("eager",))
    ('did you mean openvino? ', '')
    """
    accepted_by_plain = {_plain(accepted_name): accepted_name for accepted_name in accepted if accepted_name}
    plain_name = _plain(name)
    close = difflib.get_close_matches(plain_name, accepted_by_plain, 1)
    if not close and len(plain_name) > 2:
        close = [plain for plain in accepted_by_plain if plain.startswith(plain_name)]
    return f"did you mean {accepted_by_plain[close[0]]}? " if close else ""


def _plain(name: str) -> str:
    """Return a name in lower case, with underscores for hyphens."""
    return name.strip().lower().replace("-", "_")

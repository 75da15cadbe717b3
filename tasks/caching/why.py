"""What `burnish why` tells: for every stage of a run, whether it was computed, and what differed from the time
before."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.caching.keys import digest
from tasks.machine.files import remove, write_text

if TYPE_CHECKING:
    from tasks.records import Context

LOG = logging.getLogger("burnish")
MOST, SHORT = 2, 300
"""Reasons in a log line, and letters of them; the file that `burnish why` reads has all."""
BEGUN, COMPUTED, FAILED = "begun", "computed", "failed"
"""Outcomes of a stage whose result was not stored before; `begun` remains where it was cut off."""


def slug(label: str) -> str:
    """A stage's label as the name of a file."""
    return label.replace("/", "-").replace(" ", "-")


def tell(
    context: Context, label: str, key: str, parts: dict[str, Any], *, hit: bool, reason: str = "", left: str = ""
) -> None:
    """Write to the run's folder and to the log: hit or computed, and what differs from the last time.

    Parameters
    ----------
    parts
        What the key is made of (tasks/caching/keys.py).
    reason
        Why a stored result was not taken; empty where there was none.
    left
        What the stage continues from (tasks/caching/left.py); empty where it starts at its beginning.
    """
    study = context.run.rpartition("-")[0].rpartition("-")[0] or context.run
    last = Path(context.out) / "store" / "last" / study / f"{slug(label)}.json"
    before, broken = _last_time(last, label)
    reasons = [text for text in (reason, broken, "" if hit else left) if text]
    # what ran last is no reason for what had begun before
    if not hit and not left:
        reasons += _differences(before, parts, bool(reasons))
    told = {"task": label, "outcome": "hit" if hit else BEGUN, "key": key, "differs": reasons, "at": time.time()}
    write_text(_file(context, label), json.dumps(told, indent=1))
    write_text(last, json.dumps({"key": key, "parts": parts}, default=str))
    if not hit:
        new = before is None and not reason and not left
        LOG.info("%s: computing%s", label, "" if new else f" ({_in_short(reasons)})", extra={"stage": label})


def ended(context: Context, label: str, outcome: str) -> None:
    """Write to the run's folder how a stage that was computed has ended: computed, or failed."""
    file = _file(context, label)
    write_text(file, json.dumps(json.loads(file.read_text()) | {"outcome": outcome}, indent=1))


def _file(context: Context, label: str) -> Path:
    return Path(context.out) / "runs" / context.run / "why" / f"{slug(label)}.json"


def _in_short(reasons: list[str]) -> str:
    """The first reasons, for a log line."""
    more = f" and {len(reasons) - MOST} more, see `burnish why`" if len(reasons) > MOST else ""
    return f"{'; '.join(reasons[:MOST])[:SHORT]}{more}"


def _last_time(last: Path, label: str) -> tuple[dict[str, Any] | None, str]:
    """(What the key was made of the last time that this study asked for the stage, why that is not readable)."""
    try:
        told = json.loads(last.read_bytes())
        if not (isinstance(told, dict) and isinstance(told.get("parts"), dict)):
            raise ValueError("not the JSON of a stage's key")
        if digest(told["parts"]) != told.get("key"):
            raise ValueError("its content is not what its key is of")
        return told["parts"], ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or str(error).splitlines()[0]
        broken = f"{last} was removed, because it is not readable: {said}"
        LOG.warning("%s: %s", label, broken)
        remove(last)
        return None, broken


def _differences(before: dict[str, Any] | None, parts: dict[str, Any], explained: bool) -> list[str]:
    """What differs from the last time; `explained`: whether there is another reason already."""
    if before is None:
        return [] if explained else ["never run before in this folder"]
    differing = [name for name in sorted(before.keys() | parts.keys()) if before.get(name) != parts.get(name)]
    found = [f"{name}: {_short(before.get(name))} -> {_short(parts.get(name))}" for name in differing]
    return found or ([] if explained else ["the last attempt left no result to keep"])


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value)
    return text[:10] if len(text) == 64 else text

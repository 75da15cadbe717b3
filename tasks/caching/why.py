"""The file that `burnish why` reads: whether each stage of a run was computed, and what differed from last time."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.caching.keys import digest
from tasks.machine.files import remove, write_text

if TYPE_CHECKING:
    from tasks.records import Context

LOG = logging.getLogger("burnish")
MOST_REASONS = 2
"""A log line names at most this many reasons. The file that `burnish why` reads has all of them."""
MOST_LETTERS = 300
"""The reasons in a log line are cut to this many characters."""
HASH = re.compile("[0-9a-f]{64}")
"""Matches what stands for a content or a piece of code in a key."""
BEGUN = "begun"
"""Outcome of a stage whose computation has begun. It remains if the stage is cut off."""
COMPUTED = "computed"
"""Outcome of a stage that was computed."""
FAILED = "failed"
"""Outcome of a stage that raised an error."""


def slug(label: str) -> str:
    """Return a stage's label in a form that can be the name of a file."""
    return label.replace("/", "-").replace(" ", "-")


def tell(
    context: Context, label: str, key: str, parts: dict[str, Any], *, hit: bool, reason: str = "", continues: str = ""
) -> None:
    """Write to the run's folder and to the log whether a stage is computed or its result is stored, and why.

    Parameters
    ----------
    parts
        The parts of the key (`Stage.parts`).
    hit
        Whether the stored result is used.
    reason
        Why a stored result is not used; empty where there is none.
    continues
        From where the stage continues, in words (tasks/caching/leftovers.py); empty where it starts at its beginning.
    """
    study = context.run.rpartition("-")[0].rpartition("-")[0] or context.run
    last = Path(context.out) / "store" / "last" / study / f"{slug(label)}.json"
    before, broken = _last_time(last, label)
    reasons = [text for text in (reason, broken, "" if hit else continues) if text]
    # A stage that continues had begun before whatever ran last, so a difference from that is not the reason.
    if not hit and not continues:
        reasons += _differences(before, parts, bool(reasons))
    content = {"task": label, "outcome": "hit" if hit else BEGUN, "key": key, "differs": reasons, "at": time.time()}
    write_text(_file(context, label), json.dumps(content, indent=1))
    write_text(last, json.dumps({"key": key, "parts": parts}, default=str))
    if not hit:
        new = before is None and not reason and not continues
        LOG.info("%s: computing%s", label, "" if new else f" ({_in_short(reasons)})", extra={"stage": label})


def ended(context: Context, label: str, outcome: str) -> None:
    """Write to the run's folder how the computation of a stage has ended: with COMPUTED or FAILED."""
    file = _file(context, label)
    write_text(file, json.dumps(json.loads(file.read_text()) | {"outcome": outcome}, indent=1))


def _file(context: Context, label: str) -> Path:
    return Path(context.out) / "runs" / context.run / "why" / f"{slug(label)}.json"


def _in_short(reasons: list[str]) -> str:
    """Return the first reasons, as a log line has them."""
    more = f" and {len(reasons) - MOST_REASONS} more, see `burnish why`" if len(reasons) > MOST_REASONS else ""
    return f"{'; '.join(reasons[:MOST_REASONS])[:MOST_LETTERS]}{more}"


def _last_time(last: Path, label: str) -> tuple[dict[str, Any] | None, str]:
    """Return the parts of the key when this study last requested the stage, or why they are not readable.

    `last` is the file that holds them. A file that is not readable is removed.
    """
    try:
        content = json.loads(last.read_bytes())
        if not (isinstance(content, dict) and isinstance(content.get("parts"), dict)):
            raise ValueError("not the JSON of a stage's key")
        if digest(content["parts"]) != content.get("key"):
            raise ValueError("its content does not match its key")
        return content["parts"], ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError) as error:
        words = getattr(error, "strerror", None) or str(error).splitlines()[0]
        broken = f"{last} was removed, because it is not readable: {words}"
        LOG.warning("%s: %s", label, broken)
        remove(last)
        return None, broken


def _differences(before: dict[str, Any] | None, parts: dict[str, Any], explained: bool) -> list[str]:
    """Return in which parts a stage's key differs from the one that it had when it was last run in this folder.

    Parameters
    ----------
    before
        The parts of the last key; None where the stage was never run.
    parts
        The parts of the key now: settings, hashes of inputs, code, versions.
    explained
        Whether it is known otherwise why the stage is computed, so that equal keys need no explanation.
    """
    if before is None:
        return [] if explained else ["never run before in this folder"]
    differing = [name for name in sorted(before.keys() | parts.keys()) if before.get(name) != parts.get(name)]
    if not differing:
        return [] if explained else ["the last attempt left no result to keep"]
    return [_difference(name, before.get(name), parts.get(name)) for name in differing]


def _difference(name: str, before: Any, now: Any) -> str:
    """Return in words how a part of a key differs. A hash tells a person nothing but that the content is another."""
    if HASH.fullmatch(str(before)) and HASH.fullmatch(str(now)):
        return f"{name} has another content"
    return f"{name}: {_in_words(before)} -> {_in_words(now)}"


def _in_words(value: Any) -> str:
    if value is None:
        return "absent"
    return "present" if HASH.fullmatch(str(value)) else str(value)

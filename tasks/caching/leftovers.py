"""From where an interrupted stage continues, in words: a training's checkpoint, a benchmark's round, a search."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.machine.durable import DIGITS, SeriesFile

if TYPE_CHECKING:
    from pathlib import Path

NUMBERED = re.compile(rf".+\.(\d+)\.[0-9a-f]{{{DIGITS}}}\.(pt|npz)")
"""Names of the files of a `durable.Series`: checkpoints (.pt) are numbered by epoch, rounds (.npz) from 0."""
TRIALS = "trials.log"
"""The file in which a search keeps its finished trials."""


def continues(scratch: Path) -> str:
    """Return in words from where a stage continues, given its scratch folder. Empty means from its beginning."""
    matches = ((NUMBERED.fullmatch(path.name), path) for path in scratch.rglob("*"))
    numbered = [(match, path) for match, path in matches if match]
    parts = []
    if any(path.stat().st_size for path in scratch.glob(TRIALS)):
        parts.append("continues the search that was interrupted")
    for match, path in sorted(numbered, key=lambda pair: pair[1].stat().st_mtime_ns, reverse=True):
        number = int(match[1])
        # The stage passes over a damaged file, says so, and takes the one before it.
        if SeriesFile(number, path).intact():
            at = f"epoch {number}'s checkpoint" if match[2] == "pt" else f"the benchmark's round {number + 1}"
            parts.append(f"at {at}" if parts else f"continues from {at}")
            break
    return " ".join(parts)

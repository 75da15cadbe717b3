"""What an interrupted stage left to go on from, in words: a training's checkpoint, a benchmark's rounds, tuning
trials."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.machine.durable import DIGITS, SeriesFile

if TYPE_CHECKING:
    from pathlib import Path

NUMBERED = re.compile(rf".+\.(\d+)\.[0-9a-f]{{{DIGITS}}}\.(pt|npz)")
"""Files of `durable.Series`: checkpoints by epoch, and rounds from 0."""
TRIALS = "trials.log"


def continues(scratch: Path) -> str:
    """What the stage with this scratch folder continues from; empty where it starts at its beginning."""
    kept = [(found, path) for path in scratch.rglob("*") if (found := NUMBERED.fullmatch(path.name))]
    parts = []
    if any(path.stat().st_size for path in scratch.glob(TRIALS)):
        parts.append("continues the search that was interrupted")
    for found, path in sorted(kept, key=lambda one: one[1].stat().st_mtime_ns, reverse=True):
        number = int(found[1])
        # else the stage says that it is damaged, and takes the one before
        if SeriesFile(number, path).intact():
            at = f"epoch {number}'s checkpoint" if found[2] == "pt" else f"the benchmark's round {number + 1}"
            parts.append(f"at {at}" if parts else f"continues from {at}")
            break
    return " ".join(parts)

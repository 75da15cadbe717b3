"""Rows of the `variants` table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.machine import space

if TYPE_CHECKING:
    from tasks.records import Variant

TRY = "-try"
"""Ends the names of policies that were tried in short."""
LONGER = "-long"
"""Ends the name of the tuned training that was done again for as many epochs as the augmentation policies."""


def variant_row(variant: Variant, **measured: object) -> dict[str, object]:
    """The row of the `variants` table for a variant; `measured` adds columns such as validation_top1 or parity."""
    row: dict[str, object] = variant.model_dump(exclude={"kind", "artifact"})
    row["setting"] = variant.setting or None
    if variant.artifact is not None:
        row |= variant.artifact.model_dump(include={"size_bytes", "sha256", "path"})
    return row | measured


def failure(error: BaseException) -> str:
    """Type and message of an exception in one line of at most 300 characters, for a failed variant's `error`.

    Raises
    ------
    DiskFull
        If that is what it is: it ends the study, as nothing that follows could be written.
    """
    if (full := space.full_disk(error)) is not None:
        raise full from error
    # exporters colour their messages
    words = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()
    line = f"{type(error).__name__}: {' '.join(words)}" if words else type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}..."

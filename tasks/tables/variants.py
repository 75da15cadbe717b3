"""Rows of the `variants` table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tasks.machine import space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Variant

TRY = "-try"
"""Suffix of the names of variants that were trained for a few epochs, to choose policies for a full training."""
LONGER = "-long"
"""Suffix of the name of the tuned variant that was trained again for as many epochs as the augmentation policies."""


def variant_row(variant: Variant, **measured: object) -> dict[str, object]:
    """Return the row of the table `variants` for a variant. `measured` adds columns such as parity."""
    row: dict[str, object] = variant.model_dump(exclude={"kind", "artifact", "left_out_of"})
    row["setting"] = variant.setting or None
    row["options"] = ", ".join(variant.options) or None
    if variant.artifact is not None:
        row |= variant.artifact.model_dump(include={"size_bytes", "sha256", "path"})
    return row | measured


def options_in(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of its runtime in a row of the table, also of a run of an older burnish, which had none."""
    text = row.get("options")
    return tuple(text.split(", ")) if text else ()


def failure(error: BaseException) -> str:
    """Return type and message of an exception as one line of at most 300 characters, for a failed variant's `error`.

    Raises
    ------
    DiskFull
        If the disk is full: that ends the study, as no later result could be written.
    """
    if (full := space.full_disk(error)) is not None:
        raise full from error
    # Exporters colour their messages with escape sequences of terminals.
    words = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()
    line = f"{type(error).__name__}: {' '.join(words)}" if words else type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}..."

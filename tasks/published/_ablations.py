"""How a row of `ablations` is printed beside a published study: each column once, picked by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, between, figure, percent, rows
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.published import Marks, Row, Tables

COLUMNS: dict[str, Callable[[Row, Row], str]] = {
    "epoch s": lambda row, plain: _epoch(row),
    "first epoch s": lambda row, plain: figure(row["first_epoch_seconds"]),
    "× vanilla": lambda row, plain: _times(plain.get("epoch_seconds"), row),
    "images/s": lambda row, plain: figure(row["images_per_second"]),
    "memory MB": lambda row, plain: figure(row["memory_peak_bytes"], lambda value: f"{value / 1e6:.0f}"),
    "test accuracy %": lambda row, plain: percent(row, "top1"),
    "macro F1 %": lambda row, plain: percent(row, "macro_f1"),
}
"""Of a row and of the row of the same model without any technique."""
ALIKE = "≈"
EPOCHS = (
    "Epoch s: the median but the first, in which PyTorch compiles [shortest–longest]; ≈: these overlap with "
    "those of the "
    "training without any technique, from which it is not distinguishable."
)
MEMORY = (
    "Memory on a GPU: its allocator's peak; on a CPU: resident in the process, with what earlier trainings have left."
)


def by_model(tables: Tables) -> dict[str, dict[str, Row]]:
    """Rows of `ablations` by model, then technique."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows(tables, "ablations"):
        found.setdefault(row["model"], {})[row["technique"]] = row
    return found


def figures(row: Row, plain: Row, columns: Sequence[str], marks: Marks) -> tuple[str, ...]:
    """A technique's figures; `plain`: the model's row without any (empty: there is none)."""
    if row["status"] != "ok":
        return (marks.outcome(row), *[ABSENT] * (len(columns) - 1))
    first, *others = (COLUMNS[name](row, plain) for name in columns)
    return (first + (marks.mark(row["note"]) if row["note"] else ""), *others)


def _epoch(row: Row) -> str:
    seconds = row["epoch_seconds"]
    if seconds is None:
        return ABSENT
    several = (row["epochs"] - 1) * row["seeds"] > 1
    return between(seconds, row["epoch_seconds_low"], row["epoch_seconds_high"]) if several else sig(seconds)


def _times(plain: float | None, row: Row) -> str:
    same = ALIKE if row["verdict"] == "indistinguishable" else ""
    return sig(plain / row["epoch_seconds"]) + same if plain and row["epoch_seconds"] else ABSENT

"""Figures of the table `ablations` beside a published study: every column once, from which a study picks by name."""

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
"""Header -> what writes its figure, from a technique's row and the row of the same model without any technique."""
ALIKE = "≈"
"""Follows the ratio of a technique whose epochs are not distinguishable from those without any technique."""
EPOCHS = (
    "Epoch s: the median of all epochs but the first, in which PyTorch compiles [shortest–longest]; ≈: these epochs "
    "overlap with those of the training without any technique, so the two are not distinguishable."
)
MEMORY = (
    "Memory: on a GPU, the peak of its allocator; on a CPU, the memory resident in the process, with what earlier "
    "trainings have left in it."
)


def by_model(tables: Tables) -> dict[str, dict[str, Row]]:
    """Return model -> technique -> row of `ablations`."""
    models: dict[str, dict[str, Row]] = {}
    for row in rows(tables, "ablations"):
        models.setdefault(row["model"], {})[row["technique"]] = row
    return models


def figures(row: Row, plain: Row, columns: Sequence[str], marks: Marks) -> tuple[str, ...]:
    """Return a technique's figures in the columns asked for, and mark them where the row has a note.

    Parameters
    ----------
    plain
        The row of the same model without any technique; empty where there is none.
    """
    if row["status"] != "ok":
        return (marks.outcome(row), *[ABSENT] * (len(columns) - 1))
    first, *others = (COLUMNS[name](row, plain) for name in columns)
    return (first + (marks.mark(row["note"]) if row["note"] else ""), *others)


def _epoch(row: Row) -> str:
    """Return the time of an epoch, with the shortest and the longest where there are several."""
    seconds = row["epoch_seconds"]
    if seconds is None:
        return ABSENT
    several = (row["epochs"] - 1) * row["seeds"] > 1
    return between(seconds, row["epoch_seconds_low"], row["epoch_seconds_high"]) if several else sig(seconds)


def _times(plain_seconds: float | None, row: Row) -> str:
    """Return how many times as fast as an epoch without any technique an epoch of the row is."""
    if not plain_seconds or not row["epoch_seconds"]:
        return ABSENT
    return sig(plain_seconds / row["epoch_seconds"]) + (ALIKE if row["verdict"] == "indistinguishable" else "")

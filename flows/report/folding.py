"""Fold skipped rows of one reason into one line, in the report and in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMED_BY = ("variant", "name", "technique")
"""Columns that name a row. Every table with skipped rows has one of them."""


def fold(
    rows: Iterable[Mapping[str, Any]], least: int = 1
) -> tuple[list[Mapping[str, Any]], list[tuple[str, list[str]]]]:
    """Fold the skipped rows of each reason that `least` rows or more share.

    Returns
    -------
    shown : list
        The other rows, in their order.
    folded : list
        For each reason, the line that stands for its rows, and their names.
    """
    everything = list(rows)
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for row in everything:
        if row.get("status") == "skipped":
            reasons.setdefault(row["error"], []).append(row)
    groups = {reason: group for reason, group in reasons.items() if len(group) >= least}
    shown = [row for row in everything if row.get("status") != "skipped" or row["error"] not in groups]
    folded = [
        (f"{len(group)} row{'' if len(group) == 1 else 's'} skipped: {reason}", list(dict.fromkeys(map(_name, group))))
        for reason, group in groups.items()
    ]
    return shown, folded


def _name(row: Mapping[str, Any]) -> str:
    return next(str(row[key]) for key in NAMED_BY if row.get(key) is not None)

"""Where on its way from the original a form lost accuracy: original, pruned, exported, quantized, engine.

A hop leads from a candidate to the candidates of the nearest forms made from it, which classified the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.tables.figures import drop_words, exact_points
from tasks.tables.pairs import drop_columns, drops, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl

    from tasks.measure.drops import Drop
    from tasks.tables.pairs import Key
    from tasks.tables.rule import Row

    Tables = Mapping[str, pl.DataFrame | pl.LazyFrame]

MOST_LAYERS = 3
"""Layers that are named as responsible for a loss."""
TRAINING = "training"
"""In the table `evaluations`, the runtime of weights that were scored when their training ended, and not timed."""


@dataclass(frozen=True, kw_only=True)
class Hop:
    """The way from a candidate to one whose form was made from the first one's form."""

    before: Key
    after: Key
    agreement: float | None
    """Share of images that both give the same class."""
    logit_difference: float | None
    """Largest difference of a logit, over the largest logit before. None in a run of an older version of burnish."""
    score: float
    """Accuracy after the hop, in the study's metric."""
    drop: Drop | None
    """By how much it is less accurate than before. None where the predictions are not known."""

    def costs(self, allowed: float) -> bool:
        """Return whether this hop alone loses more than half of the allowed drop."""
        return self.drop is not None and self.drop.value > allowed / 2 + 1e-9


def paths(tables: Tables, metric: str, ends: Iterable[Key] | None = None) -> dict[Key, list[Hop]]:
    """Return, for each candidate that was made from another one, its hops from the original on.

    Parameters
    ----------
    tables
        The tables `evaluations` and, where a run has it, `predictions`. They may be lazy.
    metric
        The measure of accuracy: "top1" or "macro_f1".
    ends
        The candidates of interest. None: all.
    """
    rows = {key_of(row): row for row in tables["evaluations"].lazy().collect().iter_rows(named=True)}
    scored = {key: row for key, row in rows.items() if key[1] != TRAINING and row[metric] is not None}
    parents = {key: parent for key, row in scored.items() if (parent := _parent(row, scored)) is not None}
    wanted = [key for key in (scored if ends is None else ends) if key in parents]
    ways = {key: _way(key, parents) for key in wanted}
    made: dict[Key, Hop] = {}
    for before in dict.fromkeys(parents[key] for way in ways.values() for key in way):
        children = {key for way in ways.values() for key in way if parents[key] == before}
        lost = drops(tables, before, metric, children)
        made |= {key: _hop(before, scored[key], metric, lost.get(key)) for key in children}
    return {key: [made[step] for step in way] for key, way in ways.items()}


def _parent(row: Row, scored: Mapping[Key, Row]) -> Key | None:
    """Return the candidate that `agreement` of a row compares with, as tasks/benchmark.py chooses it.

    It is on the same device and in the same runtime, where there is such a one. An original in a second runtime has
    itself as parent: it is compared with the original in the runtime that stands first.
    """
    others = [key for key in scored if key[0] == row["parent"]]
    if row["parent"] == row["variant"]:
        others = others[: others.index(key_of(row))]
    return max(others, key=lambda key: (key[2] == row["device"], key[1] == row["runtime"]), default=None)


def _way(end: Key, parents: Mapping[Key, Key]) -> list[Key]:
    """Return the candidates from the first one after the original to `end`."""
    way = [end]
    while parents[way[0]] in parents:
        way.insert(0, parents[way[0]])
    return way


def _hop(before: Key, row: Row, metric: str, drop: Drop | None) -> Hop:
    return Hop(
        before=before,
        after=key_of(row),
        agreement=row["agreement"],
        # A run of an older version of burnish has no such column.
        logit_difference=row.get("logit_difference"),
        score=row[metric],
        drop=drop,
    )


def costly(way: Sequence[Hop], allowed: float) -> Hop | None:
    """Return the first hop that loses more than half of the allowed drop, None where none does."""
    return next((hop for hop in way if hop.costs(allowed)), None)


def place(key: Key) -> str:
    """Return a candidate in words."""
    return "{} on {}, {}".format(*key)


def sentence(way: Sequence[Hop], allowed: float, layers: pl.DataFrame | pl.LazyFrame | None = None) -> str:
    """Return which hop loses more than its share, and the layers responsible where the table `layers` has them.

    It is empty where no hop does.
    """
    hop = costly(way, allowed)
    if hop is None or hop.drop is None:
        return ""
    return (
        f"More than half of the allowed drop of {exact_points(allowed)} is lost in one hop, from {place(hop.before)} "
        f"to {place(hop.after)}: {drop_words(drop_columns(hop.drop))}.{_responsible(hop.after, layers)}"
    )


def _responsible(key: Key, layers: pl.DataFrame | pl.LazyFrame | None) -> str:
    """Return a sentence on the layers that an int8 form loses most by; empty where they were not ranked."""
    import polars as pl

    if layers is None:
        return ""
    variant, runtime, _ = key
    ranked = layers.lazy().filter(pl.col("form") == variant, pl.col("saved") > 0, pl.col("latency").is_not_null())
    # Layers were ranked in several runtimes: in the one of the row, if in that one.
    own = ranked.with_columns(other=pl.col("runtime") != runtime).sort("other", "saved", descending=[False, True])
    blocks = list(dict.fromkeys(own.select("block").collect()["block"].to_list()))[:MOST_LAYERS]
    return f" The layers that lose most there are {', '.join(blocks)} (table layers)." if blocks else ""

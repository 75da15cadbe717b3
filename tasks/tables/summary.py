"""The summary: one table of every candidate, and the winner under the study's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.measure.intervals import Rounds, compare_rounds, rounds_of
from tasks.tables import frames, hops, reasons
from tasks.tables.evidence import evidence
from tasks.tables.figures import AGREEMENT
from tasks.tables.goals import cost
from tasks.tables.losses import why_not
from tasks.tables.outcome import Outcome
from tasks.tables.pairs import drop_columns, drops, key_of
from tasks.tables.rule import KEY, accurate, find_reference, may_win, on_front, passed_over
from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Study
    from tasks.tables.outcome import Comparison
    from tasks.tables.pairs import Key
    from tasks.tables.rule import Row

PARTS = ("variants", "benchmarks", "throughputs", "evaluations", "memory")
"""Tables that are joined into the summary."""
BESIDE = ("datasets", "predictions", "layers")
"""Tables that show how sure it is that a drop is within the rule, why the rule may be met vacuously, and which layers
lose accuracy.

Without them the rows of the summary have no interval of the drop, and under `select.confidence` = "point" all else is
the same.
"""
Place = tuple[str, str, str, int]
"""Where a row was measured: variant, runtime, device, batch size."""


@dataclass(frozen=True)
class Summary:
    """The table `summary`, its rows that play a part, and the reasons."""

    frame: pl.DataFrame
    winner: Row | None
    runner_up: Row | None
    reference: Row | None
    sentences: tuple[str, ...]
    """The winner and why it is the winner. An entry is a few plain sentences about one subject."""
    provisional: Row | None = None
    """Where there is no winner: the best marked row that could win but for its mark."""
    cautions: tuple[str, ...] = ()
    """Why the accuracy rule is met vacuously (tasks/tables/evidence.py)."""

    @property
    def reason(self) -> str:
        """`cautions` and `sentences` as one text."""
        return " ".join((*self.cautions, *self.sentences))


def summarise(tables: Mapping[str, Any], study: Study) -> Summary:
    """Join the tables of `PARTS` into the summary, compare every row with the reference and apply the study's rule.

    The reference is the most accurate (study.select.metric) fp32 unpruned model in PyTorch eager, on the study's device
    at the compared batch size. Latencies are compared with the reference model's row of the same device and batch size.
    The winner is the row that is best in the study's measure (study.select.by) at the compared batch size, among those
    that may win. Tables of `BESIDE` may be lazy or missing.
    """
    rows = _joined(tables)
    rounds = _latency_rounds(tables)
    ranking_rounds = _ranking_rounds(tables, study, rounds)
    batch_size = compared_batch(tables["benchmarks"], study)
    reference = find_reference(rows, study, batch_size)
    metric = AGREEMENT if study.data.unlabelled else study.select.metric
    paired = drops(tables, key_of(reference), metric) if reference is not None else {}
    if reference is not None and study.data.unlabelled:
        # The original agrees with itself, also where rounding turns an image that it gives two classes alike.
        reference |= dict.fromkeys(("top1", "top1_low", "top1_high"), 1.0)
    lost = {key: drop_columns(drop, study.select.max_drop) for key, drop in paired.items()}
    _judge(rows, study, reference, rounds=rounds, lost=lost)
    winner, runner_up = _best_two(rows, study, batch_size)
    provisional = None if winner is not None else _provisional(rows, study, batch_size, reference)
    # Where a row plays several parts, the last one of this list is shown.
    parts = {"reference": reference, "runner-up": runner_up, "winner": winner, "provisional": provisional}
    for role, row in parts.items():
        if row is not None:
            row["role"] = role
    _say_why_not(rows, study, winner, batch_size=batch_size, rounds=ranking_rounds)
    chosen = winner or provisional
    lossy = _too_lossy(rows, study, winner, batch_size)
    shown = evidence(tables, study, reference, paired.get(key_of(chosen)) if chosen else None)
    outcome = Outcome(
        rows=rows,
        study=study,
        batch_size=batch_size,
        reference=reference,
        winner=winner,
        runner_up=runner_up,
        provisional=provisional,
        gain=_compared(reference, chosen, ranking_rounds),
        comparison=_compared(runner_up, winner, ranking_rounds),
        drop=shown.drop,
        hop=_costly_hop(tables, study, chosen) or _costly_hop(tables, study, lossy),
    )
    return Summary(
        frame=frames.frame("summary", rows),
        winner=winner,
        runner_up=runner_up,
        reference=reference,
        sentences=reasons.sentences(outcome),
        provisional=provisional,
        cautions=shown.cautions,
    )


def _latency_rounds(tables: Mapping[str, pl.DataFrame]) -> dict[Place, Rounds]:
    """Return the rounds in which the latency of each row was measured."""
    rows = tables["benchmarks"].iter_rows(named=True)
    return {_place(row): rounds_of(row, row["processes"]) for row in rows if row["status"] == "ok"}


def _ranking_rounds(
    tables: Mapping[str, pl.DataFrame], study: Study, latency_rounds: dict[Place, Rounds]
) -> Mapping[Place, Rounds]:
    """Return the rounds of the measure that ranks; none for sizes and memory, which are compared as they are."""
    if study.select.by == "latency":
        return latency_rounds
    if study.select.by != "throughput":
        return {}
    processes = {_place(row): row["processes"] for row in tables["benchmarks"].iter_rows(named=True)}
    rows = tables["throughputs"].iter_rows(named=True)
    return {_place(row): rounds_of(row, processes.get(_place(row)) or 1) for row in rows if row["status"] == "ok"}


def _compared(before: Row | None, after: Row | None, rounds: Mapping[Place, Rounds]) -> Comparison | None:
    """Return how many times as good as the first of two rows the second is; None where rounds do not say it."""
    if before is None or after is None:
        return None
    return compare_rounds(rounds.get(_place(before)), rounds.get(_place(after)))


def compared_batch(benchmarks: pl.DataFrame, study: Study) -> int:
    """Return the batch size at which candidates are ranked: the study's, or the smallest measured."""
    if study.select.batch_size is not None:
        return study.select.batch_size
    return min(benchmarks["batch_size"].to_list(), default=min(study.benchmark.batch_sizes))


def _judge(
    rows: list[Row],
    study: Study,
    reference: Row | None,
    *,
    rounds: Mapping[Place, Rounds],
    lost: Mapping[Key, Row],
) -> None:
    """Fill in the columns of each row that compare it with the reference, with the rule and with the other rows.

    Parameters
    ----------
    lost
        Candidate -> its columns on how much less accurate than the reference it is on the same images.
    """
    metric = study.select.metric
    for row in rows:
        row["drop"] = None
        if reference is not None and row[metric] is not None:
            row.update(lost.get(key_of(row), {}))
            row["drop"] = reference[metric] - row[metric]
            if key_of(row) == key_of(reference):
                row["within"] = "shown"
        row["eligible"] = may_win(row, study)
        row["pareto"] = on_front(row, rows, metric)
        if reference is not None:
            base = (reference["variant"], reference["runtime"], row["device"], row["batch_size"])
            row.update(_speedup(rounds.get(base), rounds.get(_place(row)), same=base == _place(row)))


def _say_why_not(
    rows: list[Row], study: Study, winner: Row | None, *, batch_size: int, rounds: Mapping[Place, Rounds]
) -> None:
    """Fill in why each row of the compared batch size is not the winner."""
    best = rounds.get(_place(winner)) if winner is not None else None
    for row in rows:
        if row["batch_size"] == batch_size:
            row["why_not"] = why_not(row, study, winner, own=rounds.get(_place(row)), best=best)


def _too_lossy(rows: list[Row], study: Study, winner: Row | None, batch_size: int) -> Row | None:
    """Return the best row of a batch size that loses too much accuracy, None where the winner is better."""
    lossy = [
        row
        for row in rows
        if row["batch_size"] == batch_size
        and row["status"] == "ok"
        and row["drop"] is not None
        and not accurate(row, study)
        and _rank(row, study) < (_rank(winner, study) if winner is not None else (math.inf,))
    ]
    return min(lossy, key=lambda row: _rank(row, study), default=None)


def _costly_hop(tables: Mapping[str, Any], study: Study, row: Row | None) -> str:
    """Return at which hop on the way to a row most of the allowed drop is lost, in words; empty where at none."""
    if row is None:
        return ""
    key = key_of(row)
    ways = hops.paths(tables, study.select.metric, [key])
    return hops.sentence(ways[key], study.select.max_drop, tables.get("layers")) if key in ways else ""


def _best_two(rows: list[Row], study: Study, batch_size: int) -> tuple[Row | None, Row | None]:
    """Return winner and runner-up: the two rows that are best in the study's measure, of those that may win."""
    ranked = sorted(
        (row for row in rows if row["eligible"] and row["batch_size"] == batch_size),
        key=lambda row: (*_rank(row, study), -row[study.select.metric], _place(row)),
    )
    return ranked[0] if ranked else None, ranked[1] if len(ranked) > 1 else None


def _provisional(rows: list[Row], study: Study, batch_size: int, reference: Row | None) -> Row | None:
    """Return the best marked row that could win but for its mark, None where there is none."""
    # The reference is what others are compared with: it is no provisional best of its own, nor is what is slower.
    rivals = [
        row
        for row in passed_over(rows, study, batch_size)
        if row is not reference and (reference is None or _rank(row, study) < _rank(reference, study))
    ]
    return min(rivals, key=lambda row: _rank(row, study), default=None)


def _rank(row: Row, study: Study) -> tuple[float, float]:
    """Return what a row is ranked by: its cost in the study's measure, then its latency. The smaller, the better."""
    return cost(row, study.select.by), cost(row, "latency")


def _place(row: Mapping[str, Any]) -> Place:
    return row["variant"], row["runtime"], row["device"], row["batch_size"]


def _joined(tables: Mapping[str, pl.DataFrame]) -> list[Row]:
    """Return one row per row of `benchmarks`, with variant, quality, memory and throughput; absent ones are null."""
    columns = TABLES["summary"].columns
    variants = tables["variants"].drop("status", "error", "path", "sha256").rename({"name": "variant"})
    rates = tables["throughputs"].select(
        *KEY, "batch_size", throughput="images_per_second", throughput_conditions="conditions"
    )
    whole = (
        tables["benchmarks"]
        .join(variants, on="variant", how="left", validate="m:1", maintain_order="left")
        .join(tables["evaluations"].drop("parent"), on=KEY, how="left", validate="m:1", maintain_order="left")
        .join(tables["memory"], on=[*KEY, "batch_size"], how="left", validate="1:1", maintain_order="left")
        .join(rates, on=[*KEY, "batch_size"], how="left", validate="1:1", maintain_order="left")
    )
    return [{name: row.get(name) for name in columns} for row in whole.iter_rows(named=True)]


def _speedup(reference: Rounds | None, own: Rounds | None, same: bool) -> Row:
    found = (1.0, 1.0, 1.0, "indistinguishable") if same and own else compare_rounds(reference, own)
    return dict(zip(("speedup", "speedup_low", "speedup_high", "verdict"), found, strict=True)) if found else {}

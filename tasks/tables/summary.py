"""The summary: one table of every candidate, the winner under the study's rule, the reason for it, S2's CSV."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.machine.certificate import HURRIED
from tasks.measure.intervals import Rounds, compare_rounds, rounds_of
from tasks.tables import frames
from tasks.tables.evidence import Evidence, evidence
from tasks.tables.figures import METRIC_NAMES, interval, resolved, sig, words
from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Study

KEY = ("variant", "runtime", "device")
PARTS = ("variants", "benchmarks", "throughputs", "evaluations", "memory")
"""Tables that the summary is made of."""
BESIDE = ("datasets", "predictions")
"""Tables that say what the images can show; the summary is the same without them."""
TRAINING = ("train", "tune", "augment")
EPS = 1e-9

Row = dict[str, Any]
Place = tuple[str, str, str, int]
"""Variant, runtime, device, batch size."""


@dataclass(frozen=True)
class Summary:
    """The `summary` frame, its rows that play a part, and why."""

    frame: pl.DataFrame
    winner: Row | None
    runner_up: Row | None
    reference: Row | None
    sentences: tuple[str, ...]
    """The winner and why it is that one, a few sentences of plain English each."""
    provisional: Row | None = None
    """Where there is no winner: the fastest row that is accurate enough, which was measured under bad conditions."""
    cautions: tuple[str, ...] = ()
    """Why the accuracy rule is met vacuously (tasks/tables/evidence.py)."""

    @property
    def reason(self) -> str:
        """`cautions`, then `sentences`."""
        return " ".join((*self.cautions, *self.sentences))


def summarise(tables: Mapping[str, Any], study: Study) -> Summary:
    """Join the tables of `PARTS` into the summary, compare every row with the reference and apply the study's rule.

    The reference is the most accurate (study.select.metric) fp32 unpruned model in PyTorch eager, on the study's device
    at the compared batch size. Latencies are compared with the reference model's row of the same device and batch size.
    The winner is the eligible row of the smallest median latency at the compared batch size. Tables of `BESIDE` may be
    lazy or missing: they say what the images can show of the rule.
    """
    rows = _joined(tables)
    rounds = {
        _place(row): rounds_of(row, row["processes"])
        for row in tables["benchmarks"].iter_rows(named=True)
        if row["status"] == "ok"
    }
    metric, batch = study.select.metric, compared_batch(tables["benchmarks"], study)
    reference = _reference(rows, study, batch)
    for row in rows:
        row["drop"] = None
        if reference is not None and row[metric] is not None:
            row["drop"] = reference[metric] - row[metric]
        row["eligible"] = (
            row["status"] == "ok"
            and row["conditions"] is None
            and row["latency_median_ms"] is not None
            and _accurate(row, study)
        )
        row["pareto"] = _on_front(row, rows, metric)
        if reference is not None:
            base = (reference["variant"], reference["runtime"], row["device"], row["batch_size"])
            row.update(_speedup(rounds.get(base), rounds.get(_place(row)), same=base == _place(row)))
    ranked = sorted(
        (row for row in rows if row["eligible"] and row["batch_size"] == batch),
        key=lambda row: (row["latency_median_ms"], -row[metric], _place(row)),
    )
    winner, runner_up = (*ranked, None, None)[:2]
    # The reference is what others are compared with: it is no provisional best of its own.
    rivals = [row for row in _passed_over(rows, study, batch) if row is not reference]
    provisional = min(rivals, key=_milliseconds, default=None) if winner is None else None
    for role, part in (
        ("reference", reference),
        ("runner-up", runner_up),
        ("winner", winner),
        ("provisional", provisional),
    ):
        if part is not None:
            part["role"] = role
    shown = evidence(tables, study, reference, winner or provisional)
    sentences = _reason(rows, study, rounds, reference, (winner, runner_up, provisional), shown)
    frame = frames.frame("summary", rows)
    return Summary(frame, winner, runner_up, reference, tuple(filter(None, sentences)), provisional, shown.cautions)


def compared_batch(benchmarks: pl.DataFrame, study: Study) -> int:
    """The batch size at which candidates are ranked: the study's, or the smallest measured."""
    if study.select.batch_size is not None:
        return study.select.batch_size
    return min(benchmarks["batch_size"].to_list(), default=min(study.benchmark.batch_sizes))


def _accurate(row: Row, study: Study) -> bool:
    return row["drop"] is not None and row["drop"] <= study.select.max_drop + EPS


def _place(row: Mapping[str, Any]) -> Place:
    return row["variant"], row["runtime"], row["device"], row["batch_size"]


def _joined(tables: Mapping[str, pl.DataFrame]) -> list[Row]:
    """A row a benchmark, with the columns of the variant, its quality and its memory; absent ones are null."""
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


def _reference(rows: list[Row], study: Study, batch: int) -> Row | None:
    """The most accurate eager fp32 unpruned row, on the first device of the study that has one (auto: a GPU first)."""
    metric = study.select.metric
    found = [
        row
        for row in rows
        if row["status"] == "ok"
        and row["batch_size"] == batch
        and row["runtime"] == "eager"
        and row["precision"] == "fp32"
        and row["stage"] in TRAINING
        and row[metric] is not None
    ]
    devices = {row["device"]: None for row in found}
    for wanted in study.benchmark.devices:
        first = sorted(devices, key=lambda d: (d == "cpu", d)) if wanted == "auto" else [wanted]
        here = [row for row in found if row["device"] in first[:1]]
        if here:
            return min(here, key=lambda row: (-row[metric], row["latency_median_ms"], row["variant"]))
    return None


def _on_front(row: Row, rows: list[Row], metric: str) -> bool:
    """Whether no trustworthy row of the same batch size and device is at least as fast and as accurate, and better."""

    def point(other: Row) -> tuple[float, float] | None:
        fit = other["status"] == "ok" and other["conditions"] is None and other[metric] is not None
        return (other["latency_median_ms"], -other[metric]) if fit else None

    own = point(row)
    if own is None:
        return False
    rivals = (point(r) for r in rows if (r["device"], r["batch_size"]) == (row["device"], row["batch_size"]))
    return not any(p and p != own and p[0] <= own[0] and p[1] <= own[1] for p in rivals)


def _speedup(reference: Rounds | None, own: Rounds | None, same: bool) -> Row:
    found = (1.0, 1.0, 1.0, "indistinguishable") if same and own else compare_rounds(reference, own)
    return dict(zip(("speedup", "speedup_low", "speedup_high", "verdict"), found, strict=True)) if found else {}


def _reason(
    rows: list[Row],
    study: Study,
    rounds: Mapping[Place, Rounds],
    reference: Row | None,
    best: tuple[Row | None, ...],
    shown: Evidence,
) -> tuple[str, ...]:
    """A few plain sentences each, or nothing; `best`: winner, runner-up and provisional best."""
    winner, runner_up, provisional = best
    batch = study.select.batch_size or min((row["batch_size"] for row in rows), default=1)
    lost = _lost_references(rows, study, batch)
    if reference is None:
        return (_no_reference(lost),)
    other = _other_reference(lost)
    if winner is None:
        if provisional is None:
            alone = _reference_alone(reference, study)
            return _no_winner(rows, study, reference, "No winner yet" if alone else "No winner"), alone, other
        return (
            _no_winner(rows, study, reference, "No winner yet"),
            _provisional(rows, study, reference, provisional),
            shown.drop,
            other,
        )
    if winner is reference:
        first = (
            f"{words(winner)}: {_ms(winner)} median, {_score(winner, study)}. It is the reference itself: "
            "no other form that may win has a smaller median."
        )
    else:
        first = f"{_compared(winner, reference, study)}."
    gate = "The held-out images decided only who passes this accuracy rule, not the order."
    ahead = _passed_over(rows, study, winner["batch_size"], winner["latency_median_ms"])
    return first, shown.drop, _second(winner, runner_up, rounds), _marked_ahead(ahead, study), other, gate


def _score(row: Row, study: Study) -> str:
    return f"{METRIC_NAMES[study.select.metric]} {row[study.select.metric]:.3f}"


def _compared(row: Row, reference: Row, study: Study) -> str:
    """A row's figures beside the reference's."""
    return (
        f"{words(row)}: {_ms(row)} median{_against(row, reference)}, {_score(row, study)} against "
        f"{reference[study.select.metric]:.3f}, within the allowed drop of {study.select.max_drop:g}"
    )


def _no_winner(rows: list[Row], study: Study, reference: Row, so: str) -> str:
    """What removed every row, counted."""
    removed = Counter(_why_not(row) for row in rows if row["batch_size"] == reference["batch_size"])
    counts = ", ".join(f"{n} {why}" for why, n in removed.most_common())
    whole = f"{so}: none of the {removed.total()} rows at batch {reference['batch_size']} may win ({counts})."
    return (
        f"{whole} A winner may lose {study.select.max_drop:g} of the reference's {_score(reference, study)} "
        f"({words(reference)})."
    )


def _lost_references(rows: list[Row], study: Study, batch: int) -> list[Row]:
    """Rows that could have been the reference, but were not measured whole: a worker was killed, for example."""
    return [
        row
        for row in rows
        if row["batch_size"] == batch
        and row["runtime"] == "eager"
        and row["precision"] == "fp32"
        and row["stage"] in TRAINING
        and row["status"] != "skipped"
        and (row["status"] != "ok" or row[study.select.metric] is None)
    ]


def _told_lost(lost: list[Row]) -> str:
    """Who could not be measured, and why."""
    return "; ".join(f"{words(row)}: {row['error'] or 'its accuracy could not be measured'}" for row in lost)


def _no_reference(lost: list[Row]) -> str:
    if lost:
        return (
            "No winner: the reference for the accuracy rule, an unpruned fp32 model in PyTorch eager, could not be "
            f"measured ({_told_lost(lost)})."
        )
    return (
        "No winner: no unpruned fp32 model was measured in PyTorch eager at the compared batch size, so there "
        "is no reference for the accuracy rule."
    )


def _other_reference(lost: list[Row]) -> str:
    return f"Another reference might have been taken if it had been measured: {_told_lost(lost)}." if lost else ""


def _reference_alone(reference: Row, study: Study) -> str:
    """What is to be done where no other row is accurate enough, and the reference cannot win as it was measured."""
    if reference["conditions"] is None:
        return ""
    return (
        f"No row but the reference itself is accurate enough, and it was measured under bad conditions "
        f"({reference['conditions']}). {_to_confirm(reference, study)}"
    )


def _provisional(rows: list[Row], study: Study, reference: Row, best: Row) -> str:
    """The provisional best, why it is no winner yet, and what would confirm it."""
    others = len(_passed_over(rows, study, best["batch_size"])) - 1
    likewise = f"; so were {others} more that are accurate enough" if others else ""
    return (
        f"Provisional best: {_compared(best, reference, study)}. It was measured under bad conditions "
        f"({best['conditions']}{likewise}). {_to_confirm(best, study)}"
    )


def _to_confirm(row: Row, study: Study) -> str:
    """What the user can do about the bad conditions of a row."""
    minutes = study.benchmark.minutes
    hurried = [HURRIED in cause for cause in row["conditions"].split("; ")]
    quiet = " while nothing else runs on this machine"
    if minutes is None or not any(hurried):
        return f"To confirm it, run the same command with --again benchmark{quiet}."
    return (
        f"{minutes:g} minutes (benchmark.minutes) were too few: to confirm it, run the same command with "
        f"--set benchmark.minutes={2 * minutes:g}{'' if all(hurried) else quiet}."
    )


def _passed_over(rows: list[Row], study: Study, batch_size: int, winners_ms: float = math.inf) -> list[Row]:
    """Rows that would have won, had they been measured under good conditions."""
    return [
        row
        for row in rows
        if row["batch_size"] == batch_size
        and row["conditions"] is not None
        and row["status"] == "ok"
        and _accurate(row, study)
        and row["latency_median_ms"] is not None
        and row["latency_median_ms"] < winners_ms
    ]


def _milliseconds(row: Row) -> float:
    return float(row["latency_median_ms"])


def _marked_ahead(faster: list[Row], study: Study) -> str:
    """A sentence on the rows that `_passed_over` found ahead of the winner."""
    if not faster:
        return ""
    best = min(faster, key=_milliseconds)
    likewise = f"; {len(faster) - 1} more likewise" if len(faster) > 1 else ""
    return (
        f"The fastest that is accurate enough was measured under bad conditions and cannot win: {words(best)}, "
        f"{_ms(best)} ({best['conditions']}{likewise}). {_to_confirm(best, study)}"
    )


def _against(winner: Row, reference: Row) -> str:
    if winner["speedup"] is None:
        return ""
    how = {"faster": "", "slower": "", "indistinguishable": ", not distinguishable from it"}[winner["verdict"]]
    if not resolved(winner["speedup_low"], winner["speedup_high"]):
        why = interval(winner["speedup_low"], winner["speedup_high"])
        return f" (the reference's {_ms(reference)}; how many times as fast is not known: {why})"
    base = f"eager, {_ms(reference)}" if winner["device"] == reference["device"] else f"eager on {winner['device']}"
    times = _times(winner["speedup"], winner["speedup_low"], winner["speedup_high"])
    return f", {times} as fast as the reference ({base}){how}"


def _times(ratio: float, low: float, high: float | None) -> str:
    return f"{sig(ratio)} ({interval(low, high, ' to ')}) times"


def _second(winner: Row, runner_up: Row | None, rounds: Mapping[Place, Rounds]) -> str:
    if runner_up is None:
        return "No other row passed, so there is no runner-up."
    text = f"Runner-up: {words(runner_up)}, {_ms(runner_up)}"
    found = compare_rounds(rounds[_place(runner_up)], rounds[_place(winner)])
    if found is None:
        return f"{text}; their rounds do not pair, so the two were not compared."
    ratio, low, high, verdict = found
    if verdict == "indistinguishable":
        why = f"{_times(ratio, low, high)} as fast" if resolved(low, high) else interval(low, high)
        return f"{text}; the two are not distinguishable ({why}), so either may be used."
    how = " by paired rounds, although its median of all samples is the smaller one" if verdict == "slower" else ""
    return f"{text}; the winner is {_times(ratio, low, high)} as fast{how}."


def _why_not(row: Row) -> str:
    if row["status"] != "ok":
        return f"{row['status']}"
    if row["conditions"] is not None:
        return "measured under bad conditions"
    if row["drop"] is None or row["latency_median_ms"] is None:
        return "without an accuracy or a latency"
    return "lost more accuracy than allowed"


def _ms(row: Row) -> str:
    return f"{sig(row['latency_median_ms'])} ms"

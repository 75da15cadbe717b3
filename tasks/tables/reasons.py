"""Say in plain sentences why the winner is the winner, or why there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.machine.certificate import HURRIED
from tasks.tables.figures import METRIC_NAMES, interval, resolved, sig, words
from tasks.tables.rule import lost_references, passed_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records import Study
    from tasks.tables.rule import Row


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a study, as far as the sentences are about it."""

    rows: Sequence[Row]
    """All rows of the summary."""
    study: Study
    batch_size: int
    """The batch size at which candidates are compared."""
    reference: Row | None
    winner: Row | None
    runner_up: Row | None
    provisional: Row | None
    comparison: tuple[float, float, float | None, str] | None
    """Winner compared with runner-up by paired rounds: how many times as fast the winner is, the ends of the 99 %
    interval, the verdict. None where there are not both, or where their rounds do not pair."""
    drop: str
    """What the test images show of the winner's drop (tasks/tables/evidence.py)."""


def sentences(outcome: Outcome) -> tuple[str, ...]:
    """Return the reasons for the outcome. An entry is a few sentences about one subject."""
    lost = lost_references(outcome.rows, outcome.study, outcome.batch_size)
    if outcome.reference is None:
        return (_no_reference(lost),)
    if outcome.winner is None:
        parts = [*_without_winner(outcome, outcome.reference), _other_reference(lost)]
    else:
        parts = [
            *_with_winner(outcome, outcome.reference, outcome.winner),
            _other_reference(lost),
            "The held-out images decided only who passes this accuracy rule, not the order.",
        ]
    return tuple(part for part in parts if part)


def _with_winner(outcome: Outcome, reference: Row, winner: Row) -> list[str]:
    study = outcome.study
    if winner is reference:
        first = (
            f"{words(winner)}: {_ms(winner)} median, {_score(winner, study)}. It is the reference itself: "
            "no other form that may win has a smaller median."
        )
    else:
        first = f"{_beside_reference(winner, reference, study)}."
    marked = passed_over(outcome.rows, study, winner["batch_size"], below_ms=winner["latency_median_ms"])
    return [first, outcome.drop, _about_runner_up(outcome), _marked_ahead(marked, study)]


def _without_winner(outcome: Outcome, reference: Row) -> list[str]:
    study = outcome.study
    if outcome.provisional is not None:
        return [
            _no_winner(outcome, reference, "No winner yet"),
            _provisional(outcome, reference, outcome.provisional),
            outcome.drop,
        ]
    alone = _reference_alone(reference, study)
    return [_no_winner(outcome, reference, "No winner yet" if alone else "No winner"), alone]


def _no_winner(outcome: Outcome, reference: Row, verdict: str) -> str:
    """Return how many rows may not win, counted by the reason."""
    removed = Counter(_obstacle(row) for row in outcome.rows if row["batch_size"] == reference["batch_size"])
    counts = ", ".join(f"{number} {obstacle}" for obstacle, number in removed.most_common())
    return (
        f"{verdict}: none of the {removed.total()} rows at batch {reference['batch_size']} may win ({counts}). "
        f"A winner may lose {outcome.study.select.max_drop:g} of the reference's {_score(reference, outcome.study)} "
        f"({words(reference)})."
    )


def _obstacle(row: Row) -> str:
    """Return why a row may not win."""
    if row["status"] != "ok":
        return str(row["status"])
    if row["conditions"] is not None:
        return "measured under bad conditions"
    if row["drop"] is None or row["latency_median_ms"] is None:
        return "without an accuracy or a latency"
    return "lost more accuracy than allowed"


def _no_reference(lost: Sequence[Row]) -> str:
    if lost:
        return (
            "No winner: the reference for the accuracy rule, an unpruned fp32 model in PyTorch eager, could not be "
            f"measured ({_errors(lost)})."
        )
    return (
        "No winner: no unpruned fp32 model was measured in PyTorch eager at the compared batch size, so there "
        "is no reference for the accuracy rule."
    )


def _other_reference(lost: Sequence[Row]) -> str:
    return f"Another reference might have been taken if it had been measured: {_errors(lost)}." if lost else ""


def _errors(lost: Sequence[Row]) -> str:
    """Return which rows could not be measured, each with its error."""
    return "; ".join(f"{words(row)}: {row['error'] or 'its accuracy could not be measured'}" for row in lost)


def _reference_alone(reference: Row, study: Study) -> str:
    """Return what to do where only the reference is accurate enough, and is marked. Empty where it is not marked."""
    if reference["conditions"] is None:
        return ""
    return (
        f"No row but the reference itself is accurate enough, and it was measured under bad conditions "
        f"({reference['conditions']}). {_how_to_confirm(reference, study)}"
    )


def _provisional(outcome: Outcome, reference: Row, best: Row) -> str:
    """Return which row is the provisional best, why it is no winner yet, and what would confirm it."""
    others = len(passed_over(outcome.rows, outcome.study, best["batch_size"])) - 1
    likewise = f"; so were {others} more that are accurate enough" if others else ""
    return (
        f"Provisional best: {_beside_reference(best, reference, outcome.study)}. It was measured under bad conditions "
        f"({best['conditions']}{likewise}). {_how_to_confirm(best, outcome.study)}"
    )


def _marked_ahead(marked: Sequence[Row], study: Study) -> str:
    """Return a sentence on the marked rows that would have won in place of the winner; empty where there are none."""
    if not marked:
        return ""
    best = min(marked, key=lambda row: float(row["latency_median_ms"]))
    likewise = f"; so were {len(marked) - 1} more" if len(marked) > 1 else ""
    return (
        f"The fastest that is accurate enough was measured under bad conditions and cannot win: {words(best)}, "
        f"{_ms(best)} ({best['conditions']}{likewise}). {_how_to_confirm(best, study)}"
    )


def _how_to_confirm(row: Row, study: Study) -> str:
    """Return what the user can do about the bad conditions of a row: more time, a quieter machine, or both."""
    minutes = study.benchmark.minutes
    hurried = [HURRIED in condition for condition in row["conditions"].split("; ")]
    quiet = " while nothing else runs on this machine"
    if minutes is None or not any(hurried):
        return f"To confirm it, run the same command with --again benchmark{quiet}."
    return (
        f"{minutes:g} minutes (benchmark.minutes) were too few: to confirm it, run the same command with "
        f"--set benchmark.minutes={2 * minutes:g}{'' if all(hurried) else quiet}."
    )


def _about_runner_up(outcome: Outcome) -> str:
    runner_up = outcome.runner_up
    if runner_up is None:
        return "No other row passed, so there is no runner-up."
    text = f"Runner-up: {words(runner_up)}, {_ms(runner_up)}"
    if outcome.comparison is None:
        return f"{text}; their rounds do not pair, so the two were not compared."
    ratio, low, high, verdict = outcome.comparison
    if verdict == "indistinguishable":
        evidence = f"{_times(ratio, low, high)} as fast" if resolved(low, high) else interval(low, high)
        return f"{text}; the two are not distinguishable ({evidence}), so either may be used."
    how = " by paired rounds, although its median of all samples is the smaller one" if verdict == "slower" else ""
    return f"{text}; the winner is {_times(ratio, low, high)} as fast{how}."


def _beside_reference(row: Row, reference: Row, study: Study) -> str:
    """Return a row's latency and score beside the reference's."""
    return (
        f"{words(row)}: {_ms(row)} median{_speed_up(row, reference)}, {_score(row, study)} against "
        f"{reference[study.select.metric]:.3f}, within the allowed drop of {study.select.max_drop:g}"
    )


def _speed_up(row: Row, reference: Row) -> str:
    """Return how many times as fast as the reference a row is, with its interval; empty where it was not compared."""
    if row["speedup"] is None:
        return ""
    marked = ""
    if reference["conditions"] is not None and row["device"] == reference["device"]:
        marked = f", itself measured under bad conditions: {reference['conditions']}"
    if not resolved(row["speedup_low"], row["speedup_high"]):
        why = interval(row["speedup_low"], row["speedup_high"])
        return f" (the reference's {_ms(reference)}{marked}; how many times as fast is not known: {why})"
    base = f"eager, {_ms(reference)}{marked}" if row["device"] == reference["device"] else f"eager on {row['device']}"
    times = _times(row["speedup"], row["speedup_low"], row["speedup_high"])
    doubt = ", not distinguishable from it" if row["verdict"] == "indistinguishable" else ""
    return f", {times} as fast as the reference ({base}){doubt}"


def _times(ratio: float, low: float, high: float | None) -> str:
    return f"{sig(ratio)} ({interval(low, high, ' to ')}) times"


def _score(row: Row, study: Study) -> str:
    return f"{METRIC_NAMES[study.select.metric]} {row[study.select.metric]:.3f}"


def _ms(row: Row) -> str:
    return f"{sig(row['latency_median_ms'])} ms"

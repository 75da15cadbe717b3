"""Say in plain sentences why the winner is the winner, or why there is none."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.machine.certificate import HURRIED
from tasks.tables.ahead import about_runner_up, beside_reference, figure, score
from tasks.tables.figures import enough, exact_points, words
from tasks.tables.goals import BEST, LIMITS, OVER, cost, doubts, exceeded, limits_in_words, measure, over_limit, written
from tasks.tables.rule import EPS, accurate, lost_references, over_limits, passed_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records import Select, Study
    from tasks.tables.outcome import Outcome
    from tasks.tables.rule import Row

SURELY = {
    "point": "",
    "likely": " and must be likely to lose no more (select.confidence)",
    "shown": " and must be shown to lose no more (select.confidence)",
}
"""Value of `select.confidence` -> how sure a winner's drop must be within the allowed one."""
BETTER = {
    "latency": "has a smaller median",
    "throughput": "has a higher throughput",
    "size": "is smaller",
    "memory": "takes less memory",
}
"""Measure -> what a better candidate would be like."""


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
            f"The held-out images decided only who passes this {_rule(outcome.study)}, not the order.",
        ]
    return tuple(part for part in parts if part)


def _rule(study: Study) -> str:
    return "rule on agreement" if study.data.unlabelled else "accuracy rule"


def _with_winner(outcome: Outcome, reference: Row, winner: Row) -> list[str]:
    study = outcome.study
    by = study.select.by
    if winner is reference:
        first = (
            f"{words(winner)}: {figure(winner, by)}, {score(winner, study)}. It is the reference itself: "
            f"no other form that may win {BETTER[by]}."
        )
    else:
        first = f"{beside_reference(outcome, winner, reference)}."
    marked = passed_over(outcome.rows, study, winner["batch_size"], below=cost(winner, by))
    return [first, outcome.drop, outcome.hop, about_runner_up(outcome, winner), _marked_ahead(marked, study)]


def _without_winner(outcome: Outcome, reference: Row) -> list[str]:
    study = outcome.study
    if outcome.provisional is not None:
        return [
            _no_winner(outcome, reference, "No winner yet"),
            _provisional(outcome, reference, outcome.provisional),
            outcome.drop,
            outcome.hop,
        ]
    alone = _reference_alone(reference, study)
    verdict = "No winner yet" if alone else "No winner"
    return [_no_winner(outcome, reference, verdict), _limits_too_tight(outcome), outcome.hop, alone]


def _no_winner(outcome: Outcome, reference: Row, verdict: str) -> str:
    """Return how many rows may not win, counted by the reason."""
    compared = [row for row in outcome.rows if row["batch_size"] == reference["batch_size"]]
    select = outcome.study.select
    removed = Counter(_obstacle(row, outcome.study) for row in compared)
    counts = ", ".join(f"{number} {obstacle}" for obstacle, number in removed.most_common())
    return (
        f"{verdict}: none of the {removed.total()} rows at batch {reference['batch_size']} may win ({counts}). "
        f"A winner may lose {exact_points(select.max_drop)} of the reference's "
        f"{score(reference, outcome.study)} ({words(reference)}){SURELY[select.confidence]}{_and_limits(select)}."
    )


def _and_limits(select: Select) -> str:
    """Return the limits of the study in words that follow the accuracy rule; empty where it has none."""
    limits = limits_in_words(select)
    return f", with at most {', '.join(limits)}" if limits else ""


def _obstacle(row: Row, study: Study) -> str:
    """Return why a row may not win."""
    select = study.select
    if row["status"] != "ok":
        return str(row["status"])
    if doubts(row, select) is not None:
        return "measured under bad conditions"
    if row["drop"] is None or measure(row, select.by) is None:
        return f"without an {'agreement' if study.data.unlabelled else 'accuracy'} or a {select.by}"
    if not accurate(row, study):
        lost = row["drop"] > select.max_drop + EPS
        too_much = "agree less than allowed" if study.data.unlabelled else "lost more accuracy than allowed"
        return too_much if lost else "not sure enough to keep the rule"
    over = exceeded(row, select)
    return OVER[LIMITS[max(over, key=lambda name: over[name])]]


def _limits_too_tight(outcome: Outcome) -> str:
    """Return which limit excludes most of the candidates that are accurate enough, and which comes nearest to keeping
    them all; empty where no limit excludes any."""
    select = outcome.study.select
    over = over_limits(outcome.rows, outcome.study, outcome.batch_size)
    if not over:
        return ""
    excluded = Counter(name for row in over for name in exceeded(row, select))
    name, number = excluded.most_common(1)[0]
    nearest = min(over, key=lambda row: (max(exceeded(row, select).values()), cost(row, select.by)))
    return (
        f"Of {len(over)} that {'is' if len(over) == 1 else 'are'} {enough(outcome.study)}, the limit of {LIMITS[name]} "
        f"(select.{name} = {getattr(select, name):g}) excludes {number}. The nearest is {words(nearest)}: "
        f"{', '.join(over_limit(nearest, select))}."
    )


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
    """Return what to do where nothing is better than the reference, which is marked. Empty where it is not marked."""
    conditions = doubts(reference, study.select)
    if conditions is None or exceeded(reference, study.select):
        return ""
    within = " and keeps the limits" if limits_in_words(study.select) else ""
    return (
        f"No other row that is {enough(study)}{within} {BETTER[study.select.by]} than the reference, which was "
        f"measured under bad conditions ({conditions}). {_how_to_confirm(conditions, study)}"
    )


def _provisional(outcome: Outcome, reference: Row, best: Row) -> str:
    """Return which row is the provisional best, why it is no winner yet, and what would confirm it."""
    others = len(passed_over(outcome.rows, outcome.study, best["batch_size"])) - 1
    likewise = f"; so were {others} more that are {enough(outcome.study)}" if others else ""
    conditions = doubts(best, outcome.study.select) or ""
    return (
        f"Provisional best: {beside_reference(outcome, best, reference)}. It was measured under bad conditions "
        f"({conditions}{likewise}). {_how_to_confirm(conditions, outcome.study)}"
    )


def _marked_ahead(marked: Sequence[Row], study: Study) -> str:
    """Return a sentence on the marked rows that would have won in place of the winner; empty where there are none."""
    if not marked:
        return ""
    by = study.select.by
    best = min(marked, key=lambda row: cost(row, by))
    conditions = doubts(best, study.select) or ""
    likewise = f"; so were {len(marked) - 1} more" if len(marked) > 1 else ""
    return (
        f"The {BEST[by]} that is {enough(study)} was measured under bad conditions and cannot win: {words(best)}, "
        f"{written(best, by)} ({conditions}{likewise}). {_how_to_confirm(conditions, study)}"
    )


def _how_to_confirm(conditions: str, study: Study) -> str:
    """Return what the user can do about bad conditions: more time, a quieter machine, or both."""
    minutes = study.benchmark.minutes
    hurried = [HURRIED in condition for condition in conditions.split("; ")]
    quiet = " while nothing else runs on this machine"
    if minutes is None or not any(hurried):
        return f"To confirm it, run the same command with --again benchmark{quiet}."
    return (
        f"{minutes:g} minutes (benchmark.minutes) were too few: to confirm it, run the same command with "
        f"--set benchmark.minutes={2 * minutes:g}{'' if all(hurried) else quiet}."
    )

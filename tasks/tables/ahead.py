"""Say by how much the winner is ahead of the reference and of the runner-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.tables.figures import drop_words, exact_points, interval, metric_name, resolved, sig, words
from tasks.tables.goals import cost, doubts, limits_in_words, measure, written

if TYPE_CHECKING:
    from tasks.records import Study
    from tasks.tables.outcome import Comparison, Outcome
    from tasks.tables.rule import Row

DESPITE = {
    "latency": "its median of all samples is the smaller one",
    "throughput": "its mean over all rounds is the higher one",
}
"""Measure -> by what a winner is ahead that paired rounds call the worse one."""


def about_runner_up(outcome: Outcome, winner: Row) -> str:
    """Return which row is the runner-up, and by how much the winner is ahead of it."""
    runner_up = outcome.runner_up
    by = outcome.study.select.by
    if runner_up is None:
        return "No other row passed, so there is no runner-up."
    # The reference has no interval: it loses nothing against itself.
    lost = f", {drop_words(runner_up)}" if runner_up["drop_low"] is not None else ""
    text = f"Runner-up: {words(runner_up)}, {written(runner_up, by)}{lost}"
    if by in ("size", "memory"):
        if cost(runner_up, by) > cost(winner, by):
            return f"{text}."
        return f"{text}; of the two, which are equal in {by}, the winner has the smaller latency."
    if outcome.comparison is None:
        return f"{text}; their rounds do not pair, so the two were not compared."
    _, low, high, verdict = outcome.comparison
    if verdict == "indistinguishable":
        evidence = _times_as_good(outcome.comparison, by) if resolved(low, high) else interval(low, high)
        return f"{text}; the two are not distinguishable ({evidence}), so either may be used."
    how = ""
    if verdict == "slower":
        how = f" by paired rounds, although {DESPITE[by]}"
    return f"{text}; the winner {'is' if by == 'latency' else 'has'} {_times_as_good(outcome.comparison, by)}{how}."


def _times_as_good(comparison: Comparison, by: str) -> str:
    """Return how many times as good one candidate is as another, in words that follow "is" or "has"."""
    ratio, low, high, _ = comparison
    return f"{_times(ratio, low, high)} {'as fast' if by == 'latency' else 'the throughput'}"


def beside_reference(outcome: Outcome, row: Row, reference: Row) -> str:
    """Return a row's figure in the measure that ranks, and its score, beside the reference's."""
    select = outcome.study.select
    allowed = [f"the allowed drop of {exact_points(select.max_drop)}"]
    limits = limits_in_words(select)
    if limits:
        allowed.append(f"the limit{'s' if len(limits) > 1 else ''} of {', '.join(limits)}")
    ahead = f"{figure(row, select.by)}{_gain(outcome, row, reference)}"
    return (
        f"{words(row)}: {ahead}, {score(row, outcome.study)} against {reference[select.metric]:.3f}, "
        f"within {' and '.join(allowed)}"
    )


def _gain(outcome: Outcome, row: Row, reference: Row) -> str:
    """Return how much better than the reference a row is in the measure that ranks; empty where that is not known."""
    by = outcome.study.select.by
    if by == "latency":
        return _speed_up(row, reference)
    if measure(reference, by) is None:
        return ""
    if by != "throughput":
        return f" against the reference's {written(reference, by)}, {written(row, 'latency')} median"
    if outcome.gain is None or not resolved(outcome.gain[1], outcome.gain[2]):
        return f" against the reference's {written(reference, by)}"
    marked = doubts(reference, outcome.study.select)
    base = f"{written(reference, by)}{f', itself measured under bad conditions: {marked}' if marked else ''}"
    doubt = ", not distinguishable from it" if outcome.gain[3] == "indistinguishable" else ""
    return f", {_times_as_good(outcome.gain, by)} of the reference ({base}){doubt}"


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
    base = f"{reference['runtime']}, {_ms(reference)}{marked}"
    if row["device"] != reference["device"]:
        base = f"{reference['runtime']} on {row['device']}"
    times = _times(row["speedup"], row["speedup_low"], row["speedup_high"])
    doubt = ", not distinguishable from it" if row["verdict"] == "indistinguishable" else ""
    return f", {times} as fast as the reference ({base}){doubt}"


def _times(ratio: float, low: float, high: float | None) -> str:
    return f"{sig(ratio)} ({interval(low, high, ' to ')}) times"


def score(row: Row, study: Study) -> str:
    """Return a row's accuracy in the study's metric, in words."""
    return f"{metric_name(study)} {row[study.select.metric]:.3f}"


def _ms(row: Row) -> str:
    return written(row, "latency")


def figure(row: Row, by: str) -> str:
    """Return a row's figure in the measure that ranks, in words for the first place in a sentence."""
    return f"{written(row, by)}{' median' if by == 'latency' else ''}"

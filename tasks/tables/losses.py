"""Say of every candidate that is not the winner why it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.measure.intervals import compare_rounds
from tasks.tables.figures import drop_words, exact_points, interval, resolved, sig
from tasks.tables.goals import cost, doubts, measure, over_limit, written
from tasks.tables.rule import EPS, accurate

if TYPE_CHECKING:
    from tasks.measure.intervals import Rounds
    from tasks.records import Study
    from tasks.tables.rule import Row


def obstacles(row: Row, study: Study) -> list[str]:
    """Return why a row may not win, whatever the others are like; empty where it may."""
    if row["status"] != "ok":
        return [f"{row['status']}: {row['error']}"]
    reasons = []
    by = study.select.by
    if measure(row, by) is None:
        reasons.append(f"its {by} was not measured")
    if row["drop"] is None:
        reasons.append(f"its {'agreement' if study.data.unlabelled else 'accuracy'}, or the reference's, is not known")
    elif not accurate(row, study):
        reasons.append(_inaccurate(row, study))
    reasons += over_limit(row, study.select)
    conditions = doubts(row, study.select)
    if conditions is not None:
        reasons.append(f"measured under bad conditions: {conditions}")
    return reasons


def _inaccurate(row: Row, study: Study) -> str:
    """Return in words that a row loses too much, or that it is not sure enough that it does not."""
    allowed = exact_points(study.select.max_drop)
    if row["drop"] > study.select.max_drop + EPS:
        return f"loses more than the allowed {allowed}: {drop_words(row)}"
    surely = "likely" if study.select.confidence == "likely" else "shown"
    if row["within"] is None:
        return f"not {surely} to lose at most {allowed}, because its predictions are not known: {drop_words(row)}"
    return f"not {surely} to lose at most {allowed}: {drop_words(row)}"


def behind(row: Row, winner: Row, by: str, *, own: Rounds | None, best: Rounds | None) -> str:
    """Return by how much the winner is ahead of a row in the measure that ranks.

    Parameters
    ----------
    own, best
        The rounds of the row and of the winner in a measure that has rounds: latency and throughput.
    """
    if by in ("size", "memory"):
        return _beside(row, winner, by)
    figures = f"{written(row, by)} against {written(winner, by)}"
    comparison = compare_rounds(own, best)
    if comparison is None or not resolved(comparison[1], comparison[2]):
        return f"{figures} (their rounds say no more)"
    ratio, low, high, verdict = comparison
    if verdict == "indistinguishable":
        return f"its {'speed' if by == 'latency' else by} is not distinguishable from the winner's ({figures})"
    if by == "throughput":
        # The comparison says how many times the row's throughput the winner has.
        of_winner = interval(1 / high, 1 / low, " to ") if high is not None else interval(low, high)
        return f"has {sig(1 / ratio)} times the winner's throughput (99 %: {of_winner})"
    # The comparison says how many times as fast the winner is. Where that is below 1, the row is the faster one.
    if verdict == "slower" and high is not None:
        return f"{sig(1 / ratio)} times as fast as the winner (99 %: {interval(1 / high, 1 / low, ' to ')})"
    return f"takes {sig(ratio)} times as long as the winner (99 %: {interval(low, high, ' to ')})"


def _beside(row: Row, winner: Row, by: str) -> str:
    """Return a row's size or memory beside the winner's, and the latencies where the two are equal."""
    if cost(row, by) != cost(winner, by):
        return f"{written(row, by)} against {written(winner, by)}"
    latencies = f"{written(row, 'latency')} against {written(winner, 'latency')}"
    return f"its {by} is the winner's, {written(row, by)}, and its latency {latencies}"


def why_not(row: Row, study: Study, winner: Row | None, *, own: Rounds | None, best: Rounds | None) -> str | None:
    """Return why a row is not the winner, None for the winner itself. The parameters are those of `behind`."""
    if row is winner:
        return None
    reasons = obstacles(row, study)
    if winner is not None and row["status"] == "ok" and measure(row, study.select.by) is not None:
        reasons.append(behind(row, winner, study.select.by, own=own, best=best))
    return "; ".join(reasons) or None

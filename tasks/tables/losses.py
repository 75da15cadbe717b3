"""Say of every candidate that is not the winner why it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.measure.intervals import compare_rounds
from tasks.tables.figures import drop_words, exact_points, interval, resolved, sig
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
    if row["latency_median_ms"] is None:
        reasons.append("its latency was not measured")
    if row["drop"] is None:
        reasons.append("its accuracy, or the reference's, is not known")
    elif not accurate(row, study):
        reasons.append(_inaccurate(row, study))
    if row["conditions"] is not None:
        reasons.append(f"measured under bad conditions: {row['conditions']}")
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


def slower(row: Row, winner: Row, own: Rounds | None, best: Rounds | None) -> str:
    """Return how many times as long as the winner a row takes, by paired rounds where there are such.

    Parameters
    ----------
    own, best
        The rounds of the row and of the winner.
    """
    comparison = compare_rounds(own, best)
    median = f"{sig(row['latency_median_ms'])} ms against {sig(winner['latency_median_ms'])} ms"
    if comparison is None or not resolved(comparison[1], comparison[2]):
        return f"{median} (their rounds say no more)"
    ratio, low, high, verdict = comparison
    if verdict == "indistinguishable":
        return f"its speed is not distinguishable from the winner's ({median})"
    # The comparison says how many times as fast the winner is. Where that is below 1, the row is the faster one.
    if verdict == "slower" and high is not None:
        return f"{sig(1 / ratio)} times as fast as the winner (99 %: {interval(1 / high, 1 / low, ' to ')})"
    return f"takes {sig(ratio)} times as long as the winner (99 %: {interval(low, high, ' to ')})"


def why_not(row: Row, study: Study, winner: Row | None, *, own: Rounds | None, best: Rounds | None) -> str | None:
    """Return why a row is not the winner, None for the winner itself. The parameters are those of `slower`."""
    if row is winner:
        return None
    reasons = obstacles(row, study)
    if winner is not None and row["status"] == "ok" and row["latency_median_ms"] is not None:
        reasons.append(slower(row, winner, own, best))
    return "; ".join(reasons) or None

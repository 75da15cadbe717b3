"""The report's charts. Each has a title, axes with units and a text alternative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.report.drawing import PALETTE, figure, inline
from tasks.tables.figures import AGREEMENT
from tasks.tables.rule import on_front

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt
    import polars as pl

    from flows.report.drawing import Figure

WIDE = 8
"""The axis of latencies is logarithmic where the largest is more than this many times the smallest."""
DOTS = 48
"""Evenly spaced quantiles that are drawn per candidate. Its box and its median come from every sample."""


def _latency_axis(values: Sequence[float], title: str) -> alt.X:
    """Return an axis for latencies in milliseconds, logarithmic where they differ much."""
    import altair as alt

    if max(values) > WIDE * min(values) > 0:
        scale = alt.Scale(type="log", nice=False, padding=18)
        return alt.X("ms:Q", title=f"{title}, logarithmic", scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    return alt.X("ms:Q", title=title, scale=alt.Scale(zero=False, nice=True, padding=18))


def form(row: dict[str, Any]) -> str:
    """Return runtime and precision of a row, in words."""
    name = "PyTorch eager" if row["runtime"] == "eager" else row["runtime"]
    return f"{name} {row['precision']}"


def tradeoff(
    rows: Sequence[dict[str, Any]], metric: tuple[str, str], place: str, max_drop: float, width: int
) -> Figure | None:
    """Draw accuracy against latency of the summary's rows of one device and batch size, with the Pareto front.

    Parameters
    ----------
    metric
        The column of the accuracy, and its name in words.
    place
        Device and batch size, in words.
    max_drop
        The allowed drop. The least accuracy that it allows is drawn as a line.
    width
        In pixels.
    """
    column, name = metric
    points = _points(rows, column)
    if not points:
        return None
    best = sorted((point for point in points if point["pareto"]), key=lambda point: point["ms"])
    words = "; ".join(
        f"{point['model']} {point['form']} {point['ms']:.3g} ms at {point['score']:.3f}" for point in best
    )
    dashed = f"Dashed: the Pareto front (no candidate is both faster and higher in {name}). " if len(best) > 1 else ""
    return figure(
        _tradeoff_layers(points, name, max_drop).properties(width=width - 80, height=340),
        f"{'Agreement' if name == AGREEMENT else 'Accuracy'} against latency, {place}",
        f"On the Pareto front: {words or 'no row that was measured under good conditions'}.",
        f"{dashed}Vertical bars: 95 % intervals. Pink line: the least {name} that the study's rule "
        "accepts. Up and left is better.",
    )


def _points(rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Return what is drawn of each row that was measured."""
    return [
        {
            "ms": row["latency_median_ms"],
            "score": row[column],
            "low": row[f"{column}_low"],
            "high": row[f"{column}_high"],
            "model": row["model"],
            "form": form(row),
            "role": row["role"] or "",
            # The front of these two alone; the summary's counts size and memory too.
            "pareto": on_front(row, rows, column, besides=()),
            "drop": row["drop"],
        }
        for row in rows
        if row["status"] == "ok" and row[column] is not None
    ]


def _tradeoff_layers(points: Sequence[dict[str, Any]], name: str, max_drop: float) -> alt.LayerChart | alt.FacetChart:
    """Return the rule's line, intervals, the Pareto front, points, and rings and labels of those that play a part."""
    import altair as alt

    x = _latency_axis([point["ms"] for point in points], "median latency, ms per query")
    y = alt.Y("score:Q", title=f"{name} on held-out images, share", scale=alt.Scale(zero=False, padding=14))
    base = alt.Chart(inline(points)).encode(x=x)
    spread = base.mark_rule(opacity=0.25, strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q", color="model:N")
    front = (
        base.transform_filter("datum.pareto")
        .mark_line(strokeDash=[4, 4], color="currentColor", opacity=0.5, interpolate="step-after")
        .encode(y=y)
    )
    dots = base.mark_point(filled=True, size=95, opacity=0.95).encode(
        y=y, color=alt.Color("model:N", title="model"), shape=alt.Shape("form:N", title="runtime and precision")
    )
    named = base.transform_filter("datum.role != ''")
    ring = named.mark_point(size=300, color="currentColor", strokeWidth=1.5).encode(y=y)
    label = named.mark_text(dy=-18, fontWeight="bold", fontSize=12, color="currentColor").encode(y=y, text="role:N")
    # Score and drop add up to the reference's score, whichever row they are of.
    rule = [{"score": point["score"] + point["drop"] - max_drop} for point in points[:1] if point["drop"] is not None]
    gate = alt.Chart(inline(rule)).mark_rule(color=PALETTE[4], opacity=0.8).encode(y=y)
    return alt.layer(gate, spread, front, dots, ring, label)


def training(epochs: pl.DataFrame, model: str, name: str, images: int | None = None) -> Figure:
    """Draw loss and macro F1 by epoch of one model in one stage, on training and on validation images.

    `images` is the number of validation images, None where it is not known.
    """
    import altair as alt

    rows = [
        {
            "epoch": r["epoch"],
            "loss": r["loss"],
            "f1": r["macro_f1"],
            "split": r["split"],
            "images": "validation images" if r["split"] == "validation" else "training images",
            "what": r["variant"].removeprefix(f"{model}/") + (f", seed {r['seed']}" if r["seed"] else ""),
        }
        for r in epochs.iter_rows(named=True)
    ]
    last = max(r["epoch"] for r in rows)
    domain = ["validation images", "training images"]
    panels = [
        alt.Chart(inline(rows), width=190, height=170)
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X(
                "epoch:Q",
                title="epoch",
                axis=alt.Axis(tickMinStep=1, tickCount=min(last, 6), format="d"),
                scale=alt.Scale(domain=[1, max(last, 2)]),
            ),
            y=alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color("what:N", title=None),
            strokeDash=alt.StrokeDash("images:N", title=None, scale=alt.Scale(domain=domain, range=[[1, 0], [3, 3]])),
        )
        for field, title in (("loss", "cross-entropy loss"), ("f1", "macro F1, share"))
    ]
    best = max((r for r in rows if r["split"] == "validation"), key=lambda r: r["f1"], default=None)
    of = "" if images is None else f" of {images} images"
    words = f"Best validation macro F1 {best['f1']:.3f}{of} at epoch {best['epoch']} ({best['what']})." if best else ""
    return figure(alt.hconcat(*panels, spacing=24), f"{model}, {name}", words, words)


def tuning(trials: pl.DataFrame, model: str) -> Figure:
    """Draw the score of each trial of a model, and the best score so far."""
    import altair as alt

    rows = trials.select("trial", "score", "best_so_far", "stopped_early").to_dicts()
    for r in rows:
        r["state"] = "stopped early" if r["stopped_early"] else "finished"
    axis = alt.Axis(tickMinStep=1, tickCount=min(max(len(rows) - 1, 1), 10), format="d")
    scale = alt.Scale(padding=12, nice=False)
    x = alt.X("trial:Q", title="trial", axis=axis, scale=scale)
    base = alt.Chart(inline(rows), width=400, height=200).encode(x=x)
    y: dict[str, Any] = {"scale": alt.Scale(zero=False, padding=8), "title": "validation macro F1, share"}
    line = base.mark_line(interpolate="step-after", opacity=0.6, color=PALETTE[0]).encode(y=alt.Y("best_so_far:Q", **y))
    dots = (
        base.transform_filter("isValid(datum.score)")
        .mark_point(filled=True, size=70)
        .encode(
            y=alt.Y("score:Q", **y),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=["finished", "stopped early"], range=[PALETTE[0], PALETTE[7]]),
            ),
        )
    )
    scores = [r["score"] for r in rows if r["score"] is not None]
    words = f"{len(rows)} trials; best {max(scores):.3f}, first {scores[0]:.3f}." if scores else "No trial has a score."
    return figure(alt.layer(line, dots), f"{model}, tuning", words, "The line is the best score so far.")


def distributions(latencies: pl.LazyFrame, device: str, batch: int, roles: dict[tuple[str, str], str]) -> Figure | None:
    """Draw the latencies of each candidate on one device at one batch size: box, median and evenly spaced quantiles.

    `roles` maps (variant, runtime) to the part that the candidate plays.
    """
    import altair as alt
    import polars as pl

    ms = pl.col("latency_ms")
    marks = [ms.quantile((i + 0.5) / DOTS, "nearest").alias(f"dot{i}") for i in range(DOTS)]
    edges = [ms.quantile(q, "nearest").alias(n) for n, q in (("p25", 0.25), ("ms", 0.5), ("p75", 0.75), ("p90", 0.9))]
    rows = (
        latencies.filter((pl.col("device") == device) & (pl.col("batch_size") == batch))
        .group_by("variant", "runtime")
        .agg(pl.len().alias("n"), *edges, *marks)
        .collect()
        .sort("ms")
        .to_dicts()
    )
    if not rows:
        return None
    for row in rows:
        role = roles.get((row["variant"], row["runtime"]))
        row["who"] = f"{role}: " if role else ""
        row["who"] += f"{row['variant']}, {row['runtime']}"
    dots = [{"who": r["who"], "ms": r[f"dot{i}"]} for r in rows for i in range(DOTS)]
    boxes = [{k: r[k] for k in ("who", "p25", "ms", "p75")} for r in rows]
    x = _latency_axis([d["ms"] for d in dots], "latency, ms per query")
    y = alt.Y("who:N", sort=[r["who"] for r in rows], title=None, axis=None)
    strip = alt.Chart(inline(dots)).mark_tick(opacity=0.45, thickness=1, size=10, color=PALETTE[3]).encode(x=x, y=y)
    base = alt.Chart(inline(boxes)).encode(y=y)
    box = base.mark_bar(height=10, opacity=0.35, color=PALETTE[3]).encode(x=alt.X("p25:Q"), x2="p75:Q")
    middle = base.mark_tick(thickness=3, size=14, color=PALETTE[1]).encode(x="ms:Q")
    name = base.mark_text(align="left", dy=-14, fontSize=11, color="currentColor").encode(x=alt.value(4), text="who:N")
    words = "; ".join(f"{r['who']}: median {r['ms']:.3g} ms, 90 % at most {r['p90']:.3g} ms" for r in rows[:12])
    return figure(
        alt.layer(box, strip, middle, name).properties(width=500, height={"step": 38}),
        f"Latency of single queries, {device}, batch {batch}",
        words,
        f"Orange: median; blue box: middle half, both of all {sum(r['n'] for r in rows)} samples. Thin ticks: {DOTS} "
        "evenly spaced quantiles per candidate, in place of every sample.",
    )


def balance(datasets: pl.DataFrame) -> Figure:
    """Draw the number of images of each class, by split."""
    import altair as alt

    rows = [
        {"class": i, "images": n, "split": r["split"]}
        for r in datasets.iter_rows(named=True)
        for i, n in enumerate(r["class_rows"])
    ]
    classes = len(rows) // datasets.height
    chart = alt.Chart(inline(rows), width=420, height=200)
    many = classes > 60
    marked = chart.mark_line(interpolate="step", strokeWidth=1) if many else chart.mark_bar()
    x = alt.X("class:Q" if many else "class:O", title="class number", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("images:Q", title="images", stack=None if many else "zero")
    order = ["train", "validation", "test"]
    chart = marked.encode(x=x, y=y, color=alt.Color("split:N", title=None, sort=order, scale=alt.Scale(domain=order)))
    words = "; ".join(
        f"{r['split']}: {r['class_rows_min']} to {r['class_rows_max']} images per class"
        for r in datasets.iter_rows(named=True)
    )
    return figure(chart, "Class balance", words)

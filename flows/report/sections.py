"""The sections of the report: one function per section returns what the template shows there.

Each takes the `Contents` of a run and returns names and values for report.html.j2. A section whose table is missing is
left out: it returns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.report import charts, published, verdicts
from flows.report.columns import (
    CERTIFICATES,
    DATASET,
    GPU_TIMES,
    SCENARIOS,
    STATISTICS,
    SUMMARY,
    THROUGHPUT,
    mb,
    of_agreement,
    share,
)
from flows.report.grids import cell, fact, grid, in_order
from flows.report.making import ablations, lineage, search, training, tuning
from flows.report.mistakes import mistakes
from flows.report.searches import preparations
from tasks.measure.handful import handful
from tasks.measure.scenarios import capacity
from tasks.published import images_here
from tasks.tables.csv_view import MARKED, marked_csv, rate_column
from tasks.tables.figures import metric_name, sig, words
from tasks.tables.goals import time_decides, written
from tasks.tables.summary import PARTS, compared_batch, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from flows.report.columns import Spec
    from flows.report.contents import Contents
    from flows.report.grids import Row
    from tasks.records import Study

RUNTIME_NAMES = {"eager": "PyTorch eager", "onnxruntime": "ONNX Runtime"}
"""Runtime that a reference is measured in -> what sentences call it."""
MEASURED = (
    ("benchmarks", STATISTICS, "Latency, one query in flight: figures, their 99 % intervals (point at one), processes"),
    ("throughputs", THROUGHPUT, "Throughput, several queries in flight"),
    ("gpu_times", GPU_TIMES, "Where a query on the GPU spends its time"),
    ("certificates", CERTIFICATES, "Certificates: the conditions of every visit"),
)
"""Tables of measurements that the report shows as they are: name, columns, caption."""


def heading(contents: Contents) -> Row:
    """Study, run and machine."""
    validation = contents.validation_images
    metric = "agreement" if contents.study.data.unlabelled else "top-1"
    return {
        "study": contents.study,
        "run": contents.run,
        "environment": contents.environment,
        "metric": metric_name(contents.study),
        "accuracy": "Agreement" if contents.study.data.unlabelled else "Accuracy",
        "unfinished": contents.unfinished,
        "begun": contents.begun,
        "files": contents.files,
        "test_images": contents.images_of("test"),
        "handful": handful(validation, metric) if validation is not None else "",
    }


def outcome(contents: Contents) -> Row:
    """What the run came to, in sentences."""
    complete = not contents.unfinished and all(name in contents.small for name in PARTS)
    if not complete:
        missing = (
            "The run has no results yet." if contents.unfinished else "A table that the winner is found by is missing."
        )
        return {"complete": False, "sentences": (missing,), "cautions": ()}
    predictions = {name: contents.tables[name].lazy() for name in ("predictions",) if name in contents.tables}
    summary = summarise({**contents.small, **predictions}, contents.study)
    return {"complete": True, "sentences": summary.sentences, "cautions": summary.cautions}


def candidates(contents: Contents) -> Row:
    """The summary as a table and, for each device at the compared batch size, as charts."""
    if "summary" not in contents.small:
        return {}
    summary, study = contents.small["summary"], contents.study
    batch = compared_batch(summary, study)
    rows = in_order(summary, batch)
    # A summary of an older version of burnish has no column `within`.
    seldom = ("vram_peak_bytes", "throughput", "within")
    hidden = {key for key in seldom if all(row.get(key) is None for row in rows)}
    specs = [spec for spec in of_agreement(SUMMARY, study) if spec[2] not in hidden]
    compared = [row for row in rows if row["batch_size"] == batch]
    reference = next((row["runtime"] for row in rows if row["role"] == "reference"), "eager")
    return {
        "batch": batch,
        "reference_runtime": RUNTIME_NAMES.get(reference, reference),
        "cards": _cards(rows, study),
        "summary": grid(specs, rows, "Every candidate; press a header to sort"),
        "rate": rate_column(rows),
        "tradeoffs": _tradeoffs(compared, study, batch),
        "distributions": _distributions(contents, compared, batch),
        **verdicts.rule(study.select),
        **verdicts.others(compared),
    }


def _cards(rows: Sequence[Row], study: Study) -> list[Row]:
    """Winner or provisional best, runner-up and reference with their figures, and what makes them doubtful."""
    cards = []
    select = study.select
    marked = any(row["role"] == "reference" and row["conditions"] for row in rows)
    for row in (row for row in rows if row["role"]):
        figures = [("median latency", f"{sig(row['latency_median_ms'])} ms")]
        if row["role"] != "reference" and row["speedup"] is not None:
            speed_up = cell(row, "speedup", sig)
            known = speed_up.sort is not None
            times = f"{speed_up.text} ×" if known else f"{speed_up.text} ({speed_up.below})"
            figures.append((f"times as fast as the {'marked ' if marked else ''}reference", times))
        figures += [
            ("images per second", sig(row["images_per_second"])),
            (metric_name(study), share(row[select.metric])),
            ("size", f"{mb(row['size_bytes'])} MB"),
        ]
        # The other measures are among these figures anyway.
        if select.by == "throughput":
            figures.append(("throughput", written(row, "throughput")))
        if select.by == "memory" or select.memory_mb is not None:
            figures.append(("memory", written(row, "memory")))
        doubt = ""
        if row["role"] == "reference" and row["conditions"]:
            doubt = f"Marked: measured under bad conditions ({row['conditions']}), so speed-ups over it are doubtful."
        cards.append({"role": row["role"], "words": words(row), "figures": figures, "doubt": doubt})
    return cards


def _tradeoffs(rows: Sequence[Row], study: Study, batch: int) -> list[list[Any]]:
    """One chart per device of the study's metric against median latency, in a wide and a narrow layout.

    `rows` are those of the summary at the batch size `batch`. A device whose rows cannot be drawn has no chart.
    """
    metric = study.select.metric
    drawn = []
    for device in dict.fromkeys(row["device"] for row in rows):
        of_device = [row for row in rows if row["device"] == device]
        title, metric_and_name = f"{device}, batch {batch}", (metric, metric_name(study))
        layouts = [
            charts.tradeoff(of_device, metric_and_name, title, study.select.max_drop, width) for width in (1000, 480)
        ]
        if all(layouts):
            drawn.append(layouts)
    return drawn


def _distributions(contents: Contents, rows: Sequence[Row], batch: int) -> list[Any]:
    """A chart of the latencies of single queries per device."""
    if "latencies" not in contents.tables:
        return []
    drawn = []
    for device in dict.fromkeys(row["device"] for row in rows):
        roles = {
            (row["variant"], row["runtime"]): row["role"] for row in rows if row["device"] == device and row["role"]
        }
        drawn.append(charts.distributions(contents.tables["latencies"].lazy(), device, batch, roles))
    return [figure for figure in drawn if figure]


def hops(contents: Contents) -> Row:
    """What each hop from the original to a candidate costs in accuracy."""
    if "evaluations" not in contents.small:
        return {}
    return {"hops": verdicts.every_hop(contents.tables, contents.study)}


def wrong_predictions(contents: Contents) -> Row:
    """Confusion, scores of each class, and pictures of what was classified wrongly."""
    # Without labels nobody knows which predictions are mistakes.
    unlabelled = contents.study.data.unlabelled
    return {"mistakes": None if unlabelled else mistakes(contents.tables, contents.images)}


def published_study(contents: Contents) -> Row:
    """The published study's own tables, with this run's figures beside them."""
    if not contents.study.published:
        return {}
    return {
        "published": published.compare(contents.study.published, contents.tables),
        "published_lines": published.lines,
        "sourced": published.sourced,
        "starred": published.starred,
        "star": published.STAR,
        "brackets": published.BRACKETS,
    }


def data(contents: Contents) -> Row:
    """The data set by split, what of it was left out, and how many images each class has."""
    if "datasets" not in contents.small:
        return {}
    sets = contents.small["datasets"].to_dicts()
    name = images_here(contents.small)
    dropped = [
        (row["split"], number, reason)
        for row in sets
        for number, reason in zip(row["dropped_rows"], row["dropped_reasons"], strict=True)
    ]
    return {
        "data": name,
        "dataset": grid(DATASET, sets, f"{name}: the data set by split"),
        "balance": charts.balance(contents.small["datasets"]) if sets else None,
        # Older versions of burnish did not write these columns.
        "layout": sets[0].get("layout") if sets else None,
        "left_out": sets[0].get("left_out") if sets else None,
        "preparations": preparations(contents.small),
        "dropped": dropped,
    }


def measuring(contents: Contents) -> Row:
    """How it was measured: the machine, bad conditions, figures with their intervals, certificates."""
    small, shown = contents.small, dict[str, Any]()
    if "environments" in small:
        rows = small["environments"].to_dicts()
        shown["machine"] = [(key, fact(key, value)) for row in rows for key, value in row.items()]
    if "benchmarks" in small:
        marked = [row for row in small["benchmarks"].to_dicts() if row["conditions"] is not None]
        shown["conditions"] = [(words(row), row["conditions"]) for row in marked]
        shown["time_decides"] = time_decides(contents.study.select)
    grids = [
        grid(_present(specs, small[name]), small[name].to_dicts(), caption)
        for name, specs, caption in MEASURED
        if name in small
    ]
    return {**shown, "measured": [table for table in grids if table]}


def _present(specs: Sequence[Spec], table: pl.DataFrame) -> list[Spec]:
    """Return the columns that say something in this run: a machine without a GPU has no GPU clocks."""
    empty = {name for name in table.columns if table[name].null_count() == len(table) and name != "trouble"}
    return [spec for spec in specs if spec[2] not in empty]


def scenarios(contents: Contents) -> Row:
    """The winner in LoadGen's scenarios."""
    if "scenarios" not in contents.small:
        return {}
    rows = contents.small["scenarios"].to_dicts()
    return {"scenarios": grid(SCENARIOS, rows, "The winner in LoadGen's scenarios"), "capacity": capacity(rows)}


def files(contents: Contents) -> Row:
    """Profiles, ONNX graphs, and the file of results with its doubtful rows marked."""
    # A summary without this column is of an older version, which wrote no second file.
    summary = contents.small.get("summary")
    written = summary is not None and "throughput_conditions" in summary.columns
    marked = summary is not None and written and marked_csv(summary) is not None
    return {
        "profiles": contents.profiles,
        "exported": contents.exported,
        "marked_file": MARKED if marked else None,
    }


SECTIONS: tuple[Callable[[Contents], Row], ...] = (
    heading,
    candidates,
    outcome,
    hops,
    wrong_predictions,
    published_study,
    training,
    ablations,
    tuning,
    lineage,
    search,
    data,
    measuring,
    scenarios,
    files,
)

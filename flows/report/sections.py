"""The sections of the report: one function per section returns what the template shows there.

Each takes the `Contents` of a run and returns names and values for report.html.j2. A section whose table is missing is
left out: it returns nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.report import charts, curves, published
from flows.report.columns import (
    ABLATIONS,
    CERTIFICATES,
    DATASET,
    FORMS,
    GPU_TIMES,
    POLICIES,
    PRUNED,
    QUANTIZED,
    SCENARIOS,
    STATISTICS,
    SUMMARY,
    THROUGHPUT,
    TRIALS,
    mb,
    of_images,
    share,
)
from flows.report.grids import adjusted, cell, fact, grid, in_order
from flows.report.mistakes import mistakes
from tasks.measure.handful import handful
from tasks.measure.scenarios import capacity
from tasks.published import images_here
from tasks.tables.csv_view import MARKED, marked_csv, rate_column
from tasks.tables.figures import METRIC_NAMES, sig, words
from tasks.tables.summary import PARTS, compared_batch, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import polars as pl

    from flows.report.columns import Spec
    from flows.report.grids import Grid, Row
    from flows.report.pictures import Images
    from tasks.records import Study

LINKED = ("benchmark_results.csv", "data_docs/index.html")
"""Files of the run that the report has links to."""
MEASURED = (
    ("benchmarks", STATISTICS, "Latency, one query in flight: figures, their 99 % intervals (point at one), processes"),
    ("throughputs", THROUGHPUT, "Throughput, several queries in flight"),
    ("gpu_times", GPU_TIMES, "Where a query on the GPU spends its time"),
    ("certificates", CERTIFICATES, "Certificates: the conditions of every visit"),
)
"""Tables of measurements that the report shows as they are: name, columns, caption."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that the report of one run is made of."""

    tables: Mapping[str, pl.DataFrame | pl.LazyFrame]
    """The run's tables; those of many rows may be lazy, and any may be missing."""
    study: Study
    environment: Row
    """The machine and the libraries, as environment.json has them."""
    run: str
    profiles: Sequence[Row] = ()
    """As flows.report.profiles gives them."""
    images: Images | str = "the report was made without the store"
    """The prepared images, or why they are not there."""
    exported: Sequence[Row] = ()
    """As flows.report.graphs gives them."""
    unfinished: str = ""
    """Why the run has no results, as flows.runs.unfinished says it; empty: it has."""
    begun: Sequence[Row] = ()
    """The stages of a run without results, as flows.runs.so_far gives them."""
    files: Collection[str] = field(default=LINKED)
    """Those of `LINKED` that are there."""

    @cached_property
    def small(self) -> dict[str, pl.DataFrame]:
        """The tables that are in memory."""
        import polars as pl

        return {name: table for name, table in self.tables.items() if isinstance(table, pl.DataFrame)}

    def images_of(self, split: str) -> int | None:
        """Return the number of images of a split, None where it is not known."""
        rows = self.small["datasets"].iter_rows(named=True) if "datasets" in self.small else ()
        return next((row["rows"] for row in rows if row["split"] == split), None)

    @cached_property
    def validation_images(self) -> int | None:
        return self.images_of("validation")


def heading(contents: Contents) -> Row:
    """Study, run and machine."""
    validation = contents.validation_images
    return {
        "study": contents.study,
        "run": contents.run,
        "environment": contents.environment,
        "metric": METRIC_NAMES[contents.study.select.metric],
        "unfinished": contents.unfinished,
        "begun": contents.begun,
        "files": contents.files,
        "test_images": contents.images_of("test"),
        "handful": handful(validation) if validation is not None else "",
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
    hidden = {key for key in ("vram_peak_bytes", "throughput") if all(row[key] is None for row in rows)}
    specs = [spec for spec in SUMMARY if spec[2] not in hidden]
    compared = [row for row in rows if row["batch_size"] == batch]
    return {
        "batch": batch,
        "cards": _cards(rows, study.select.metric),
        "summary": grid(specs, rows, "Every candidate; press a header to sort"),
        "rate": rate_column(rows),
        "tradeoffs": _tradeoffs(compared, study, batch),
        "distributions": _distributions(contents, compared, batch),
    }


def _cards(rows: Sequence[Row], metric: str) -> list[Row]:
    """Winner or provisional best, runner-up and reference with their figures, and what makes them doubtful."""
    cards = []
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
            (METRIC_NAMES[metric], share(row[metric])),
            ("size", f"{mb(row['size_bytes'])} MB"),
        ]
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
        title, metric_and_name = f"{device}, batch {batch}", (metric, METRIC_NAMES[metric])
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


def wrong_predictions(contents: Contents) -> Row:
    """Confusion, scores of each class, and pictures of what was classified wrongly."""
    return {"mistakes": mistakes(contents.tables, contents.images)}


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


def training(contents: Contents) -> Row:
    """Training curves, and whether augmentation helped."""
    if "epochs" not in contents.small:
        return {}
    epochs, validation = contents.small["epochs"], contents.validation_images
    shown: Row = {"curves": curves.training(epochs, validation)}
    if "variants" in contents.small:
        variants = contents.small["variants"].to_dicts()
        shown["augmented"] = curves.augmentation(epochs, variants, _evaluations(contents), validation)
    return shown


def ablations(contents: Contents) -> Row:
    """What each training technique brings, one table per model."""
    if "ablations" not in contents.small:
        return {}
    shown: list[Grid | None] = []
    for (model,), group in contents.small["ablations"].group_by("model", maintain_order=True):
        rows = group.to_dicts()
        plain = next((row["epoch_seconds"] for row in rows if row["technique"] == "none"), None)
        for row in rows:
            row["adjusted"] = adjusted(row["sets"]) if json.loads(row["sets"]) else "what is plain"
            row["times"] = plain / row["epoch_seconds"] if plain and row["epoch_seconds"] else None
        shown.append(grid(ABLATIONS, rows, f"Training techniques, {model}: each alone, all together, none"))
    return {"ablations": shown}


def tuning(contents: Contents) -> Row:
    """The trials of tuning, one chart and one table per model."""
    if "trials" not in contents.small:
        return {}
    specs = of_images(TRIALS, contents.validation_images)
    shown = []
    for (model,), group in contents.small["trials"].sort("trial").group_by("model", maintain_order=True):
        rows = [row | {"adjusted": adjusted(row["adjusted"])} for row in group.to_dicts()]
        shown.append((charts.tuning(group, str(model)), grid(specs, rows, f"Trials of {model}")))
    return {"tuning": shown}


def lineage(contents: Contents) -> Row:
    """The variants by the stage that made them; policies and pruned forms stand below their parent's weights."""
    if "variants" not in contents.small:
        return {}
    validation = contents.validation_images
    rows = [dict(row) for row in contents.small["variants"].to_dicts()]
    scores = _evaluations(contents)
    for row in rows:
        row["held_out"] = scores.get(row["name"], {}).get("macro_f1")
    pruned = _below_parents(rows, "prune", "when", "before pruning")
    for row in pruned:
        after = "before fine-tuning" if row["name"].endswith("-raw") else "after fine-tuning"
        row.setdefault("when", after if row["status"] == "ok" else None)
    policies = _below_parents(rows, "augment", "setting", "before this stage")
    quantized = [row for row in rows if row["stage"] in ("quantize", "qat")]
    forms = [row for row in rows if row["stage"] in ("export", "build")]
    notes = [row["note"] for row in rows if row.get("note")]
    return {
        "policies": grid(of_images(POLICIES, validation), policies, "Augmentation policies"),
        "pruned": grid(of_images(PRUNED, validation), pruned, "Pruning"),
        "quantized": grid(of_images(QUANTIZED, validation), quantized, "Quantization settings tried"),
        "forms": grid(FORMS, forms, "Exported files and engines"),
        "notes": list(dict.fromkeys(notes)),
    }


def _below_parents(rows: Sequence[Row], stage: str, column: str, text: str) -> list[Row]:
    """Return the variants of a stage, those of one parent below that parent, which has `text` in the column."""
    named = {row["name"]: row for row in rows}
    of_stage = [row for row in rows if row["stage"] == stage]
    shown: list[Row] = []
    for parent in dict.fromkeys(row["parent"] for row in of_stage):
        if parent in named:
            shown.append({**named[parent], column: text})
        shown += [row for row in of_stage if row["parent"] == parent]
    return shown


def _evaluations(contents: Contents) -> dict[str, Row]:
    """Return a row of `evaluations` per variant; of several runtimes the last."""
    rows = contents.small["evaluations"].iter_rows(named=True) if "evaluations" in contents.small else ()
    return {row["variant"]: row for row in rows}


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
    wrong_predictions,
    published_study,
    training,
    ablations,
    tuning,
    lineage,
    data,
    measuring,
    scenarios,
    files,
)

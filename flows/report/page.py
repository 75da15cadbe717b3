"""The HTML report of a run, and the table at its end: from the published tables, study.toml and environment.json."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from flows.report import charts, curves, published
from flows.report.graphs import graphs
from flows.report.grids import (
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
    adjusted,
    cell,
    fact,
    grid,
    in_order,
    mb,
    of_images,
    share,
)
from flows.report.mistakes import load_images, mistakes
from flows.runs.so_far import stages, tables_so_far
from flows.runs.unfinished import unfinished
from tasks.machine.files import write_text
from tasks.measure.handful import handful
from tasks.measure.scenarios import capacity
from tasks.published import images_here
from tasks.records import Study
from tasks.tables.csv_view import MARKED, marked_csv, rate_column
from tasks.tables.figures import METRIC_NAMES, sig, words
from tasks.tables.summary import PARTS, compared_batch, summarise

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import polars as pl

    from flows.report.charts import Figure
    from flows.report.grids import Grid, Row, Spec
    from flows.report.mistakes import Images

WANTED = (
    "datasets",
    "ablations",
    "epochs",
    "seeds",
    "trials",
    "variants",
    "evaluations",
    "predictions",
    "latencies",
    "benchmarks",
    "throughputs",
    "gpu_times",
    "scenarios",
    "certificates",
    "memory",
    "environments",
    "summary",
)
MANY_ROWS = ("predictions", "latencies")
LINKED = ("benchmark_results.csv", "data_docs/index.html")
"""Files of the run that the report has links to."""


def _lineage(rows: Sequence[Row], held_out: Mapping[str, Row], validation: int | None) -> Row:
    """Sections of the `variants` table; policies and pruned forms stand below the weights that they started from.

    `validation`: validation images, where known.
    """
    named = {row["name"]: row | {"held_out": held_out.get(row["name"], {}).get("macro_f1")} for row in rows}

    def below_parents(stage: str, column: str, said: str) -> list[Row]:
        made: list[Row] = []
        for parent in dict.fromkeys(row["parent"] for row in rows if row["stage"] == stage):
            made += [named[parent] | {column: said}] if parent in named else []
            made += [row for row in named.values() if row["stage"] == stage and row["parent"] == parent]
        return made

    pruned = below_parents("prune", "when", "before pruning")
    for row in pruned:
        after = "before fine-tuning" if row["name"].endswith("-raw") else "after fine-tuning"
        row.setdefault("when", after if row["status"] == "ok" else None)
    quantized = [row for row in named.values() if row["stage"] in ("quantize", "qat")]
    forms = [row for row in named.values() if row["stage"] in ("export", "build")]
    return {
        "policies": grid(
            of_images(POLICIES, validation),
            below_parents("augment", "setting", "before this stage"),
            "Augmentation policies",
        ),
        "pruned": grid(of_images(PRUNED, validation), pruned, "Pruning"),
        "quantized": grid(of_images(QUANTIZED, validation), quantized, "Quantization settings tried"),
        "forms": grid(FORMS, forms, "Exported files and engines"),
    }


def _tuning(trials: pl.DataFrame, validation: int | None) -> list[tuple[Figure, Grid | None]]:
    made = []
    for (model,), group in trials.sort("trial").group_by("model", maintain_order=True):
        rows = [row | {"adjusted": adjusted(row["adjusted"])} for row in group.to_dicts()]
        made.append((charts.tuning(group, str(model)), grid(of_images(TRIALS, validation), rows, f"Trials of {model}")))
    return made


def _ablations(table: pl.DataFrame) -> list[Grid | None]:
    made = []
    for (model,), group in table.group_by("model", maintain_order=True):
        rows = group.to_dicts()
        plain = next((row["epoch_seconds"] for row in rows if row["technique"] == "none"), None)
        for row in rows:
            sets = json.loads(row["sets"])
            row["adjusted"] = adjusted(row["sets"]) if sets else "what is plain"
            row["times"] = plain / row["epoch_seconds"] if plain and row["epoch_seconds"] else None
        made.append(grid(ABLATIONS, rows, f"Training techniques, {model}: each alone, all together, none"))
    return made


def _cards(rows: Sequence[Row], metric: str) -> list[Row]:
    """Winner or provisional best, runner-up and reference with their figures."""
    cards = []
    for row in (row for row in rows if row["role"]):
        figures = [("median latency", f"{sig(row['latency_median_ms'])} ms")]
        if row["role"] != "reference" and row["speedup"] is not None:
            shown = cell(row, "speedup", sig)
            times = f"{shown.text} ×" if shown.sort is not None else f"{shown.text} ({shown.below})"
            figures.append(("times as fast as the reference", times))
        figures += [
            ("images per second", sig(row["images_per_second"])),
            (METRIC_NAMES[metric], share(row[metric])),
            ("size", f"{mb(row['size_bytes'])} MB"),
        ]
        cards.append({"role": row["role"], "words": words(row), "figures": figures})
    return cards


def _candidates(summary: pl.DataFrame, latencies: pl.LazyFrame | None, study: Study) -> Row:
    """The summary as a table and, for each device at the compared batch size, as charts."""
    metric, batch = study.select.metric, compared_batch(summary, study)
    rows = in_order(summary, batch)
    gpu = any(row["vram_peak_bytes"] is not None for row in rows)
    rates = any(row["throughput"] is not None for row in rows)
    left_out = {"vram_peak_bytes": not gpu, "throughput": not rates}
    specs = [spec for spec in SUMMARY if not left_out.get(spec[2])]
    tradeoffs, distributions = [], []
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device and row["batch_size"] == batch]
        place = f"{device}, batch {batch}"
        named, drop = (metric, METRIC_NAMES[metric]), study.select.max_drop
        drawn = [charts.tradeoff(here, named, place, drop, width) for width in (1000, 480)]
        tradeoffs += [drawn] if all(drawn) else []
        if latencies is not None:
            roles = {(row["variant"], row["runtime"]): row["role"] for row in here if row["role"]}
            distributions.append(charts.distributions(latencies, device, batch, roles))
    table = grid(specs, rows, "Every candidate; press a header to sort")
    return {
        "batch": batch,
        "cards": _cards(rows, metric),
        "summary": table,
        "rate": rate_column(rows),
        "tradeoffs": tradeoffs,
        "distributions": [figure for figure in distributions if figure],
    }


MEASURED = (
    ("benchmarks", STATISTICS, "Latency, one query in flight: figures, their 99 % intervals (point at one), processes"),
    ("throughputs", THROUGHPUT, "Throughput, several queries in flight"),
    ("gpu_times", GPU_TIMES, "Where a query on the GPU spends its time"),
    ("certificates", CERTIFICATES, "Certificates: the conditions of every visit"),
)


def _present(specs: Sequence[Spec], table: pl.DataFrame) -> list[Spec]:
    """Columns that say something in this run: a machine without a GPU has no GPU clocks."""
    empty = {name for name in table.columns if table[name].null_count() == len(table) and name != "trouble"}
    return [spec for spec in specs if spec[2] not in empty]


def _lazy(tables: Mapping[str, pl.DataFrame | pl.LazyFrame], name: str) -> dict[str, pl.LazyFrame]:
    """A table that may be missing."""
    return {name: tables[name].lazy()} if name in tables else {}


def _images(small: Mapping[str, pl.DataFrame], split: str) -> int | None:
    """Images of a split, where that is known."""
    sets = small["datasets"].iter_rows(named=True) if "datasets" in small else ()
    return next((row["rows"] for row in sets if row["split"] == split), None)


def _data(small: Mapping[str, pl.DataFrame]) -> Row:
    """The section on the data set, from the table `datasets`."""
    sets = small["datasets"].to_dicts()
    name = images_here(small)
    dropped = [
        (row["split"], number, why)
        for row in sets
        for number, why in zip(row["dropped_rows"], row["dropped_reasons"], strict=True)
    ]
    return {
        "data": name,
        "dataset": grid(DATASET, sets, f"{name}: the data set by split"),
        "balance": charts.balance(small["datasets"]) if sets else None,
        # older versions of burnish did not say it
        "layout": sets[0].get("layout") if sets else None,
        "left_out": sets[0].get("left_out") if sets else None,
        "dropped": dropped,
    }


def page(
    tables: Mapping[str, pl.DataFrame | pl.LazyFrame],
    study: Study,
    environment: Row,
    run: str,
    profiles: Sequence[Row] = (),
    images: Images | str = "the report was made without the store",
    exported: Sequence[Row] = (),
    *,
    unfinished: str = "",
    begun: Sequence[Row] = (),
    files: Collection[str] = LINKED,
) -> str:
    """The report as HTML, complete in itself. `MANY_ROWS` may be lazy; a table that is missing is said to be so.

    `profiles`: as flows.report.profiles gives them. `images`: the prepared ones, or why they are not there.
    `exported`: as flows.report.graphs gives them. `unfinished`: why the run has no results, as flows.runs.unfinished
    says it. `begun`: the stages of a run without results, as flows.runs.so_far gives them.
    `files`: those of `LINKED` that are there.
    """
    import polars as pl
    from jinja2 import Environment, FileSystemLoader

    small = {name: table for name, table in tables.items() if isinstance(table, pl.DataFrame)}
    about: Row = {
        "study": study,
        "run": run,
        "environment": environment,
        "metric": METRIC_NAMES[study.select.metric],
        "missing": [name for name in WANTED if name not in tables],
    }
    if "summary" in small:
        about |= _candidates(small["summary"], tables["latencies"].lazy() if "latencies" in tables else None, study)
    validation = _images(small, "validation")
    about |= {"test_images": _images(small, "test"), "handful": handful(validation) if validation is not None else ""}
    complete = not unfinished and all(name in small for name in PARTS)
    about["complete"] = complete
    outcome = summarise({**small, **_lazy(tables, "predictions")}, study) if complete else None
    unknown = "The run has no results yet." if unfinished else "A table that the winner is found by is missing."
    about["sentences"] = outcome.sentences if outcome else (unknown,)
    about |= {"unfinished": unfinished, "begun": begun, "files": files}
    about["cautions"] = outcome.cautions if outcome else ()
    about["mistakes"] = mistakes(tables, images)
    if study.published:
        about |= {
            "published": published.compare(study.published, tables),
            "published_lines": published.lines,
            "sourced": published.sourced,
            "starred": published.starred,
            "star": published.STAR,
            "brackets": published.BRACKETS,
        }
    if "epochs" in small:
        about["curves"] = curves.training(small["epochs"], validation)
    if "ablations" in small:
        about["ablations"] = _ablations(small["ablations"])
    if "trials" in small:
        about["tuning"] = _tuning(small["trials"], validation)
    if "variants" in small:
        scores = small["evaluations"].iter_rows(named=True) if "evaluations" in small else ()
        forms, held_out = small["variants"].to_dicts(), {row["variant"]: row for row in scores}
        about |= _lineage(forms, held_out, validation)
        about["notes"] = list(dict.fromkeys(filter(None, (row.get("note") for row in forms))))
        if "epochs" in small:
            about["augmented"] = curves.augmentation(small["epochs"], forms, held_out, validation)
    if "datasets" in small:
        about |= _data(small)
    if "environments" in small:
        about["machine"] = [
            (key, fact(key, value)) for row in small["environments"].to_dicts() for key, value in row.items()
        ]
    if "benchmarks" in small:
        bad = small["benchmarks"].filter(pl.col("conditions").is_not_null())
        about["conditions"] = [(words(row), row["conditions"]) for row in bad.to_dicts()]
    about["measured"] = [
        found
        for name, specs, caption in MEASURED
        if name in small and (found := grid(_present(specs, small[name]), small[name].to_dicts(), caption))
    ]
    if "scenarios" in small:
        about["scenarios"] = grid(SCENARIOS, small["scenarios"].to_dicts(), "The winner in LoadGen's scenarios")
        about["capacity"] = capacity(small["scenarios"].to_dicts())
    # A summary without this column is of an older version, which wrote no second file.
    written = "summary" in small and "throughput_conditions" in small["summary"].columns
    marked = written and marked_csv(small["summary"]) is not None
    about |= {"profiles": profiles, "exported": exported, "marked_file": MARKED if marked else None}
    folder = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.get_template("report.html.j2").render(about)


def tables_of(out: Path, run: str) -> dict[str, pl.DataFrame | pl.LazyFrame]:
    """A run's published tables; those of `MANY_ROWS` are not read yet."""
    from tasks import tables as contract

    found: dict[str, pl.DataFrame | pl.LazyFrame] = {}
    for name in WANTED:
        if (out / "tables" / name / f"{run}.parquet").is_file():
            table = contract.read(out, name, run)
            found[name] = table if name in MANY_ROWS else table.collect()
    return found


def render(out: Path, run: str) -> Path:
    """Write `<out>/runs/<run>/report.html` from the run's published tables, study.toml and environment.json.

    Raises
    ------
    ValueError
        If there is no such run.
    """
    from flows.report.profiles import profiles

    folder = Path(out) / "runs" / run
    if not (folder / "study.toml").is_file():
        raise ValueError(f"no run {run!r} in {out}: {folder / 'study.toml'} is not there")
    study = Study.model_validate(tomllib.loads((folder / "study.toml").read_text()))
    environment = folder / "environment.json"
    found, told = tables_of(Path(out), run), unfinished(Path(out), run)
    if told and not found:
        left, damaged = tables_so_far(Path(out), run)
        found = {name: table if name in MANY_ROWS else table.collect() for name, table in left.items()}
        told += "".join(f"; {one}" for one in damaged)
    facts = json.loads(environment.read_text()) if environment.is_file() else {}
    sets = found.get("datasets")
    images = load_images(Path(out), sets.lazy().collect() if sets is not None else None)
    linked = [name for name in LINKED if (folder / name).is_file()]
    text = page(
        found,
        study,
        facts,
        run,
        profiles(folder),
        images,
        graphs(Path(out), found),
        unfinished=told,
        begun=stages(Path(out), run) if told else (),
        files=linked,
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


# ---------------------------------------------------------------------------------------------------------- terminal

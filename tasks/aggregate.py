"""Aggregate: merge every table, find the winner, and check all tables before they may be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.records import Result, Study
from tasks.tables.csv_view import MARKED, csv, marked_csv
from tasks.tables.figures import words
from tasks.tables.schema import OF_A_STUDY
from tasks.tables.summary import BESIDE, PARTS, summarise

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from tasks.caching.work import Work
    from tasks.records import Artifact
    from tasks.tables.summary import Summary


def aggregate(work: Work, study: Study, fragments: dict[str, tuple[Artifact, ...]]) -> Result:
    """Merge the fragments of every table, make the summary, check all tables, and build the Data Docs site.

    In the result, `tables` has those that met their expectations, and `failures` says what the others did not meet.
    """
    from tasks.tables import expectations

    summary: Summary | None = None
    files: dict[str, Artifact] = {}
    with work.store.temporary() as folder:
        paths = _merged(work, fragments, folder)
        work.progress(1, 3, "checking the tables that the summary is made of")
        checks = expectations.Checks()
        unfit_parts = {failure.table for failure in checks.validate({name: paths[name] for name in PARTS})}
        if unfit_parts:
            names = ", ".join(sorted(unfit_parts))
            reason = f"No winner: tables that it is found by do not meet their expectations: {names}"
        else:
            summary = _summary(paths, study)
            reason = summary.reason
            paths["summary"] = folder / "summary.parquet"
            summary.frame.write_parquet(paths["summary"], compression="zstd")
            files = _stored_csv(work, _with_known_accuracy(summary.frame, study), folder)
        work.progress(2, 3, "checking all tables")
        checks.validate({name: path for name, path in paths.items() if name not in PARTS})
        checks.build_docs(folder / "data_docs")
        files["data_docs"] = work.store.put(folder / "data_docs", "folder")
        unfit = {failure.table for failure in checks.failures}
        fit = {name: work.store.put(path, "parquet") for name, path in paths.items() if name not in unfit}
        work.progress(3, 3, f"{len(fit)} tables fit to be published, {len(unfit)} not")
    return Result(
        tables=fit,
        winner=words(summary.winner) if summary and summary.winner else None,
        reason=reason,
        cautions=summary.cautions if summary else (),
        sentences=summary.sentences if summary else (),
        files=files,
        failures=tuple(map(str, checks.failures)),
    )


def _merged(work: Work, fragments: dict[str, tuple[Artifact, ...]], folder: Path) -> dict[str, Path]:
    """Merge the fragments of every table but the summary; return the tables' files by name."""
    from tasks import tables

    paths = {name: folder / f"{name}.parquet" for name in OF_A_STUDY if name != "summary"}
    for name, path in paths.items():
        tables.merge(name, [work.store.get(fragment) for fragment in fragments.get(name, ())], path)
    return paths


def _summary(paths: dict[str, Path], study: Study) -> Summary:
    """Compare all candidates, and find the winner."""
    import polars as pl

    beside = {name: pl.scan_parquet(paths[name]) for name in BESIDE}
    return summarise({name: pl.read_parquet(paths[name]) for name in PARTS} | beside, study)


def _with_known_accuracy(frame: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Return the summary without accuracies where images have no labels: what it has is agreement with the original."""
    return frame.with_columns(top1=None, top5=None) if study.data.unlabelled else frame


def _stored_csv(work: Work, summary: pl.DataFrame, folder: Path) -> dict[str, Artifact]:
    """Store the summary as CSV, and the times of its marked rows, where there are any, as CSV; return both by name."""
    texts = {"benchmark_results.csv": csv(summary)}
    if (marked := marked_csv(summary)) is not None:
        texts[MARKED] = marked
    files: dict[str, Artifact] = {}
    for name, text in texts.items():
        (folder / name).write_text(text)
        files[name] = work.store.put(folder / name, "csv")
    return files


aggregate_task = stage(
    lambda inputs: "aggregate", libraries=("great-expectations", "polars"), counted={"study": Study.rule}
)(aggregate)

"""Aggregate: merge every table, find the winner, check all tables before they may be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.records import Result, Study
from tasks.tables.csv_view import MARKED, csv, marked_csv
from tasks.tables.figures import words
from tasks.tables.schema import OF_A_STUDY
from tasks.tables.summary import BESIDE, PARTS, summarise

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.records import Artifact


def aggregate(work: Work, study: Study, fragments: dict[str, tuple[Artifact, ...]]) -> Result:
    """Merge the fragments of every table, make the summary, check all tables and build the Data Docs site.

    `tables` of the result holds what met its expectations, `failures` says what did not.
    """
    import polars as pl

    from tasks import tables as contract
    from tasks.tables import expectations

    with work.store.temporary() as folder:
        paths = {name: folder / f"{name}.parquet" for name in OF_A_STUDY}
        merged = {name: path for name, path in paths.items() if name != "summary"}
        for name, path in merged.items():
            contract.merge(name, [work.store.get(fragment) for fragment in fragments.get(name, ())], path)
        work.progress(1, 3, "checking the tables that the summary is made of")
        files, winner = {}, None
        cautions, sentences = tuple[str, ...](), tuple[str, ...]()
        checks = expectations.Checks()
        unfit = {failure.table for failure in checks.validate({name: paths[name] for name in PARTS})}
        if unfit:
            reason = f"No winner: tables that it is found by do not meet their expectations: {', '.join(sorted(unfit))}"
        else:
            beside = {name: pl.scan_parquet(paths[name]) for name in BESIDE}
            found = summarise({name: pl.read_parquet(paths[name]) for name in PARTS} | beside, study)
            cautions, sentences = found.cautions, found.sentences
            found.frame.write_parquet(paths["summary"], compression="zstd")
            (folder / "benchmark_results.csv").write_text(csv(found.frame))
            files["benchmark_results.csv"] = work.store.put(folder / "benchmark_results.csv", "csv")
            if (marked := marked_csv(found.frame)) is not None:
                (folder / MARKED).write_text(marked)
                files[MARKED] = work.store.put(folder / MARKED, "csv")
            winner, reason = found.winner and words(found.winner), found.reason
            merged["summary"] = paths["summary"]
        work.progress(2, 3, "checking all tables")
        checks.validate({name: path for name, path in merged.items() if name not in PARTS})
        checks.build_docs(folder / "data_docs")
        files["data_docs"] = work.store.put(folder / "data_docs", "folder")
        unfit = {failure.table for failure in checks.failures}
        passed = {name: work.store.put(path, "parquet") for name, path in merged.items() if name not in unfit}
        work.progress(3, 3, f"{len(passed)} tables fit to be published, {len(unfit)} not")
    return Result(
        tables=passed,
        winner=winner,
        reason=reason,
        cautions=cautions,
        sentences=sentences,
        files=files,
        failures=tuple(map(str, checks.failures)),
    )


aggregate_task = stage(
    lambda inputs: "aggregate", libraries=("great-expectations", "polars"), counted={"study": Study.rule}
)(aggregate)

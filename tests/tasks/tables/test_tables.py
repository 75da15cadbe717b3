"""Tables are checked against their expectations, published, read back, and merged from fragments."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from tasks import tables
from tasks.tables import Unfit, expectations, frames
from tasks.tables.checks import Failure
from tasks.tables.schema import TABLES, Column
from tests.support.programs import command, environment

Row = dict[str, Any]


def value(key: str, column: Column) -> Any:
    """Return a value that the declaration of a column allows. It is the same in every row."""
    if isinstance(column.dtype, pl.List):
        return []
    if column.values:
        return column.values[0]
    return {pl.String: f"some {key}", pl.Int64: 2, pl.Float64: 0.5, pl.Boolean: True}[column.dtype]


def valid(name: str, rows: int = 3) -> list[Row]:
    """Return rows that a table allows. They differ in one column of its key."""
    table = TABLES[name]
    row = {key: value(key, column) for key, column in table.columns.items()}
    if "status" in row:
        row |= {"status": "ok", "error": None}
    if name == "datasets":
        row |= {"class_rows": [1, 1], "class_names": ["a", "b"], "dropped": 0}
        return [{**row, "split": split} for split in TABLES["datasets"].columns["split"].values or ()][:rows]
    if name == "throughputs":
        row |= {"round_images_per_second": [0.4, 0.5], "rounds": 2}
    if name == "benchmarks":
        row |= {"round_turns": [1, 2], "turn_medians_ms": [0.4, 0.5, 0.6], "rounds": 2}
    free = next((key for key in table.unique if TABLES[name].columns[key].values is None), None)
    return [{**row, free: i if row[free] == 2 else f"{free}-{i}"} if free else row for i in range(1, rows + 1)]


def write_table(folder: Path, name: str, rows: list[Row] | pl.DataFrame) -> Path:
    path = folder / f"{name}.parquet"
    (rows if isinstance(rows, pl.DataFrame) else frames.frame(name, rows)).write_parquet(path)
    return path


def check(paths: dict[str, Path], docs: Path | None = None) -> list[Failure]:
    checks = expectations.Checks()
    failures = checks.validate(paths)
    if docs is not None:
        checks.build_docs(docs)
    return failures


def failures_of(folder: Path, name: str, rows: list[Row] | pl.DataFrame) -> list[Failure]:
    return check({name: write_table(folder, name, rows)})


def valid_but_for(name: str, row: int, /, **values: Any) -> list[Row]:
    rows = valid(name)
    rows[row] |= values
    return rows


def test_every_table_may_be_empty(tmp_path):
    assert check({name: write_table(tmp_path, name, []) for name in TABLES}) == []
    for name in TABLES:
        (columns,) = expectations.expectations(name, empty=True).expectations
        assert columns.column_list == list(TABLES[name].columns)


def test_every_table_accepts_valid_rows_and_its_data_docs_need_no_network(tmp_path):
    docs = tmp_path / "docs"
    assert check({name: write_table(tmp_path, name, valid(name)) for name in TABLES}, docs) == []
    index = (docs / "index.html").read_text()
    for name in TABLES:
        assert f">{name}</a>" in index
    linked = {docs / part.split('"')[0] for part in index.split('href="')[1:]}
    assert len(linked) == 2 * len(TABLES)
    for page in linked:
        assert page.is_file()
    for page in docs.rglob("*.html"):
        text = page.read_text()
        assert "http://" not in text, page
        assert "https://" not in text, page
        assert "<script" not in text, page


def test_a_second_check_replaces_the_data_docs(tmp_path):
    path = {"memory": write_table(tmp_path, "memory", valid("memory"))}
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "old.html").write_text("")
    check(path, docs)
    assert sorted(p.name for p in docs.iterdir()) == ["expectations", "index.html", "validations"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs", "memory.parquet"], "no unfinished folder is left"


BROKEN = {
    "below its range": ("epochs", {"loss": -0.1}, "loss is at least 0 and finite", -0.1),
    "above its range": ("epochs", {"top5": 1.5}, "top5 is from 0 to 1", 1.5),
    "NaN": ("epochs", {"loss": float("nan")}, "loss is at least 0 and finite", None),
    "below its range where null is allowed": ("certificates", {"threads": -1}, "threads is at least 0", -1),
    "infinite": ("epochs", {"loss": float("inf")}, "loss is at least 0 and finite", float("inf")),
    "null": ("epochs", {"macro_f1": None}, "macro_f1 is never null", None),
    "not in its set": ("epochs", {"split": "test"}, "split is one of train, validation", "test"),
    "out of order": ("epochs", {"top1": 0.6}, "top1 is at most top5", (0.6, 0.5)),
    "a repeated name": ("variants", {"name": "name-1"}, "name is unique", "name-1"),
    "a repeated key": (
        "memory",
        {"variant": "variant-1"},
        "variant × runtime × device × batch_size is unique",
        ("variant-1", "some runtime", "some device", 2),
    ),
    "an error where ok": ("trials", {"error": "boom"}, "error is given exactly where status is not ok", "boom"),
    "no error where failed": ("trials", {"status": "failed"}, "error is given exactly where status is not ok", None),
    "ok without a file": ("variants", {"sha256": None}, "sha256 is given exactly where status is ok", None),
    "failed with a latency": (
        "benchmarks",
        {"status": "failed", "error": "boom"},
        "latency_mean_ms is given exactly where status is ok",
        0.5,
    ),
    "a list of another length": (
        "throughputs",
        {"round_images_per_second": [0.5]},
        "round_images_per_second has as many entries as rounds says",
        ([0.5], 2),
    ),
    "a list of another length than a list says": (
        "benchmarks",
        {"turn_medians_ms": [0.5]},
        "turn_medians_ms has as many entries as round_turns says",
        ([0.5], [1, 2]),
    ),
    "a negative list entry": ("datasets", {"class_rows": [1, -1]}, "every entry of class_rows is at least 0", [1, -1]),
    "a null list entry": (
        "datasets",
        {"dropped_reasons": [None], "dropped": 1, "dropped_rows": [4]},
        "dropped_reasons has no null entry",
        [None],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_failure_of_a_broken_row_names_its_expectation_its_number_and_its_value(tmp_path, case):
    name, change, expectation, broken_value = BROKEN[case]
    (failure,) = failures_of(tmp_path, name, valid_but_for(name, 2, **change))
    assert (failure.table, failure.expectation) == (name, expectation)
    assert failure.rows[-1] == 2
    if broken_value is not None:
        assert failure.values[-1] == broken_value
    assert f"table {name}: expected that {expectation}" in str(failure)


def test_the_failure_of_a_repeated_key_names_both_rows(tmp_path):
    (failure,) = failures_of(tmp_path, "memory", valid_but_for("memory", 2, variant="variant-1"))
    assert failure.rows == (0, 2)


def test_nan_fails_where_null_is_allowed(tmp_path):
    rows = valid_but_for("evaluations", 1, top1=float("nan"), top1_low=None, top1_high=None, top5=None)
    (failure,) = failures_of(tmp_path, "evaluations", rows)
    assert (failure.expectation, failure.rows) == ("top1 is from 0 to 1", (1,))


def test_columns_in_order_may_have_nulls(tmp_path):
    assert (
        failures_of(tmp_path, "benchmarks", valid_but_for("benchmarks", 0, latency_p99_ms=None, latency_max_ms=0.6))
        == []
    )


def test_a_failure_of_many_rows_names_the_first_twenty(tmp_path):
    rows = [{**row, "loss": -1.0} for row in valid("epochs", 50)]
    (failure,) = failures_of(tmp_path, "epochs", rows)
    assert failure.rows == tuple(range(20))
    assert failure.values == (-1.0,) * 20


def test_column_types_are_read_from_the_file_and_not_from_pandas(tmp_path):
    whole = frames.frame("memory", valid("memory"))
    (failure,) = failures_of(tmp_path, "memory", whole.with_columns(pl.col("batch_size").cast(pl.Int32)))
    assert (failure.expectation, failure.values) == ("batch_size is of type Int64", ("Int32",))
    failures = failures_of(tmp_path, "memory", whole.with_columns(pl.col("batch_size").cast(pl.String)))
    assert failures[0].values == ("String",)


def test_missing_extra_or_reordered_columns_are_a_failure(tmp_path):
    whole = frames.frame("memory", valid("memory"))
    for frame in (whole.drop("vram_peak_bytes"), whole.select(reversed(whole.columns)), whole.with_columns(more=1)):
        failures = failures_of(tmp_path, "memory", frame)
        assert failures[0].expectation == "the columns are: " + ", ".join(TABLES["memory"].columns)
        assert failures[0].values == tuple(frame.columns)


def test_an_integer_column_with_nulls_keeps_its_values(tmp_path):
    # A float64 cannot hold this number.
    big = 2**53 + 1
    rows = valid_but_for("memory", 0, vram_peak_bytes=None)
    rows[1] |= {"rss_baseline_bytes": big, "rss_peak_bytes": big - 1, "vram_peak_bytes": big}
    (failure,) = failures_of(tmp_path, "memory", rows)
    assert (failure.expectation, failure.rows) == ("rss_baseline_bytes is at most rss_peak_bytes", (1,))
    assert failure.values == ((big, big - 1),)


def test_the_data_docs_show_which_expectations_failed(tmp_path):
    path = write_table(
        tmp_path, "datasets", valid_but_for("datasets", 1, class_rows=[1, -1], image_size=0, source="<b>")
    )
    check({"datasets": path}, tmp_path / "docs")
    index = (tmp_path / "docs" / "index.html").read_text()
    assert "image_size is at least 1 (row 1); found 0" in index
    assert "every entry of class_rows is at least 0 (row 1)" in index
    (page,) = (tmp_path / "docs" / "validations").rglob("*.html")
    assert "image_size is at least 1" in page.read_text()
    assert "fa-times" in page.read_text()


def test_an_unknown_table_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="unknown table 'latency'; tables: datasets, preparations, epochs"):
        check({"latency": tmp_path / "latency.parquet"})


def latency_samples(rows: int) -> pl.DataFrame:
    """Return latency samples of four candidates."""
    query = pl.int_range(rows, eager=True)
    names = pl.Series([f"resnet34-w16/prune-0.25/onnx/u8s8-{i}" for i in range(4)])
    return pl.DataFrame({"query": query}).select(
        variant=names.gather(pl.Series(query % 4)),
        runtime=pl.lit("onnxruntime"),
        device=pl.lit("cpu"),
        batch_size=pl.lit(1, pl.Int64),
        round=pl.lit(1, pl.Int64),
        query="query",
        latency_ms=pl.lit(0.25),
    )


def test_many_rows_are_checked_in_batches_within_bounds_of_memory_and_time(tmp_path):
    path = write_table(tmp_path, "latencies", latency_samples(600_000))
    # The first check imports Great Expectations, whose memory does not count.
    assert check({"latencies": write_table(tmp_path, "memory", latency_samples(10))}) == []
    process = psutil.Process()
    rss_before = process.memory_info().rss
    start = time.process_time()
    done = threading.Event()
    rss_samples = [0]

    def watch() -> None:
        while not done.wait(0.005):
            rss_samples.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert check({"latencies": path}) == []
    finally:
        done.set()
        watcher.join()
    assert max(rss_samples) - rss_before < 500 * 2**20
    # Seconds of processor time: about 3 on a machine where nothing else runs.
    assert time.process_time() - start < 30


def test_a_broken_row_beyond_the_first_batch_is_named_by_its_number_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(expectations, "BATCH_ROWS", 100)
    whole = latency_samples(250).with_columns(
        latency_ms=pl.when(pl.col("query") == 203).then(-1.0).otherwise(pl.col("latency_ms"))
    )
    (failure,) = failures_of(tmp_path, "latencies", whole)
    assert failure == Failure("latencies", "latency_ms is at least 0 and finite", (203,), (-1.0,))


def test_a_key_that_recurs_in_another_batch_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(expectations, "BATCH_ROWS", 100)
    whole = latency_samples(250)
    (failure,) = failures_of(tmp_path, "latencies", pl.concat([whole, whole[7:8]]))
    assert failure.expectation == "variant × runtime × device × batch_size × round × query is unique"
    assert failure.rows == (7, 250)
    assert failure.values[0] == ("resnet34-w16/prune-0.25/onnx/u8s8-3", "onnxruntime", "cpu", 1, 1, 7)


def test_a_published_table_is_stored_under_its_run_and_read_back(tmp_path):
    files = {name: write_table(tmp_path, name, valid(name)) for name in ("memory", "epochs")}
    published = tables.publish(files, tmp_path / "out", "first")
    tables.publish({"memory": files["memory"]}, tmp_path / "out", "second")
    assert published["memory"] == tmp_path / "out" / "tables" / "memory" / "first.parquet"
    assert sorted(p.name for p in published["memory"].parent.iterdir()) == ["first.parquet", "second.parquet"]
    assert files["memory"].exists()
    first_run = tables.read(tmp_path / "out", "memory", "first").collect()
    assert first_run.equals(frames.frame("memory", valid("memory")))
    all_runs = tables.read(tmp_path / "out", "memory").collect()
    assert all_runs["run"].to_list() == ["first"] * 3 + ["second"] * 3
    assert all_runs.drop("run").equals(pl.concat([first_run, first_run]))


def test_if_one_table_is_broken_no_table_is_published(tmp_path):
    valid_file = write_table(tmp_path, "memory", valid("memory"))
    broken_file = write_table(
        tmp_path, "epochs", frames.frame("epochs", valid("epochs")).with_columns(pl.col("loss").cast(pl.Float32))
    )
    with pytest.raises(Unfit, match="table epochs: expected that loss is of type Float64; found 'Float32'"):
        tables.publish({"memory": valid_file, "epochs": broken_file}, tmp_path / "out", "run")
    assert not (tmp_path / "out").exists()


def test_unfit_names_table_expectation_rows_and_values_also_after_pickling():
    import pickle

    error = Unfit([Failure("epochs", "loss is finite", (3, 4), (-1.0, -2.0)), Failure("memory", "a is b")])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    first, second = str(error).splitlines()
    assert first == "table epochs: expected that loss is finite (row 3, 4); found -1.0, -2.0"
    assert second == "table memory: expected that a is b"


def test_reading_an_unknown_table_or_run_names_those_that_exist(tmp_path):
    tables.publish({"memory": write_table(tmp_path, "memory", valid("memory"))}, tmp_path, "first")
    with pytest.raises(ValueError, match="unknown table 'memories'; tables: datasets"):
        tables.read(tmp_path, "memories")
    with pytest.raises(ValueError, match=r"no run 'second' of table memory .*there: first"):
        tables.read(tmp_path, "memory", "second")
    with pytest.raises(ValueError, match="no run of table epochs"):
        tables.read(tmp_path, "epochs")


def test_merging_keeps_the_order_of_fragments_and_of_their_rows(tmp_path):
    rows = valid("epochs", 5)
    parts = []
    for i, part in enumerate((rows[3:], [], rows[:3])):
        parts.append(tmp_path / f"part-{i}.parquet")
        frames.frame("epochs", part).write_parquet(parts[-1])
    tables.merge("epochs", parts, tmp_path / "deep" / "epochs.parquet")
    assert pl.read_parquet(tmp_path / "deep" / "epochs.parquet").equals(frames.frame("epochs", rows[3:] + rows[:3]))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["epochs.parquet"]


def test_merging_no_fragments_gives_an_empty_table_with_all_columns(tmp_path):
    tables.merge("benchmarks", [], tmp_path / "benchmarks.parquet")
    empty = pl.read_parquet(tmp_path / "benchmarks.parquet")
    assert empty.schema == frames.frame("benchmarks", []).schema
    assert len(empty) == 0


def test_a_frame_fills_missing_columns_with_null_and_refuses_unknown_columns():
    (row,) = frames.frame("memory", [{"variant": "a"}]).rows(named=True)
    assert row["variant"] == "a"
    assert row["rss_peak_bytes"] is None
    with pytest.raises(ValueError, match="table memory has no column rss_kb"):
        frames.frame("memory", [{"rss_kb": 1}])


def test_checking_prints_nothing_needs_no_network_and_importing_tables_is_light(tmp_path):
    path = write_table(tmp_path, "memory", valid("memory"))
    completed = subprocess.run(
        command("check_tables_offline", path, tmp_path / "docs"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stdout, completed.stderr.splitlines()) == (0, "", ["INFO:root:start"])

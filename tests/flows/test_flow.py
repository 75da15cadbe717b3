"""The flow as a person runs it: the command in its own process, a real Prefect server, a real worker."""

import json
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import polars
import psutil
import pytest

from tasks import tables
from tasks.caching.store import Store
from tasks.records import Variant
from tasks.tables.schema import OF_A_STUDY
from tests.support import programs
from tests.support.command import SHORT, TINY, Burnish, shared_data
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """A tiny study, run once through all ten stages, and what it printed."""
    burnish = Burnish(tmp_path_factory.mktemp("finished") / "artifacts", server)
    return burnish, burnish.run(*TINY)


def assert_concluded(run, text):
    """The end of a run says its winner, or, as where something disturbed every row, why there is none."""
    told = json.loads((run / "result.json").read_text())
    reason = told["reason"].removeprefix(" ".join(told["cautions"])).strip()
    said = f"{'winner: ' if told['winner'] else ''}{reason}"
    # a sentence per line in the terminal
    assert " ".join(said.split()) in " ".join(text.split())
    assert told["winner"] or reason.startswith("No winner")


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_says(finished):
    burnish, done = finished
    run = next((burnish.out / "runs").iterdir())
    for name in ("study.toml", "environment.json", "benchmark_results.csv", "report.html", "data_docs/index.html"):
        assert (run / name).stat().st_size > 0, name
    assert {p.stem for p in (burnish.out / "tables").iterdir()} == set(OF_A_STUDY)
    assert all((burnish.out / "tables" / t / f"{run.name}.parquet").exists() for t in OF_A_STUDY)
    logs = {p.stem.partition("-")[0] for p in (run / "logs").iterdir()}
    assert logs >= {
        "prepare",
        "train",
        "tune",
        "augment",
        "prune",
        "export",
        "quantize",
        "build",
        "benchmark",
        "serve",
        "aggregate",
    }
    variants = tables.read(burnish.out, "variants", run.name).collect()
    kept = {name.replace("/", "-") for name in variants.filter(polars.col("benchmark"))["name"]}
    assert {p.name.removesuffix(p.suffix) if p.is_file() else p.name for p in (run / "models").iterdir()} == kept
    assert {p.suffix for p in (run / "models").iterdir()} >= {".onnx", ".engine", ".safetensors"}
    assert_concluded(run, done.stdout)
    assert str(run / "report.html") in done.stdout


@pytest.mark.parametrize("linked", [True, False])
def test_models_that_were_timed_are_kept_under_their_variants_names(tmp_path, monkeypatch, linked):
    from flows.run import _keep_models

    if not linked:
        monkeypatch.setattr(os, "link", lambda *paths: (tmp_path / "no hard links here").stat())
    store = Store(tmp_path / "store")
    with store.temporary() as folder:
        (folder / "a.onnx").write_bytes(b"graph")
        (folder / "b" / "weights").mkdir(parents=True)
        (folder / "b" / "model.onnx").write_bytes(b"graph beside its weights")
        (folder / "b" / "weights" / "0.bin").write_bytes(b"weights")
        file, external = store.put(folder / "a.onnx", "onnx"), store.put(folder / "b", "onnx")
    common = {"model": "m", "stage": "export", "format": "onnx", "artifact": file, "benchmark": True}
    variants = [
        Variant(name="m/augment-crop/onnx", **common),
        Variant(name="m/large/onnx", **common | {"artifact": external}),
        Variant(name="m/not-timed", **common | {"benchmark": False}),
        Variant(name="m/failed", **common | {"artifact": None, "status": "failed", "error": "why"}),
    ]
    _keep_models(variants, store, tmp_path / "models")
    names = {str(p.relative_to(tmp_path / "models")) for p in (tmp_path / "models").rglob("*") if p.is_file()}
    assert names == {"m-augment-crop-onnx.onnx", "m-large-onnx/model.onnx", "m-large-onnx/weights/0.bin"}
    kept = tmp_path / "models" / "m-augment-crop-onnx.onnx"
    assert kept.samefile(store.get(file)) is linked and kept.read_bytes() == b"graph"


@pytest.mark.slow
def test_the_tables_of_a_run_hold_together(finished):
    burnish, _ = finished
    run = next((burnish.out / "runs").iterdir()).name
    frames = {name: tables.read(burnish.out, name, run).collect() for name in OF_A_STUDY}
    variants, summary = frames["variants"], frames["summary"]
    assert set(variants["stage"]) == {"train", "tune", "augment", "prune", "export", "quantize", "build"}
    assert variants.filter(pl_ok())["sha256"].null_count() == 0
    assert set(variants["parent"].drop_nulls()) <= set(variants["name"])
    # engines cannot run on a CPU
    assert {"ok", "skipped"} <= set(summary["status"])
    assert summary.filter(polars.col("status") != "ok")["error"].null_count() == 0
    assert (summary["role"] == "reference").sum() == 1 or (summary["role"] == "winner").sum() == 1
    ok = frames["benchmarks"].filter(pl_ok())
    assert frames["latencies"].height == ok["queries"].sum()
    assert set(frames["evaluations"]["runtime"]) >= {"eager", "torchscript", "onnxruntime"}
    assert frames["trials"].height == 2


def pl_ok():
    return polars.col("status") == "ok"


@pytest.mark.slow
def test_a_second_run_recomputes_nothing_and_is_quick(finished):
    burnish, _ = finished
    started = time.monotonic()
    burnish.run(*TINY)
    assert set(burnish.why().values()) == {"hit"}
    assert time.monotonic() - started < 60
    assert len(list((burnish.out / "tables" / "summary").iterdir())) == 2


@pytest.mark.slow
def test_a_benchmark_setting_reruns_benchmark_and_what_follows_alone(finished):
    burnish, _ = finished
    burnish.run(*TINY, "benchmark.batch_sizes=[1]")
    assert {task for task, outcome in burnish.why().items() if outcome == "computed"} == {
        "benchmark",
        "serve",
        "aggregate",
    }
    told = burnish("why", "--out", str(burnish.out)).stdout
    assert "settings.batch_sizes" in told


@pytest.mark.slow
def test_a_deleted_and_a_corrupted_file_rerun_the_stages_that_make_them(finished):
    burnish, _ = finished
    variants = polars.read_parquet(burnish.out / "tables" / "variants" / "*.parquet")
    onnx = variants.filter((polars.col("stage") == "export") & (polars.col("format") == "onnx"))
    paths = [burnish.out / "store" / path for path in onnx["path"].unique(maintain_order=True)]
    assert len(paths) == 2
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"!")
    newest = max((burnish.out / "runs").iterdir(), key=lambda path: path.stat().st_ctime)
    result = json.loads((newest / "why" / "augment-lenet5.json").read_text())["key"]
    # as a full disk leaves one
    (burnish.out / "store" / "results" / result).write_bytes(b"")
    (burnish.out / "store" / "last" / "quickstart" / "prepare.json").write_text("[]")
    said = burnish.run(*TINY).stderr
    told = burnish.why()
    assert {told[f"export/{parent}"] for parent in onnx["parent"]} | {told["augment/lenet5"]} == {"computed"}
    assert {told[task] for task in ("prepare", "train/lenet5", "tune/lenet5")} == {"hit"}
    assert said.count(f"WARNING augment/lenet5: stored result {result} is not readable: ") == 1
    assert said.count("prepare.json was removed, because it is not readable: ") == 1
    assert {path.stat().st_size for path in paths} == set(onnx["size_bytes"])


@pytest.mark.slow
def test_without_a_server_a_run_killed_in_the_middle_of_training_resumes_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    burnish = Burnish(tmp_path / "artifacts", None)
    assert "PREFECT_API_URL" not in burnish.environment
    settings = (*SHORT, "train.epochs=25", "train.patience=25")
    process = burnish.start("run", "quickstart", "--out", str(burnish.out), *(f"--set={s}" for s in settings))
    deadline = time.monotonic() + 300
    # the first epoch's checkpoint
    while not list((burnish.out / "scratch").glob("*/*.pt")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == [], "its Prefect server too"
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database, database:
        # As one that is killed while it measures leaves it.
        database.execute(
            'INSERT INTO concurrency_limit_v2 (name, "limit", active, active_slots, denied_slots, '
            "slot_decay_per_second,"
            " avg_slot_occupancy_seconds) VALUES (?, 1, 1, 1, 0, 0, 2)",
            (f"burnish {platform.node()} cpu",),
        )
    burnish.run(*settings)
    assert burnish.why()["prepare"] == "hit"
    run = max((burnish.out / "runs").iterdir(), key=lambda p: p.name)
    assert "resumed after epoch" in (run / "logs" / "train-lenet5.log").read_text()
    assert tables.read(burnish.out, "epochs", run.name).collect()["epoch"].max() == 25
    assert not list((burnish.out / "scratch").glob("*/*.pt"))


@pytest.mark.slow
def test_a_variant_that_fails_is_a_row_and_the_rest_goes_on_and_an_edited_helper_reruns_training_and_what_follows(
    server, tmp_path
):
    for folder in ("flows", "tasks", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    burnish = Burnish(tmp_path / "artifacts", server, cwd=tmp_path)
    done = burnish.run(
        *SHORT,
        "models=['lenet5', {name='resnet34', width=8}]",
        "train.learning_rate=1000",
        "train.schedule='constant'",
        "train.epochs=1",
        code=1,
    )
    assert "Traceback" not in done.stderr
    assert "no variant to measure" in done.stderr
    done = burnish.run(*SHORT, "models=[{name='lenet5', upsample=7}]", code=2)
    assert "no more than the images' 8 pixels" in done.stderr.splitlines()[-1]
    # Nothing has a thousand channels to be rounded to: the pruned variant fails, the others go on.
    settings = (*SHORT, "prune.ratios=[0.5]", "prune.round_to=1000")
    done = burnish.run(*settings)
    variants = polars.read_parquet(burnish.out / "tables" / "variants" / "*.parquet")
    failed = variants.filter(polars.col("status") == "failed")
    assert failed["name"].to_list() == ["lenet5/prune-0.5"]
    assert failed["error"][0]
    assert_concluded(max((burnish.out / "runs").iterdir()), done.stdout)
    # Of seven stages the one on the pruned weights (export, and nothing else here) does not come.
    told = [(int(n), int(of)) for n, of in re.findall(r"(\d+) of (\d+) stages: ", done.stderr)]
    assert told == [(n, 7 if n < 3 else 6) for n in range(1, 7)]
    helper = tmp_path / "tasks" / "training" / "optimizers.py"
    text = helper.read_text()
    edited = text.replace('"one_cycle": 0.25', '"one_cycle": 0.3')
    assert edited != text
    helper.write_text(edited)
    burnish.run(*settings)
    told = burnish.why()
    assert told.pop("prepare") == "hit"
    assert {task for task, outcome in told.items() if outcome == "failed"} == {"prune/lenet5/0.5"}
    assert set(told.values()) == {"computed", "failed"}


@pytest.mark.slow
def test_the_broken_set_is_refused_with_its_rows_or_dropped_and_recorded(burnish):
    path = shared_data() / "broken"
    image = (f"data.path={path}", "quantize.calibration_images=16")
    refused = burnish.run(*SHORT, *image, code=2)
    assert "data.on_bad" in refused.stderr
    assert "Traceback" not in refused.stderr
    for row in (16, 30, 31, 39, 60, 62, 65, 78, 100, 104, 110, 114, 151, 165):
        assert str(row) in refused.stderr
    burnish.run(*SHORT, *image, "data.on_bad=drop")
    datasets = polars.read_parquet(burnish.out / "tables" / "datasets" / "*.parquet")
    assert datasets["dropped"].sum() == 14
    assert datasets["rows"].sum() == 186
    assert set(datasets["source"]) == {"parquet"}, "found by content"
    page = next((burnish.out / "runs").glob("*/report.html")).read_text()
    assert f"Layout in which the images were read: {datasets['layout'][0]}" in page
    said = polars.read_parquet(burnish.out / "tables" / "predictions" / "*.parquet")
    assert said["file"].str.contains(r"^\w+/\w+\.(jpg|png)$").all()
    mistake = said.filter(polars.col("label") != polars.col("prediction")).sort("confidence", descending=True)
    assert mistake["file"][0] in page


@pytest.mark.slow
def test_two_flow_runs_of_one_server_measure_one_after_the_other(server, tmp_path):
    runs = [
        subprocess.Popen(
            programs.command("flow_that_holds_a_device", name, str(tmp_path / name)),
            env=programs.environment(PREFECT_API_URL=server),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in ("first", "second")
    ]
    told = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    times = sorted(line.split()[1:] for text in told for line in text.splitlines() if line.startswith("held"))
    (_, end), (begin, _) = times
    assert float(end) <= float(begin)


@pytest.mark.slow
def test_a_stage_is_computed_again_where_that_is_asked(server, tmp_path):
    done = subprocess.run(
        programs.command("flow_that_calls_again", str(tmp_path / "out")),
        env=programs.environment(PREFECT_API_URL=server),
        text=True,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines() == ["()", "computed", "()", "('benchmark',)", "('train',)", "computed"]
    told = json.loads((tmp_path / "out" / "runs" / "x-1-1" / "why" / "train-x.json").read_text())
    assert told["differs"] == ["asked for again"]

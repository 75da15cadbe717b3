"""The flow as a person runs it: the command in a process of its own, with a real Prefect server and real workers."""

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
from tests.support.prefect_home import prefect_home
from tests.support.shared import copy_results


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The command after it has run a tiny study through all stages, and what that run printed."""
    burnish = Burnish(tmp_path_factory.mktemp("finished") / "artifacts", server)
    return burnish, burnish.run(*TINY)


def assert_concluded(run, text):
    """Assert that the output tells the winner, or why there is none, as where something disturbed every row."""
    result = json.loads((run / "result.json").read_text())
    reason = result["reason"].removeprefix(" ".join(result["cautions"])).strip()
    conclusion = f"{'winner: ' if result['winner'] else ''}{reason}"
    # In the terminal each sentence has a line of its own.
    assert " ".join(conclusion.split()) in " ".join(text.split())
    assert result["winner"] or reason.startswith("No winner")


@pytest.mark.slow
def test_a_run_leaves_the_files_that_the_readme_promises(finished):
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
    benchmarked = {name.replace("/", "-") for name in variants.filter(polars.col("benchmark"))["name"]}
    assert {p.name.removesuffix(p.suffix) if p.is_file() else p.name for p in (run / "models").iterdir()} == benchmarked
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
    model = tmp_path / "models" / "m-augment-crop-onnx.onnx"
    assert model.samefile(store.get(file)) is linked and model.read_bytes() == b"graph"


@pytest.mark.slow
def test_the_tables_of_a_run_agree_with_one_another(finished):
    burnish, _ = finished
    run = next((burnish.out / "runs").iterdir()).name
    frames = {name: tables.read(burnish.out, name, run).collect() for name in OF_A_STUDY}
    variants, summary = frames["variants"], frames["summary"]
    assert set(variants["stage"]) == {"train", "tune", "augment", "prune", "export", "quantize", "build"}
    assert variants.filter(is_ok())["sha256"].null_count() == 0
    assert set(variants["parent"].drop_nulls()) <= set(variants["name"])
    # Engines are built, but a CPU cannot execute them: they are skipped.
    assert {"ok", "skipped"} <= set(summary["status"])
    assert summary.filter(polars.col("status") != "ok")["error"].null_count() == 0
    assert (summary["role"] == "reference").sum() == 1 or (summary["role"] == "winner").sum() == 1
    ok = frames["benchmarks"].filter(is_ok())
    assert frames["latencies"].height == ok["queries"].sum()
    assert set(frames["evaluations"]["runtime"]) >= {"eager", "torchscript", "onnxruntime"}
    assert frames["trials"].height == 2


def is_ok():
    return polars.col("status") == "ok"


@pytest.mark.slow
def test_a_second_run_recomputes_nothing_and_takes_less_than_a_minute(finished):
    burnish, _ = finished
    started = time.monotonic()
    burnish.run(*TINY)
    assert set(burnish.why().values()) == {"hit"}
    assert time.monotonic() - started < 60
    assert len(list((burnish.out / "tables" / "summary").iterdir())) == 2


@pytest.mark.slow
def test_a_changed_benchmark_setting_reruns_only_the_benchmark_and_later_stages(finished):
    burnish, _ = finished
    burnish.run(*TINY, "benchmark.batch_sizes=[1]")
    assert {task for task, outcome in burnish.why().items() if outcome == "computed"} == {
        "benchmark",
        "serve",
        "aggregate",
    }
    explanation = burnish("why", "--out", str(burnish.out)).stdout
    assert "settings.batch_sizes" in explanation


@pytest.mark.slow
def test_deleted_and_corrupted_files_rerun_the_stages_that_made_them(finished):
    burnish, _ = finished
    variants = polars.read_parquet(burnish.out / "tables" / "variants" / "*.parquet")
    onnx = variants.filter((polars.col("stage") == "export") & (polars.col("format") == "onnx"))
    paths = [burnish.out / "store" / path for path in onnx["path"].unique(maintain_order=True)]
    assert len(paths) == 2
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"!")
    newest = max((burnish.out / "runs").iterdir(), key=lambda path: path.stat().st_ctime)
    result = json.loads((newest / "why" / "augment-lenet5.json").read_text())["key"]
    # A full disk leaves a result empty.
    (burnish.out / "store" / "results" / result).write_bytes(b"")
    (burnish.out / "store" / "last" / "quickstart" / "prepare.json").write_text("[]")
    log = burnish.run(*TINY).stderr
    outcomes = burnish.why()
    assert {outcomes[f"export/{parent}"] for parent in onnx["parent"]} | {outcomes["augment/lenet5"]} == {"computed"}
    assert {outcomes[task] for task in ("prepare", "train/lenet5", "tune/lenet5")} == {"hit"}
    assert log.count(f"WARNING augment/lenet5: stored result {result} is not readable: ") == 1
    assert log.count("prepare.json was removed, because it is not readable: ") == 1
    assert {path.stat().st_size for path in paths} == set(onnx["size_bytes"])


@pytest.mark.slow
def test_a_run_without_a_server_that_was_killed_while_training_resumes_at_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home(tmp_path / "prefect")))
    burnish = Burnish(tmp_path / "artifacts", None)
    assert "PREFECT_API_URL" not in burnish.environment
    settings = (*SHORT, "train.epochs=25", "train.patience=25")
    process = burnish.start("run", "quickstart", "--out", str(burnish.out), *(f"--set={s}" for s in settings))
    deadline = time.monotonic() + 300
    # The run is killed as soon as its first epoch has left a checkpoint.
    while not list((burnish.out / "scratch").glob("*/*.pt")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == [], "the Prefect server that the run started must end with it"
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database, database:
        # A run that is killed while it measures leaves the lock of its device taken.
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
def test_a_failed_variant_is_a_row_and_an_edited_helper_reruns_training_and_later_stages(server, short_study, tmp_path):
    for folder in ("flows", "tasks", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    burnish = Burnish(tmp_path / "artifacts", server, cwd=tmp_path)
    copy_results(short_study, burnish.out)
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
    # No layer has a thousand channels to round to, so pruning fails and the other variants go on.
    settings = (*SHORT, "prune.ratios=[0.5]", "prune.round_to=1000")
    done = burnish.run(*settings)
    variants = polars.read_parquet(burnish.out / "tables" / "variants" / "*.parquet")
    failed = variants.filter(polars.col("status") == "failed")
    assert failed["name"].to_list() == ["lenet5/prune-0.5"]
    assert failed["error"][0]
    assert_concluded(max((burnish.out / "runs").iterdir()), done.stdout)
    # Seven stages are planned. The export of the pruned weights leaves the count when pruning has failed.
    progress = [(int(n), int(total)) for n, total in re.findall(r"(\d+) of (\d+) stages: ", done.stderr)]
    assert progress == [(n, 7 if n < 3 else 6) for n in range(1, 7)]
    helper = tmp_path / "tasks" / "training" / "optimizers.py"
    text = helper.read_text()
    edited = text.replace('"one_cycle": 0.25', '"one_cycle": 0.3')
    assert edited != text
    helper.write_text(edited)
    burnish.run(*settings)
    outcomes = burnish.why()
    assert outcomes.pop("prepare") == "hit"
    assert {task for task, outcome in outcomes.items() if outcome == "failed"} == {"prune/lenet5/0.5"}
    assert set(outcomes.values()) == {"computed", "failed"}


@pytest.mark.slow
def test_broken_images_are_refused_with_their_rows_or_dropped_and_counted(burnish):
    path = shared_data() / "broken"
    settings = (f"data.path={path}", "quantize.calibration_images=16")
    refused = burnish.run(*SHORT, *settings, code=2)
    assert "data.on_bad" in refused.stderr
    assert "Traceback" not in refused.stderr
    for row in (16, 30, 31, 39, 60, 62, 65, 78, 100, 104, 110, 114, 151, 165):
        assert str(row) in refused.stderr
    burnish.run(*SHORT, *settings, "data.on_bad=drop")
    datasets = polars.read_parquet(burnish.out / "tables" / "datasets" / "*.parquet")
    assert datasets["dropped"].sum() == 14
    assert datasets["rows"].sum() == 186
    assert set(datasets["source"]) == {"parquet"}, "the source is recognised by its content"
    page = next((burnish.out / "runs").glob("*/report.html")).read_text()
    assert f"Layout in which the images were read: {datasets['layout'][0]}" in page
    predictions = polars.read_parquet(burnish.out / "tables" / "predictions" / "*.parquet")
    assert predictions["file"].str.contains(r"^\w+/\w+\.(jpg|png)$").all()
    mistake = predictions.filter(polars.col("label") != polars.col("prediction")).sort("confidence", descending=True)
    assert mistake["file"][0] in page


@pytest.mark.slow
def test_two_flow_runs_of_one_server_never_measure_on_a_device_at_once(server, tmp_path):
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
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    times = sorted(line.split()[1:] for text in outputs for line in text.splitlines() if line.startswith("held"))
    (_, end), (begin, _) = times
    assert float(end) <= float(begin)


@pytest.mark.slow
def test_a_stage_is_computed_again_when_the_user_asks_for_it(server, tmp_path):
    done = subprocess.run(
        programs.command("flow_that_calls_again", str(tmp_path / "out")),
        env=programs.environment(PREFECT_API_URL=server),
        text=True,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines() == ["()", "computed", "()", "('benchmark',)", "('train',)", "computed"]
    decision = json.loads((tmp_path / "out" / "runs" / "x-1-1" / "why" / "train-x.json").read_text())
    assert decision["differs"] == ["asked for again"]

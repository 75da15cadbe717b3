"""Profiles of one small ResNet in each runtime: what is measured, what is written, what the command and the report
say."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from flows import cli
from flows.report import page as report
from flows.report import profiling_charts
from flows.settings import to_toml
from flows.terminal.profile_text import text
from tasks import profilers, runtimes, tables
from tasks.build import build
from tasks.caching.work import Work
from tasks.export import export
from tasks.profilers import Operator, _common, _onnx
from tasks.profilers._kinds import kind
from tasks.profiling.profile import Profile, profile, read
from tasks.records import Build, Export, Study, Variant
from tasks.tables import frames
from tests.support.command import skip_without_engines
from tests.support.digits import digits, stored
from tests.support.paths import ROOT

RESNET: dict[str, Any] = {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 16}
INPUTS = np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32)
RUNTIMES = {"eager": "safetensors", "torchscript": "torchscript", "onnxruntime": "onnx", "openvino": "onnx"}
RUN = "small-20260101-000000-abcdef"
# of a ResNet-34
CONVOLUTIONS = 36


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with a run whose tables say where the forms of a warmed ResNet are."""
    out = tmp_path_factory.mktemp("artifacts")
    work = Work.at(out, "profile")
    parent = stored(work, "resnet34-w16", **RESNET)
    forms = export(work, digits(work), parent, Export(images=8)).variants
    rows = [
        {
            "name": one.name,
            "model": one.model,
            "stage": one.stage,
            "format": one.format,
            "precision": "fp32",
            "path": one.artifact.path,
            "sha256": one.artifact.sha256,
            "size_bytes": one.artifact.size_bytes,
            "status": "ok",
        }
        for one in (parent, *forms)
        if one.artifact
    ]
    failed = rows[0] | {"name": "resnet34-w16/failed", "path": None, "status": "failed", "error": "no such luck"}
    data = {
        "split": "train",
        "rows": 9,
        "image_size": 8,
        "channels": 1,
        "source": "digits",
        "classes": 1,
        "class_rows_min": 9,
        "class_rows_max": 9,
        "class_rows": [9],
        "class_names": ["one"],
        "dropped_rows": [],
        "dropped_reasons": [],
        "layout": "digits",
        "left_out": [],
    }
    for name, made in (("variants", [*rows, failed]), ("datasets", [data])):
        (out / "tables" / name).mkdir(parents=True)
        frames.frame(name, made).write_parquet(out / "tables" / name / f"{RUN}.parquet")
    (out / "runs" / RUN).mkdir(parents=True)
    (out / "runs" / RUN / "study.toml").write_text(to_toml(Study(name="small")))
    return out


@pytest.fixture(scope="module")
def files(run: Path) -> dict[str, Path]:
    """Format -> file."""
    found = tables.read(run, "variants", RUN).filter(pl.col("status") == "ok").collect()
    return {row["format"]: run / "store" / row["path"] for row in found.to_dicts()}


def made(files: dict[str, Path], runtime: str, folder: Path, **others: Any) -> Profile:
    form = RUNTIMES.get(runtime, "safetensors")
    return profile(files[form], form, runtime, "cpu", 1, INPUTS, folder / "profile", **{"queries": 20, **others})


@pytest.fixture(scope="module", params=list(RUNTIMES))
def result(request: pytest.FixtureRequest, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return made(files, request.param, tmp_path_factory.mktemp("made"))


def heavy(found: Profile) -> list[dict[str, Any]]:
    return [row for row in found.operators if "conv" in row["type"].lower() and row["kind"] == "compute"]


def test_every_convolution_is_a_row_and_takes_most_of_the_time(result: Profile) -> None:
    rows = heavy(result)
    assert len(rows) == CONVOLUTIONS
    assert sum(row["share"] for row in rows) > 0.4
    # older PyTorch does not tell types
    told = {row["precision"] for row in rows}
    assert told == {"fp32"} or (told == {None} and result.runtime in ("eager", "torchscript"))
    assert all(row["calls"] == result.queries for row in rows)


def test_shares_and_times_add_up(result: Profile) -> None:
    assert sum(row["share"] for row in result.operators) == pytest.approx(1)
    assert sum(row["mean_ms"] for row in result.operators) == pytest.approx(result.operators_ms)
    assert sum(result.stacks.values()) == pytest.approx(result.operators_ms, rel=0.02)
    shares = [row["share"] for row in result.operators]
    assert shares == sorted(shares, reverse=True)
    assert result.latency_ms > 0


def test_operators_are_told_by_their_module(result: Profile) -> None:
    if result.runtime == "torchscript":
        pytest.skip("a frozen TorchScript graph has no modules")
    paths = {row["path"] for row in heavy(result)}
    assert {"conv1", "layer1/0/conv1", "layer2/0/downsample/0", "layer4/2/conv2"} <= paths
    assert len(paths) == CONVOLUTIONS
    assert any(stack[:3] == ("layer1", "0", "conv1") for stack in result.stacks)


def test_a_float_resnet_is_healthy_but_for_idle_cores(result: Profile) -> None:
    allowed = {"fewer threads than physical cores"}
    # which folds nothing
    if result.runtime == "eager":
        allowed.add("BatchNormalization that was not folded into a convolution")
    assert {one.what for one in result.findings} <= allowed


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_folder_holds_the_whole_profile(files: dict[str, Path], tmp_path: Path, runtime: str) -> None:
    result = made(files, runtime, tmp_path)
    folder = tmp_path / "profile"
    assert read(folder).findings == result.findings
    assert read(folder).operators == result.operators
    assert read(folder).stacks == pytest.approx(result.stacks, abs=1e-5)
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("ph") == "X" for event in events) >= CONVOLUTIONS
    assert (folder / "tensorboard").exists() == (runtime in ("eager", "torchscript"))
    assert [path.name for path in tmp_path.iterdir()] == ["profile"], "nothing is left beside it"


@pytest.mark.slow
def test_compiled_kernels_are_rows(files: dict[str, Path], tmp_path: Path) -> None:
    if (reason := runtimes.load("torch_compile").unavailable("cpu")) is not None:
        pytest.skip(reason)
    result = made(files, "torch_compile", tmp_path)
    assert len(heavy(result)) == CONVOLUTIONS
    assert any(row["provider"] == "generated" for row in result.operators), "kernels of Inductor's own"


@pytest.mark.alone
def test_onnxruntimes_operators_take_about_as_long_as_its_queries(files: dict[str, Path], tmp_path: Path) -> None:
    """Queries between which a stall fell are left out, so that the profile is the quieter of the two."""
    ratios = [
        (found := made(files, "onnxruntime", tmp_path, queries=40)).operators_ms / found.latency_ms for _ in range(5)
    ]
    assert 0.3 < np.median(ratios) < 3


@pytest.mark.alone
def test_openvinos_counters_are_of_the_recorded_queries(files: dict[str, Path], tmp_path: Path) -> None:
    found = made(files, "openvino", tmp_path, queries=40)
    assert 0.2 < found.operators_ms / found.latency_ms < 1.5


def test_the_calmest_quarter_of_the_queries_counts() -> None:
    assert _common.calm([5, 1, 9, 2, 7, 3, 8, 4]) == [1, 3]
    assert _common.calm([4]) == [0]


def test_kinds() -> None:
    told = {
        "Conv": "compute",
        "DequantizeLinear": "convert",
        "aten::to": "convert",
        "ReorderOutput": "reorder",
        "aten::copy_": "copy",
        "Reshape": "other",
        "Torch-Compiled Region: 0/0": "other",
    }
    assert {name: kind(name) for name in told} == told


def test_modules_are_known_of_names_that_are_paths() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="/layer1/layer1.0/relu/Relu"),
        helper.make_node("Conv", ["y", "onnx::Conv_7"], ["z"], name="/layer1/layer1.0/conv2/Conv"),
    ]
    modules = _onnx.Modules(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert modules.path(["/layer1/layer1.0/conv2/Conv_nchwc"]) == "layer1/0/conv2"
    assert modules.path(["y_QuantizeLinear"]) == "layer1/0/relu"
    assert modules.path(["anything"], ["t", "layer3.1.conv1.weight_quantized"]) == "layer3/1/conv1"
    assert modules.path(["anything"]) == ""
    assert modules.path(["y"], heavy=True) == "layer1/0/relu", "nothing stands before it"


def test_a_convolution_that_goes_by_the_name_of_its_activation_is_its_module_s() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["relu"], name="/act/Relu"),
    ]
    modules = _onnx.Modules(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert modules.path(["relu_nchwc"], ["x", "reorder", "reorder_1"], heavy=True) == "stem"
    assert modules.path(["/act/Relu"]) == "act"
    # ONNX Runtime lets modules share biases that are equal
    shared = ["x", "reorder", "other.bias"]
    assert modules.path(["conv"], shared, heavy=True) == "stem"
    assert modules.path(["anything"], shared, heavy=True) == "other"


def test_what_cannot_be_profiled_is_one_clear_line(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"runtime 'null' cannot be profiled; accepted: onnxruntime, .*eager, "):
        profilers.load("null")
    with pytest.raises(ValueError, match=r"runtime eager executes safetensors, not onnx"):
        profile(files["onnx"], "onnx", "eager", "cpu", 1, INPUTS, tmp_path / "p")
    with pytest.raises(ValueError, match=r"does not run on inputs of shape 1x3x8x8 \(float32\): .*channels"):
        profile(
            files["torchscript"],
            "torchscript",
            "torchscript",
            "cpu",
            1,
            np.ones((1, 3, 8, 8), np.float32),
            tmp_path / "p",
        )
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- charts, text,
# command


def test_the_flame_chart_has_every_module_with_its_time(result: Profile) -> None:
    # How many parts there are depends on what the CPU's kernels fuse; those that count are all there.
    whole = sum(result.stacks.values())
    counted = ["/".join(stack) for stack, ms in result.stacks.items() if ms >= 0.02 * whole]
    assert counted
    for width in (1000, 440):
        figure = profiling_charts.flame(result, width)
        assert figure
        assert all(f"<title>{html.escape(where)}: " in figure.svg for where in counted)
        assert figure.svg.count("<title>") == figure.svg.count('aria-roledescription="rect mark"')
        assert "nan" not in figure.svg.lower()
        assert "Longest: " in figure.svg
    if result.runtime != "torchscript":
        assert re.search(r"<title>layer3/5/conv2: [\d.e-]+ ms, [\d.]+%</title>", figure.svg)
    types = profiling_charts.by_type(result)
    assert types
    assert "onv" in types.svg


def test_the_text_fits_and_tells_findings_with_their_remedy(result: Profile) -> None:
    for width in (80, 100):
        told = text(result, width)
        assert max(map(len, told.splitlines())) <= width
    assert "share" in told
    assert "why is it not faster?" in told
    for finding in result.findings:
        assert finding.what in told
        assert "remedy: " in told
    if not result.findings:
        assert "nothing found" in told


def test_a_variant_is_profiled_and_its_report_shows_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # other tests run beside this one
    monkeypatch.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
    arguments = ["--out", str(run), "--queries", "20", "--threads", "1"]
    for name in ("resnet34-w16/train/onnx", "resnet34-w16/train/torchscript"):
        assert cli.main(["profile", name, *arguments]) == 0
    told = capsys.readouterr().out
    folder = run / "runs" / RUN / "profiles"
    assert {path.name for path in folder.iterdir()} == {
        "resnet34-w16_train_onnx-onnxruntime",
        "resnet34-w16_train_torchscript-torchscript",
    }
    for path in folder.iterdir():
        assert {"operators.parquet", "findings.parquet", "trace.json", "flame.svg", "operators.svg"} <= {
            file.name for file in path.iterdir()
        }
    assert f"tensorboard --logdir {folder}" in told
    page = (run / "runs" / RUN / "report.html").read_text()
    assert 'id="profiles"' in page
    assert page.count("Why is it not faster?") == 2
    assert "layer4/2/conv2" in page
    assert 'href="profiles/resnet34-w16_train_onnx-onnxruntime/trace.json"' in page
    assert page.count("Certificate: ") == 2
    about = folder / "resnet34-w16_train_onnx-onnxruntime" / "profile.json"
    kept = about.read_text()
    about.write_text(json.dumps(json.loads(kept) | {"conditions": "other processes used 90% of the cores"}))
    page = report.render(run, RUN).read_text()
    about.write_text(kept)
    assert "was profiled, and is not shown: other processes used 90% of the cores; profile it again" in page
    assert page.count("Why is it not faster?") == 1


def test_the_plain_pytorch_model_is_profiled_unless_another_is_named_and_tensorboard_needs_no_network_for_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name, row = "resnet34-w16/train", {"runtime": "eager", "status": "ok"}
    rows = [
        row | {"variant": f"{name}/prune-0.5", "stage": "prune", "top1": 0.9},
        row | {"variant": name, "stage": "train", "top1": 0.8},
        row | {"variant": f"{name}/torchscript", "stage": "export", "runtime": "torchscript"},
    ]
    (run / "tables" / "summary").mkdir()
    frames.frame("summary", rows).write_parquet(run / "tables" / "summary" / f"{RUN}.parquet")
    (run / "runs" / RUN / "result.json").write_text("{}")
    # it needs every table
    monkeypatch.setattr(report, "render", lambda out, name: out)
    assert cli.main(["profile", "--out", str(run), "--queries", "20", "--threads", "1"]) == 0
    assert "resnet34-w16/train in eager" in capsys.readouterr().out
    log = EventAccumulator(str(run / "runs" / RUN / "profiles" / "resnet34-w16_train-eager" / "tensorboard")).Reload()
    assert set(log.Tags()["images"]) == {"flame", "operators"}
    (event,) = log.Tensors("profile/text_summary")
    told = event.tensor_proto.string_val[0].decode()
    assert "| aten::conv2d |" in told


def test_a_file_is_profiled_without_any_run(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.onnx"
    own.write_bytes(files["onnx"].read_bytes())
    assert (
        cli.main(["profile", str(own), "--out", str(tmp_path / "out"), "--runtime", "openvino", "--queries", "5"]) == 0
    )
    assert (tmp_path / "out" / "profiles" / "mine-openvino" / "operators.parquet").is_file()
    assert "Convolution" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["resnet34-w16/train/onxx"],
            r"neither a file nor a variant of run .*; variants like it: resnet34-w16/train/onnx",
        ),
        (["resnet34-w16/failed"], "was not made: failed, no such luck"),
        (["resnet34-w16/train/onnx", "--runtime", "nothing"], "unknown runtime 'nothing'; accepted: eager, "),
        (
            ["resnet34-w16/train/onnx", "--runtime", "eager"],
            "is onnx, which eager does not execute; accepted: onnxruntime",
        ),
        (["resnet34-w16/train/onnx", "--device", "gpu"], "unknown device 'gpu'; accepted: cpu, cuda:N"),
        (["resnet34-w16/train/onnx", "--device", "cuda:99"], "cuda:99: this machine has "),
        (["resnet34-w16/train/onnx", "--run", "other"], "no run 'other'"),
        (["resnet34-w16/train/onnx", "--input-shape", "3,8,8"], "an image of shape 3x8x8 does not fit its input"),
        (["resnet34-w16/train", "--netron"], "--netron shows onnx, torchscript, openvino files"),
        (["no/such.onnx"], "no/such.onnx: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.main(["profile", *arguments, "--out", str(run)]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_netron_serves_the_graph_until_ctrl_c(files: dict[str, Path], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "profile",
        str(files["torchscript"]),
        "--input-shape",
        "1,8,8",
        "--queries",
        "4",
        "--netron",
        "--trust",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DISPLAY": ""},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = next(line for line in process.stdout if line.startswith("netron: ")).split()[1]
        assert b"netron" in urllib.request.urlopen(address, timeout=10).read().lower()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_tensorboard_lists_the_run(files: dict[str, Path], tmp_path: Path) -> None:
    made(files, "eager", tmp_path)
    log = (tmp_path / "log").open("w")
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path / "profile" / "tensorboard"),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline, runs = time.monotonic() + 120, None
        while not runs and time.monotonic() < deadline:
            time.sleep(1)
            if address := re.search(r"http://localhost:\d+", (tmp_path / "log").read_text()):
                with urllib.request.urlopen(f"{address[0]}/data/plugin/pytorch_profiler/runs", timeout=30) as answer:
                    runs = json.load(answer)["runs"]
        assert runs == ["tensorboard"]
    finally:
        process.terminate()
        process.wait(20)
        log.close()


# -------------------------------------------------------------------------------------------------------------------
# GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("runtime", ["eager", "torchscript"])
def test_kernels_are_timed_on_a_gpu(files: dict[str, Path], tmp_path: Path, runtime: str) -> None:
    form = RUNTIMES[runtime]
    result = profile(files[form], form, runtime, "cuda:0", 1, INPUTS, tmp_path / "profile", queries=8)
    assert len(heavy(result)) == CONVOLUTIONS
    assert result.split_ms is not None
    # kernels this small wait for their launches
    assert 0.05 < result.operators_ms / result.split_ms[2] < 1.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_layers_of_an_engine_are_timed(files: dict[str, Path], tmp_path: Path) -> None:
    if (reason := runtimes.load("tensorrt").unavailable("cuda:0")) is not None:
        pytest.skip(reason)
    skip_without_engines()
    work = Work.at(tmp_path, "engine")
    with work.store.temporary() as folder:
        file = folder / "model.onnx"
        file.write_bytes(files["onnx"].read_bytes())
        parent = Variant(
            name="r/train/onnx", model="r", stage="export", format="onnx", artifact=work.store.put(file, "onnx")
        )
    variant = build(work, parent, None, Build(precisions=("fp32",), batch_sizes=(1, 2))).variants[0]
    assert variant.artifact, variant.error
    path = work.store.get(variant.artifact)
    result = profile(path, "engine", "tensorrt", "cuda:0", 1, INPUTS, tmp_path / "profile", queries=8)
    assert result.operators
    assert result.operators_ms > 0


def test_an_operator_without_a_module_stands_at_the_top() -> None:
    plain = Operator(name="n", path="", type="Transpose", calls=2, total_ms=4, precision=None, provider="CPU")
    inner = Operator(name="m", path="layer1/0", type="Conv", calls=2, total_ms=6, precision=None, provider="CPU")
    assert _common.stacks_of([plain, inner, plain], 2) == {("Transpose",): 4, ("layer1", "0", "Conv"): 3}

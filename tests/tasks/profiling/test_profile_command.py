"""`burnish profile`: what the command, the report, Netron and TensorBoard show of a profile."""

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

import pytest

from flows import cli
from flows.report import page as report
from flows.report import profiling_charts
from flows.terminal.profile_text import text
from tasks.profiling.profile import Profile
from tasks.tables import frames
from tests.support.paths import ROOT
from tests.support.profiles import RUN, profile_of


def test_the_flame_chart_has_every_module_with_its_time(result: Profile) -> None:
    # What the CPU's kernels fuse decides how many modules there are. All with 2 % of the time have to be drawn.
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


def test_the_text_fits_the_terminal_and_shows_every_finding_with_its_remedy(result: Profile) -> None:
    for width in (80, 100):
        shown = text(result, width)
        assert max(map(len, shown.splitlines())) <= width
    assert "share" in shown
    assert "why is it not faster?" in shown
    for finding in result.findings:
        assert finding.what in shown
        assert "remedy: " in shown
    if not result.findings:
        assert "nothing found" in shown


def test_the_report_of_a_run_shows_the_profiles_of_its_variants(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests that run at the same time would mark the profile as disturbed.
    monkeypatch.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
    arguments = ["--out", str(run), "--queries", "20", "--threads", "1"]
    for name in ("resnet34-w16/train/onnx", "resnet34-w16/train/torchscript"):
        assert cli.main(["profile", name, *arguments]) == 0
    printed = capsys.readouterr().out
    folder = run / "runs" / RUN / "profiles"
    assert {path.name for path in folder.iterdir()} == {
        "resnet34-w16_train_onnx-onnxruntime",
        "resnet34-w16_train_torchscript-torchscript",
    }
    for path in folder.iterdir():
        assert {"operators.parquet", "findings.parquet", "trace.json", "flame.svg", "operators.svg"} <= {
            file.name for file in path.iterdir()
        }
    assert f"tensorboard --logdir {folder}" in printed
    page = (run / "runs" / RUN / "report.html").read_text()
    assert 'id="profiles"' in page
    assert page.count("Why is it not faster?") == 2
    assert "layer4/2/conv2" in page
    assert 'href="profiles/resnet34-w16_train_onnx-onnxruntime/trace.json"' in page
    assert page.count("Certificate: ") == 2
    facts_file = folder / "resnet34-w16_train_onnx-onnxruntime" / "profile.json"
    facts = facts_file.read_text()
    facts_file.write_text(json.dumps(json.loads(facts) | {"conditions": "other processes used 90% of the cores"}))
    page = report.render(run, RUN).read_text()
    facts_file.write_text(facts)
    assert "was profiled, and is not shown: other processes used 90% of the cores; profile it again" in page
    assert page.count("Why is it not faster?") == 1


def test_without_a_name_the_unpruned_eager_model_is_profiled_and_logged_for_tensorboard(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name = "resnet34-w16/train"
    row = {"runtime": "eager", "status": "ok"}
    rows = [
        row | {"variant": f"{name}/prune-0.5", "stage": "prune", "top1": 0.9},
        row | {"variant": name, "stage": "train", "top1": 0.8},
        row | {"variant": f"{name}/torchscript", "stage": "export", "runtime": "torchscript"},
    ]
    (run / "tables" / "summary").mkdir()
    frames.frame("summary", rows).write_parquet(run / "tables" / "summary" / f"{RUN}.parquet")
    (run / "runs" / RUN / "result.json").write_text("{}")
    # The report would need every table.
    monkeypatch.setattr(report, "render", lambda out, name: out)
    assert cli.main(["profile", "--out", str(run), "--queries", "20", "--threads", "1"]) == 0
    assert "resnet34-w16/train in eager" in capsys.readouterr().out
    tensorboard_log = EventAccumulator(
        str(run / "runs" / RUN / "profiles" / "resnet34-w16_train-eager" / "tensorboard")
    ).Reload()
    assert set(tensorboard_log.Tags()["images"]) == {"flame", "operators"}
    (event,) = tensorboard_log.Tensors("profile/text_summary")
    table = event.tensor_proto.string_val[0].decode()
    assert "| aten::conv2d |" in table


def test_a_file_is_profiled_without_any_run(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_file = tmp_path / "model.onnx"
    model_file.write_bytes(files["onnx"].read_bytes())
    assert (
        cli.main(
            ["profile", str(model_file), "--out", str(tmp_path / "out"), "--runtime", "openvino", "--queries", "5"]
        )
        == 0
    )
    assert (tmp_path / "out" / "profiles" / "model-openvino" / "operators.parquet").is_file()
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
        (["resnet34-w16/train/onnx", "--device", "gpu"], "--device: unknown device 'gpu'; accepted: auto, cpu, cuda:0"),
        (["resnet34-w16/train/onnx", "--device", "cuda:99"], "cuda:99: this machine has "),
        (["resnet34-w16/train/onnx", "--run", "other"], "no run 'other'"),
        (["resnet34-w16/train/onnx", "--input-shape", "3,8,8"], "an image of shape 3x8x8 does not fit its input"),
        (["resnet34-w16/train", "--netron"], "--netron shows onnx, torchscript, openvino files"),
        (["no/such.onnx"], "no/such.onnx: no such file"),
    ],
)
def test_a_wrong_argument_ends_in_exit_code_2_and_one_line_that_says_what_is_wrong(
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
        "flows",
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
def test_tensorboard_lists_the_profile(files: dict[str, Path], tmp_path: Path) -> None:
    profile_of(files, "eager", tmp_path)
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
        # TensorBoard ends late on a machine with other work.
        process.wait(120)
        log.close()

"""Latencies in a runtime equal those of a bare loop that calls its library, and those of OpenVINO's benchmark_app."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks import runtimes
from tasks.runtimes import _onnxruntime
from tests.support.digits import warmed_model
from tests.support.programs import command, environment

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file whose query takes some milliseconds: ResNet-34 at half its width, 224×224 pixels."""
    import torch

    model = warmed_model(name="resnet34", num_classes=10, in_channels=3, image_size=224, width=32)
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, 224, 224),),
        input_names=["input"],
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    path = tmp_path_factory.mktemp("resnet") / "resnet.onnx"
    assert program is not None
    program.save(path)
    return path


def _ratio(*calls: Callable[[], object], blocks: int = 20, queries: int = 10) -> float:
    """Return the latency of the second call over that of the first: the median, over blocks of alternating queries."""
    ratios = []
    for block in range(blocks + 2):
        durations_ns: tuple[list[int], list[int]] = ([], [])
        for query in range(queries):
            for index in (0, 1) if query % 2 else (1, 0):
                begin = time.perf_counter_ns()
                calls[index]()
                durations_ns[index].append(time.perf_counter_ns() - begin)
        # The first two blocks are the warm-up.
        if block >= 2:
            ratios.append(np.median(durations_ns[1]) / np.median(durations_ns[0]))
    return float(np.median(ratios))


@pytest.mark.alone
@pytest.mark.slow
def test_onnx_runtimes_latency_equals_that_of_a_bare_loop(resnet: Path) -> None:
    import onnxruntime

    inputs = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    bare = onnxruntime.InferenceSession(str(resnet), _onnxruntime.options(1, {}), providers=["CPUExecutionProvider"])
    session = runtimes.load("onnxruntime").open(resnet, "cpu", 1, 1)
    ratio = _ratio(lambda: bare.run(None, {"input": inputs}), lambda: session.run(inputs))
    print(f"ONNX Runtime: {ratio:.4f} times a bare loop's latency")
    assert ratio == pytest.approx(1, abs=0.05)


def _openvino_bare(path: Path, inputs: np.ndarray) -> Callable[[], object]:
    """Return a bare call of OpenVINO on one thread, compiled for the shape of the inputs."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(inputs.shape))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: inputs}, share_inputs=True)


@pytest.mark.alone
@pytest.mark.slow
def test_openvinos_latency_equals_that_of_a_bare_loop(resnet: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    session = runtimes.load("openvino").open(resnet, "cpu", 1, 1)
    ratio = _ratio(_openvino_bare(resnet, inputs), lambda: session.run(inputs))
    print(f"OpenVINO: {ratio:.4f} times a bare loop's latency")
    assert ratio == pytest.approx(1, abs=0.05)


SECONDS = "5"


@pytest.mark.alone
@pytest.mark.slow
def test_openvinos_latency_equals_that_of_benchmark_app(resnet: Path, tmp_path: Path) -> None:
    """The runtime and benchmark_app run in a process each and take turns of 0.2 s, in which the other is stopped.

    By default benchmark_app feeds inputs that look like images as uint8, which is another model: hence `-ip f32`. Its
    clock runs inside the C++ library, so that only the runtime's latency has the 0.15 ms or so of a call from Python.
    Queries of more than 10 ms make that small.
    """
    # Together with -hint, benchmark_app takes the number of threads from a file only.
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": "1"}}))
    app = (
        sys.executable,
        "-c",
        "from openvino.tools.benchmark.main import main; main()",
        "-m",
        str(resnet),
        "-d",
        "CPU",
        "-hint",
        "latency",
        "-infer_precision",
        "f32",
        "-load_config",
        str(config),
        "-shape",
        "[1,3,224,224]",
        "-ip",
        "f32",
        "-api",
        "sync",
        "-t",
        SECONDS,
    )

    def start(sign: str, *arguments: str) -> subprocess.Popen[str]:
        """Return a new process, stopped as soon as it has printed `sign`."""
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )
        assert process.stdout is not None
        assert any(sign in line for line in process.stdout)
        process.send_signal(signal.SIGSTOP)
        return process

    def median(process: subprocess.Popen[str]) -> float:
        ((value, unit),) = re.findall(r"Median:\s+([\d.]+) (ms|us)", process.communicate()[0])
        return float(value) / {"ms": 1, "us": 1000}[unit]

    medians_ms: list[tuple[float, float]] = []
    ratio = 0.0
    # Where other processes disturb the first pairs, up to seven pairs decide.
    while len(medians_ms) < 3 or (abs(ratio - 1) > 0.05 and len(medians_ms) < 7):
        pair = start("ready", *command("time_openvino", resnet, SECONDS)), start("Step 10/11", *app)
        while any(process.poll() is None for process in pair):
            for process in pair:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.2)
                process.send_signal(signal.SIGSTOP)
        medians_ms.append((median(pair[0]), median(pair[1])))
        ratio = float(np.median([runtime_ms / app_ms for runtime_ms, app_ms in medians_ms]))
    print(f"OpenVINO: {ratio:.4f} times benchmark_app's latency; ms: {medians_ms}")
    assert ratio == pytest.approx(1, abs=0.05)

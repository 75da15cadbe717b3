"""Runs the `burnish` command in a process of its own, with a real Prefect server and studies that take seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paths import ROOT, SHARED
from tests.support.prefect_home import prefect_home

if TYPE_CHECKING:
    from collections.abc import Iterator

# Settings that shorten the quickstart study from minutes to seconds. It still has one model and every stage.
TINY = (
    "models=['lenet5']",
    "train.epochs=3",
    "tune.trials=2",
    "tune.epochs=1",
    "augment.policies=['none', 'crop']",
    "prune.ratios=[0.5]",
    "prune.epochs=1",
    "quantize.settings=['u8s8-reduced', 's8s8']",
    "quantize.calibration_images=32",
    "quantize.max_drop=1.0",
    "benchmark.rounds=2",
    "benchmark.min_seconds=0.05",
    "benchmark.min_queries=8",
    "benchmark.warmup_seconds=0.1",
    "benchmark.batch_sizes=[1, 8]",
    "benchmark.processes=1",
    "serve.seconds=0.05",
    "serve.trials=2",
    "benchmark.runtimes=['eager', 'torchscript', 'onnxruntime', 'openvino', 'tensorrt']",
)


def last_values(*settings: str) -> tuple[str, ...]:
    """Return the settings with only the last value of each key, because burnish warns of a key that is given twice."""
    return tuple({setting.partition("=")[0]: setting for setting in settings}.values())


# Settings of the shortest study that has a winner.
SHORT = last_values(
    *TINY,
    "tune.trials=0",
    "augment.policies=[]",
    "prune.ratios=[]",
    "quantize.settings=[]",
    "quantize.dynamic=false",
    "build.precisions=[]",
    "export.formats=['onnx']",
    "benchmark.runtimes=['eager', 'onnxruntime']",
    "benchmark.batch_sizes=[1]",
    "benchmark.throughput=false",
    "serve.seconds=0",
)


def shared_data() -> Path:
    """Return the folder of shared data, or skip the test with the reason."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data: the folder {SHARED} is missing (set BURNISH_SHARED)")
    return SHARED


def environment_without_server(folder: Path) -> dict[str, str]:
    """Return this process's environment without a Prefect server and with a Prefect home below `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return environment | {"PREFECT_HOME": str(prefect_home(folder / "prefect"))}


def skip_without_engines() -> None:
    """Skip the test where only TensorRT for RTX can build engines and does not support the GPU, such as a Hopper."""
    import torch

    from tasks.runtimes import _tensorrt

    if _tensorrt.backend()[0].__name__ == _tensorrt.RTX and torch.cuda.get_device_capability() == (9, 0):
        pytest.skip(f"TensorRT for RTX does not support {torch.cuda.get_device_name()} (compute capability 9.0)")


@contextmanager
def prefect_server(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a real Prefect server, as a person does, in its own process group. Yield its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.5)
        yield url, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def api(url: str, path: str, body: Any = None, method: str | None = None) -> Any:
    """Send a request to Prefect's server and return its answer, decoded from JSON.

    Like Prefect's own client, it repeats a request that is answered with 503, as happens while the database is locked.
    """
    request = urllib.request.Request(
        f"{url}/{path}",
        json.dumps(body).encode() if body is not None else None,
        {"Content-Type": "application/json"},
        method=method,
    )
    for seconds in (1, 2, 4, 8, 0):
        try:
            answer = urllib.request.urlopen(request, timeout=30).read()
            return json.loads(answer) if answer else None
        except urllib.error.HTTPError as error:
            if error.code != 503 or not seconds:
                raise
            time.sleep(seconds)
    raise AssertionError("unreachable")


class Burnish:
    """Runs the `burnish` command in a process of its own. `out` is its artifacts folder."""

    def __init__(self, out: Path, url: str | None, cwd: Path = ROOT) -> None:
        self.out = out
        self.cwd = cwd
        self.environment = {**os.environ, "COLUMNS": "160"}
        if url:
            self.environment["PREFECT_API_URL"] = url

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            cwd=self.cwd,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command to its end and check its exit code."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == code, f"exit {process.returncode}\n{output[-3000:]}\n{errors[-5000:]}"
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def run(self, *settings: str, study: str = "quickstart", code: int = 0) -> subprocess.CompletedProcess[str]:
        return self("run", study, "--out", str(self.out), *(f"--set={s}" for s in last_values(*settings)), code=code)

    def why(self) -> dict[str, str]:
        """Return, by task, whether the newest run computed it or had a hit: the first words of `burnish why`."""
        lines = self("why", "--out", str(self.out)).stdout.splitlines()[1:]
        return {line.split()[1]: line.split()[0] for line in lines if not line.startswith(" ")}

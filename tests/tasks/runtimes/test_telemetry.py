"""ONNX Runtime's telemetry, which writes files and prints errors, is off in burnish and in what it deploys."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MODULES = {"tasks": (ROOT,), "model": (ROOT / "flows" / "commands" / "deployed", ROOT / "tasks" / "machine")}


@pytest.mark.parametrize("module", MODULES)
def test_onnx_runtime_prints_no_error_where_home_cannot_be_written(module: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": "/proc", "PYTHONPATH": os.pathsep.join(map(str, MODULES[module]))}
    environment.pop("XDG_CACHE_HOME", None)
    code = f"import {module}, onnxruntime; print(onnxruntime.get_device())"
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert completed.stderr == ""
    assert completed.stdout.count("\n") == 1

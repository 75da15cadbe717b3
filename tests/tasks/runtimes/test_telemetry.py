"""ONNX Runtime's telemetry is off in every process of burnish and of what it deploys: it writes, sends and
complains."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MODULES = {"tasks": (ROOT,), "model": (ROOT / "flows" / "commands" / "deployed", ROOT / "tasks" / "machine")}


@pytest.mark.parametrize("module", MODULES)
def test_a_home_that_cannot_be_written_is_no_matter(module: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": "/proc", "PYTHONPATH": os.pathsep.join(map(str, MODULES[module]))}
    environment.pop("XDG_CACHE_HOME", None)
    code = f"import {module}, onnxruntime; print(onnxruntime.get_device())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1

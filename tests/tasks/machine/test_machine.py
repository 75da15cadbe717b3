"""The fingerprint of a machine, and the devices that `auto` stands for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks import machine
from tasks.machine import gpu
from tests.support.paths import ROOT


@pytest.mark.alone
def test_the_fingerprint_is_cheap_and_the_same_in_every_process() -> None:
    code = (
        "import time; from tasks import machine; begin = time.perf_counter(); print(machine.fingerprint());"
        "assert time.perf_counter() - begin < 0.5; import sys; assert 'torch' not in sys.modules"
    )
    root = ROOT
    printed = {
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert printed == {machine.fingerprint() + "\n"}


def test_auto_stands_for_the_cpu_and_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    assert machine.resolve_devices(("auto", "cpu")) == ("cpu",)
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "A"}, {"name": "B"}))
    assert machine.resolve_devices(("auto",)) == ("cpu", "cuda:0")
    assert machine.resolve_devices(("cuda:1", "auto")) == ("cuda:1", "cpu", "cuda:0")

"""GPU readings in a certificate, from a simulated NVML and from a real one."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import pytest

from tasks.machine import gpu
from tasks.machine.certificate import GPU_SECONDS, Watch
from tests.support.nvml import Nvml

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("listed", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-b", [1]),
        ("1, GPU-aa2 ,0", [1, 2, 0]),
        ("0,7,1", [0]),
        ("0,-1,1", [0]),
        ("GPU-a", []),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_numbered_as_cuda_visible_devices_lists_them(listed: str | None, indices: list[int]) -> None:
    assert gpu.visible_gpus(("GPU-aa1", "GPU-bb1", "GPU-aa2"), listed) == indices


def test_a_gpus_certificate_holds_clocks_trouble_driver_and_energy(library: Nvml) -> None:
    library.pids, library.reasons = [(os.getpid(), 1), (-5, 1)], 0x40
    with Watch("cuda:0", {os.getpid()}) as watch:
        time.sleep(GPU_SECONDS)
    row = watch.row()
    gpu_columns = {key: value for key, value in row.items() if key.startswith(("gpu_", "energy_"))}
    assert gpu_columns == {
        "gpu_sm_mhz": 1980,
        "gpu_memory_mhz": 2619,
        "gpu_temperature_c": 40,
        "gpu_driver": "999.1",
        "gpu_trouble": "thermal slowdown, foreign process on the GPU",
        "energy_j": 0.5,
        "energy_source": "NVML",
        "energy_note": None,
    }
    assert row["power_w"] == pytest.approx(0.5 / watch.seconds)
    assert set(library.queried_handles) == {1}, "cuda:0 is the GPU that CUDA_VISIBLE_DEVICES names"
    assert gpu.gpu_state("cuda:0", {os.getpid()})["trouble"] == row["gpu_trouble"]
    library.pids = [(-5, 1)]
    assert gpu.gpu_state("cuda:0", {os.getpid()})["trouble"] == "thermal slowdown", (
        "in a container processes have unknown numbers, so that none counts as foreign"
    )


def test_the_note_says_why_a_gpu_has_no_energy(library: Nvml) -> None:
    with Watch("cuda:0", ()) as watch:
        time.sleep(0.02)
    assert watch.row()["energy_j"] is None
    assert re.match(r"turns of 0\.\d+ s: a GPU's meter follows within", str(watch.row()["energy_note"]))
    library.millijoules = None
    with Watch("cuda:0", ()) as watch:
        pass
    assert (watch.row()["energy_j"], watch.row()["energy_note"]) == (None, "this GPU does not count its energy")


def test_gpus_hidden_from_cuda_are_neither_listed_nor_usable(library: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [card["name"] for card in gpu.gpus()] == ["GPU 1"]
    assert gpu.missing_gpu("cuda:0") is None
    assert "only 1 NVIDIA GPU that CUDA_VISIBLE_DEVICES ('1') shows" in str(gpu.missing_gpu("cuda:1"))
    with pytest.raises(ValueError, match="cuda:1: 1 GPUs are visible"):
        gpu.gpu_state("cuda:1", ())


def test_gpu_memory_is_that_of_the_listed_process_or_the_growth_of_the_gpus_use(library: Nvml) -> None:
    before = gpu.gpu_usage("cuda:0")
    assert before == (5_000, ())
    library.pids, library.bytes = [(os.getpid(), 700)], 9_000
    assert gpu.vram("cuda:0", before) == (700, "process")
    # In a container the process is listed under its number outside; some drivers do not report its memory.
    for pids in ([(-5, 4_000)], [(os.getpid(), None)]):
        library.pids = pids
        assert gpu.vram("cuda:0", before) == (4_000, "device difference")
        assert gpu.vram("cuda:0") == (None, None)
    library.pids = []
    assert gpu.vram("cuda:0", before) == (None, None), "where no process is listed, others may be there unseen"
    library.pids = [(-5, 4_000), (-6, 1)]
    assert gpu.vram("cuda:0", before) == (None, None), "two processes came, and the growth belongs to both"
    library.pids = [(-5, 4_000)]
    assert gpu.vram("cuda:0", (5_000, (-6,))) == (None, None), "another process was there before and may have grown"
    assert gpu.vram("cpu", before) == (None, None)
    assert gpu.nvml_free_bytes("cuda:0") == 6_000_000_000


@pytest.mark.gpu
def test_a_real_gpu_reports_its_clock_energy_and_the_memory_of_this_process() -> None:
    if not gpu.gpus():
        pytest.skip("no NVIDIA GPU")
    if gpu.gpus()[0]["memory_bytes"] is None:
        pytest.skip("no NVML")
    torch: Any = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA")
    before = gpu.gpu_usage("cuda:0")
    # The first use of a kernel loads it, which takes memory that belongs to the context.
    torch.zeros(1 << 20, dtype=torch.uint8, device="cuda:0").add_(1)
    torch.cuda.empty_cache()
    context, source = gpu.vram("cuda:0", before)
    with Watch("cuda:0", {os.getpid()}) as watch:
        tensor = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda:0")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            tensor.add_(1)
        torch.cuda.synchronize()
    row = watch.row()
    assert row["gpu_sm_mhz"] > 0
    assert row["gpu_driver"]
    assert row["energy_j"] is None or 1 < row["power_w"] < 2000
    if source is None:
        pytest.skip("another process is on the GPU, and NVML does not list this one")
    assert context is not None
    assert gpu.vram("cuda:0", before)[0] - context == pytest.approx(64 << 20, rel=0.1)  # type: ignore[operator]

"""The certificate of a measurement, on made trees of /proc and /sys, with a made NVML, and with real neighbours."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tasks import machine
from tasks.machine import gpu
from tasks.machine.certificate import GPU_SECONDS, Watch, ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone
CPUFREQ = "sys/devices/system/cpu/cpu{}/cpufreq"


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def meter(root: Path, zone: str, name: str, microjoules: int, most: int = 1_000_000_000) -> None:
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        put(root / "sys/class/powercap" / zone / file, value)


@pytest.mark.parametrize(
    ("numbers", "text"), [((0, 1), "0-1"), ((3,), "3"), ((0, 1, 2, 5, 7, 8), "0-2,5,7-8"), ((), "")]
)
def test_affinity_reads_as_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text


def test_a_certificate_of_a_cpu_is_whole_and_plain_json(tmp_path: Path, library: Nvml) -> None:
    """All that a CPU can tell is told, of a machine that tells it; of a GPU, which is there too, nothing."""
    for number in machine.affinity():
        put(tmp_path / CPUFREQ.format(number) / "scaling_cur_freq", 2_500_000)
        put(tmp_path / CPUFREQ.format(number) / "scaling_governor", "schedutil")
    meter(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    with Watch("cpu", (), tmp_path) as watch:
        time.sleep(0.05)
        meter(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    row = watch.row()
    assert json.loads(json.dumps(row)) == row
    assert {key for key in row if row[key] is None} == {
        "energy_note",
        *(f"gpu_{name}" for name in ("sm_mhz", "memory_mhz", "temperature_c", "trouble", "driver")),
    }
    assert row["cpu_model"] == machine.cpu()[0]
    assert row["affinity"] == ranges(machine.affinity())
    assert 0 <= row["foreign_cpu"] <= 1
    assert (row["cpu_mhz"], row["cpu_governor"], row["energy_source"]) == (2500, "schedutil", "RAPL package-0")
    assert row["energy_j"] == pytest.approx(1) and row["power_w"] == pytest.approx(1 / watch.seconds)
    assert gpu.gpus(), "the made library shows one"


def test_a_certificate_of_this_machine_says_of_each_reading_what_it_is_or_why_there_is_none() -> None:
    with Watch("cpu", ()) as watch:
        time.sleep(0.05)
    row = watch.row()
    assert (row["energy_j"], row["energy_source"]) == (None, None) if row["energy_note"] else row["energy_j"] >= 0
    own = [Path("/") / CPUFREQ.format(number) / "scaling_governor" for number in machine.affinity()]
    assert row["cpu_governor"] == (
        " ".join(sorted({path.read_text().strip() for path in own if path.exists()})) or None
    )


def test_clock_and_governor_are_the_usable_processors_own_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: (1, 2))
    for number, kilohertz in enumerate((9_000_000, 2_000_000, 3_000_000)):
        put(tmp_path / CPUFREQ.format(number) / "scaling_cur_freq", kilohertz)
        put(tmp_path / CPUFREQ.format(number) / "scaling_governor", "powersave" if number == 2 else "performance")
    with Watch("cpu", (), tmp_path) as watch:
        put(tmp_path / CPUFREQ.format(1) / "scaling_cur_freq", 1_000_000)
    assert watch.row()["cpu_mhz"] == pytest.approx((2500 + 2000) / 2)
    assert watch.row()["cpu_governor"] == "performance powersave"


def test_without_cpufreq_the_clock_is_cpuinfos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: (0, 2))
    blocks = (f"processor\t: {n}\nmodel name\t: x\ncpu MHz\t\t: {1000 * (n + 1)}.5\n" for n in range(3))
    put(tmp_path / "proc/cpuinfo", "\n".join(blocks))
    with Watch("cpu", (), tmp_path) as watch:
        pass
    assert watch.row()["cpu_mhz"] == 2000.5
    assert watch.row()["cpu_governor"] is None


def test_energy_is_that_of_all_packages_once_each_also_where_a_counter_starts_again(tmp_path: Path) -> None:
    meter(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    meter(tmp_path, "intel-rapl:0:0", "core", 5)
    meter(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    meter(tmp_path, "intel-rapl:1", "package-1", 990_000_000)
    meter(tmp_path, "intel-rapl:2", "psys", 7)
    with Watch("cpu", (), tmp_path) as watch:
        time.sleep(0.05)
        for zone in ("intel-rapl:0", "intel-rapl-mmio:0"):
            meter(tmp_path, zone, "package-0", 4_000_000)
        # 10 J up to its most, then 2 J
        meter(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    row = watch.row()
    assert row["energy_j"] == pytest.approx(3 + 12)
    assert row["power_w"] == pytest.approx(15 / watch.seconds)
    assert (row["energy_source"], row["energy_note"]) == ("RAPL package-0, RAPL package-1", None)


def test_where_energy_cannot_be_known_the_note_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note() -> str:
        with Watch("cpu", (), tmp_path) as watch:
            pass
        row = watch.row()
        assert (row["energy_j"], row["power_w"], row["energy_source"]) == (None, None, None)
        return row["energy_note"]

    assert note() == f"no RAPL: {tmp_path}/sys/class/powercap has no package (virtual machine?)"
    meter(tmp_path, "intel-rapl:0", "package-0", 1)
    read, fault = Path.read_text, PermissionError(13, "Permission denied")

    def refuse(path: Path, *arguments: Any) -> str:
        if path.name == "energy_uj":
            raise fault
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "not readable without root" in note()
    fault = OSError(61, "No data available")  # type: ignore[assignment]
    assert "No data available" in note()


def test_a_watchs_ends_take_less_than_5_milliseconds() -> None:
    spent = []
    for _ in range(9):
        watch, start = Watch("cpu", ()), time.perf_counter()
        watch.__enter__()
        watch.__exit__()
        spent.append(time.perf_counter() - start)
    assert statistics.median(spent) < 2 * 0.005


@contextmanager
def spinners(count: int) -> Iterator[list[psutil.Process]]:
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
            found.append(psutil.Process(process.pid))
        yield found


def used(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def foreign(seconds: float) -> float:
    with Watch("cpu", ()) as watch:
        time.sleep(seconds)
    return watch.foreign_cpu


def test_processes_that_spin_on_all_cores_are_noticed() -> None:
    cores = len(machine.affinity())
    with spinners(cores) as neighbours:
        time.sleep(0.3)
        with Watch("cpu", ()) as watch:
            before = used(neighbours)
            time.sleep(1.0)
            theirs = (used(neighbours) - before) / watch_seconds(watch) / cores
    assert watch.foreign_cpu > 0.25
    assert watch.foreign_cpu > theirs - 0.1


def watch_seconds(watch: Watch) -> float:
    return time.monotonic() - watch._start


def test_a_process_that_keeps_all_to_itself_is_no_neighbour_of_its_own() -> None:
    """The machine may be shared: its own spinning must not add to what others use before and after."""
    differences = []
    for _ in range(5):
        before = foreign(0.3)
        with Watch("cpu", ()) as watch:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
        differences.append(watch.foreign_cpu - max(before, foreign(0.3)))
    assert statistics.median(differences) < 0.1


def test_a_quiet_machine_has_no_neighbours() -> None:
    shares = []
    while len(shares) < 10 and (not shares or min(shares) >= 0.1):
        shares.append(foreign(0.5))
    if min(shares) > 0.4:
        pytest.skip(f"others keep this machine busy: {min(shares):.0%} at the least")
    assert min(shares) < 0.1


# ------------------------------------------------------------------------------------------------------------------ GPU


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


class NotSupported(Exception):
    pass


class Nvml(SimpleNamespace):
    """As much of NVML as is asked: two GPUs, the handle is the index."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError_NotSupported = NVMLError_FunctionNotFound = NVMLError_NoPermission = NotSupported

    def __init__(self) -> None:
        super().__init__(pids=[], bytes=5_000, reasons=0, millijoules=1000, asked=[])

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"GPU {handle}"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"999.1"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.pids] if handle == 1 else []

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=self.bytes if handle == 1 else 0, total=10**9, free=6_000_000_000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        self.asked.append(handle)
        raise NotSupported

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.millijoules is None:
            raise NotSupported
        self.millijoules += 500
        return self.millijoules

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    """cuda:0 is the second GPU."""
    made = Nvml()

    @contextmanager
    def started() -> Iterator[Nvml]:
        yield made

    monkeypatch.setattr(gpu, "nvml", started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu.gpus.cache_clear()
    yield made
    gpu.gpus.cache_clear()


def test_a_gpus_certificate_holds_clocks_trouble_driver_and_energy(library: Nvml) -> None:
    library.pids, library.reasons = [(os.getpid(), 1), (-5, 1)], 0x40
    with Watch("cuda:0", {os.getpid()}) as watch:
        time.sleep(GPU_SECONDS)
    row = watch.row()
    found = {key: value for key, value in row.items() if key.startswith(("gpu_", "energy_"))}
    assert found == {
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
    assert set(library.asked) == {1}, "cuda:0 is the GPU that CUDA_VISIBLE_DEVICES names"
    assert gpu.gpu_state("cuda:0", {os.getpid()})["trouble"] == row["gpu_trouble"]
    library.pids = [(-5, 1)]
    assert gpu.gpu_state("cuda:0", {os.getpid()})["trouble"] == "thermal slowdown", "in a container all are unknown"


def test_a_gpu_that_counts_no_energy_says_so(library: Nvml) -> None:
    with Watch("cuda:0", ()) as watch:
        time.sleep(0.02)
    assert watch.row()["energy_j"] is None
    assert re.match(r"turns of 0\.\d+ s: a GPU's meter follows within", str(watch.row()["energy_note"]))
    library.millijoules = None
    with Watch("cuda:0", ()) as watch:
        pass
    assert (watch.row()["energy_j"], watch.row()["energy_note"]) == (None, "this GPU does not count its energy")


def test_gpus_that_cuda_does_not_show_are_not_there(library: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [card["name"] for card in gpu.gpus()] == ["GPU 1"]
    assert gpu.missing_gpu("cuda:0") is None
    assert "only 1 NVIDIA GPU that CUDA_VISIBLE_DEVICES ('1') shows" in str(gpu.missing_gpu("cuda:1"))
    with pytest.raises(ValueError, match="cuda:1: 1 GPUs are visible"):
        gpu.gpu_state("cuda:1", ())


def test_gpu_memory_is_the_listed_processs_or_what_the_gpus_use_grew_by(library: Nvml) -> None:
    before = gpu.gpu_usage("cuda:0")
    assert before == (5_000, ())
    library.pids, library.bytes = [(os.getpid(), 700)], 9_000
    assert gpu.vram("cuda:0", before) == (700, "process")
    # by its number outside; a driver that does not tell
    for pids in ([(-5, 4_000)], [(os.getpid(), None)]):
        library.pids = pids
        assert gpu.vram("cuda:0", before) == (4_000, "device difference")
        assert gpu.vram("cuda:0") == (None, None)
    library.pids = []
    assert gpu.vram("cuda:0", before) == (None, None), "nobody is listed: others may be there too"
    library.pids = [(-5, 4_000), (-6, 1)]
    assert gpu.vram("cuda:0", before) == (None, None), "another process came"
    library.pids = [(-5, 4_000)]
    assert gpu.vram("cuda:0", (5_000, (-6,))) == (None, None), "another process was there"
    assert gpu.vram("cpu", before) == (None, None)
    assert gpu.nvml_free_bytes("cuda:0") == 6_000_000_000


@pytest.mark.gpu
def test_a_real_gpu_tells_its_clock_energy_and_this_processs_memory() -> None:
    if not gpu.gpus():
        pytest.skip("no NVIDIA GPU")
    if gpu.gpus()[0]["memory_bytes"] is None:
        pytest.skip("no NVML")
    torch: Any = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA")
    before = gpu.gpu_usage("cuda:0")
    # its kernel is loaded with its first use
    torch.zeros(1 << 20, dtype=torch.uint8, device="cuda:0").add_(1)
    torch.cuda.empty_cache()
    context, source = gpu.vram("cuda:0", before)
    with Watch("cuda:0", {os.getpid()}) as watch:
        held = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda:0")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            held.add_(1)
        torch.cuda.synchronize()
    row = watch.row()
    assert row["gpu_sm_mhz"] > 0
    assert row["gpu_driver"]
    assert row["energy_j"] is None or 1 < row["power_w"] < 2000
    if source is None:
        pytest.skip("another process is on the GPU, and NVML does not list this one")
    assert context is not None
    assert gpu.vram("cuda:0", before)[0] - context == pytest.approx(64 << 20, rel=0.1)  # type: ignore[operator]

"""The certificate of a measurement, from simulated trees of /proc and /sys and from this machine and its neighbours."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tasks import machine
from tasks.machine import gpu
from tasks.machine.certificate import Watch, ranges
from tests.support.nvml import Nvml

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.alone


CPUFREQ = "sys/devices/system/cpu/cpu{}/cpufreq"


def write_value(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def write_meter(root: Path, zone: str, name: str, microjoules: int, limit: int = 1_000_000_000) -> None:
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", limit)):
        write_value(root / "sys/class/powercap" / zone / file, value)


@pytest.mark.parametrize(
    ("numbers", "text"), [((0, 1), "0-1"), ((3,), "3"), ((0, 1, 2, 5, 7, 8), "0-2,5,7-8"), ((), "")]
)
def test_affinity_is_written_as_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text


def test_a_cpus_certificate_has_every_cpu_column_no_gpu_column_and_is_plain_json(tmp_path: Path, library: Nvml) -> None:
    """The simulated machine reports every reading of a CPU. The GPU that it has as well is left out."""
    for number in machine.affinity():
        write_value(tmp_path / CPUFREQ.format(number) / "scaling_cur_freq", 2_500_000)
        write_value(tmp_path / CPUFREQ.format(number) / "scaling_governor", "schedutil")
    write_meter(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    with Watch("cpu", (), tmp_path) as watch:
        time.sleep(0.05)
        write_meter(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
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
    assert gpu.gpus(), "the simulated NVML shows one"


def test_a_certificate_of_this_machine_has_energy_or_the_reason_why_not_and_the_governor() -> None:
    with Watch("cpu", ()) as watch:
        time.sleep(0.05)
    row = watch.row()
    assert (row["energy_j"], row["energy_source"]) == (None, None) if row["energy_note"] else row["energy_j"] >= 0
    governor_files = [Path("/") / CPUFREQ.format(number) / "scaling_governor" for number in machine.affinity()]
    assert row["cpu_governor"] == (
        " ".join(sorted({path.read_text().strip() for path in governor_files if path.exists()})) or None
    )


def test_clock_and_governor_are_those_of_the_usable_processors_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: (1, 2))
    for number, kilohertz in enumerate((9_000_000, 2_000_000, 3_000_000)):
        write_value(tmp_path / CPUFREQ.format(number) / "scaling_cur_freq", kilohertz)
        write_value(
            tmp_path / CPUFREQ.format(number) / "scaling_governor", "powersave" if number == 2 else "performance"
        )
    with Watch("cpu", (), tmp_path) as watch:
        write_value(tmp_path / CPUFREQ.format(1) / "scaling_cur_freq", 1_000_000)
    assert watch.row()["cpu_mhz"] == pytest.approx((2500 + 2000) / 2)
    assert watch.row()["cpu_governor"] == "performance powersave"


def test_without_cpufreq_the_clock_is_read_from_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: (0, 2))
    blocks = (f"processor\t: {n}\nmodel name\t: x\ncpu MHz\t\t: {1000 * (n + 1)}.5\n" for n in range(3))
    write_value(tmp_path / "proc/cpuinfo", "\n".join(blocks))
    with Watch("cpu", (), tmp_path) as watch:
        pass
    assert watch.row()["cpu_mhz"] == 2000.5
    assert watch.row()["cpu_governor"] is None


def test_energy_is_summed_over_packages_once_each_even_if_a_counter_starts_again(tmp_path: Path) -> None:
    write_meter(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    write_meter(tmp_path, "intel-rapl:0:0", "core", 5)
    write_meter(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    write_meter(tmp_path, "intel-rapl:1", "package-1", 990_000_000)
    write_meter(tmp_path, "intel-rapl:2", "psys", 7)
    with Watch("cpu", (), tmp_path) as watch:
        time.sleep(0.05)
        for zone in ("intel-rapl:0", "intel-rapl-mmio:0"):
            write_meter(tmp_path, zone, "package-0", 4_000_000)
        # This counter goes up by 10 J to its limit, and then by 2 J from zero.
        write_meter(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    row = watch.row()
    assert row["energy_j"] == pytest.approx(3 + 12)
    assert row["power_w"] == pytest.approx(15 / watch.seconds)
    assert (row["energy_source"], row["energy_note"]) == ("RAPL package-0, RAPL package-1", None)


def test_the_note_says_why_there_is_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note() -> str:
        with Watch("cpu", (), tmp_path) as watch:
            pass
        row = watch.row()
        assert (row["energy_j"], row["power_w"], row["energy_source"]) == (None, None, None)
        return row["energy_note"]

    assert note() == f"no RAPL: {tmp_path}/sys/class/powercap has no package (virtual machine?)"
    write_meter(tmp_path, "intel-rapl:0", "package-0", 1)
    read, fault = Path.read_text, PermissionError(13, "Permission denied")

    def refuse(path: Path, *arguments: Any) -> str:
        if path.name == "energy_uj":
            raise fault
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "not readable without root" in note()
    fault = OSError(61, "No data available")  # type: ignore[assignment]
    assert "No data available" in note()


def test_entering_or_leaving_a_watch_takes_less_than_5_milliseconds() -> None:
    seconds = []
    for _ in range(9):
        watch, start = Watch("cpu", ()), time.perf_counter()
        watch.__enter__()
        watch.__exit__()
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 2 * 0.005


@contextmanager
def spinning_processes(count: int) -> Iterator[list[psutil.Process]]:
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
            processes.append(psutil.Process(process.pid))
        yield processes


def cpu_seconds_of(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def foreign_share(seconds: float) -> float:
    with Watch("cpu", ()) as watch:
        time.sleep(seconds)
    return watch.foreign_cpu


def test_processes_that_spin_on_all_cores_count_as_foreign_load() -> None:
    cores = len(machine.affinity())
    with spinning_processes(cores) as neighbours:
        time.sleep(0.3)
        with Watch("cpu", ()) as watch:
            before = cpu_seconds_of(neighbours)
            time.sleep(1.0)
            neighbours_share = (cpu_seconds_of(neighbours) - before) / seconds_since_start(watch) / cores
    assert watch.foreign_cpu > 0.25
    assert watch.foreign_cpu > neighbours_share - 0.1


def seconds_since_start(watch: Watch) -> float:
    return time.monotonic() - watch._start


def test_the_watching_process_itself_does_not_count_as_foreign_load() -> None:
    """Others may use this machine too, so the share while spinning is compared with the shares before and after."""
    differences = []
    for _ in range(5):
        before = foreign_share(0.3)
        with Watch("cpu", ()) as watch:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
        differences.append(watch.foreign_cpu - max(before, foreign_share(0.3)))
    assert statistics.median(differences) < 0.1


def test_a_quiet_machine_has_almost_no_foreign_load() -> None:
    shares = []
    while len(shares) < 10 and (not shares or min(shares) >= 0.1):
        shares.append(foreign_share(0.5))
    if min(shares) > 0.4:
        pytest.skip(f"other processes keep this machine busy: at least {min(shares):.0%}")
    assert min(shares) < 0.1

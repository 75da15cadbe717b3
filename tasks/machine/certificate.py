"""The machine's state during a measurement: clocks, load by other processes, state of the GPU, energy."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import machine
from tasks.machine import gpu

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


# Blocks shorter than this have no energy of their own on a GPU, because its meter moves in steps of 20 to 100 ms.
GPU_SECONDS = 1.0

# Joules that an energy meter shows, and the value at which it starts again from zero; by the meter's name.
Meters = dict[str, tuple[float, float]]


class Watch:
    """Watches the machine while its `with` blocks run, one after another, in the process that measures.

    Entering and leaving a block takes a few milliseconds, or with a GPU some tens where NVML is not held open. This
    time is not watched, and neither is what happens between blocks.
    """

    def __init__(self, device: str, own_pids: Container[int], root: Path = Path("/")) -> None:
        """Make a watch that has read nothing yet.

        Parameters
        ----------
        own_pids
            Processes on the GPU that do not count as foreign. On the CPU every process but this one is foreign.
        root
            The folder that holds proc and sys.
        """
        self.device = device
        self.own_pids = own_pids
        self.root = root
        self.seconds = 0.0
        """Length of all blocks together."""
        self._foreign_seconds = 0.0
        """CPU seconds that other processes used during the blocks."""
        self._loads: list[float] = []
        """The load average at the beginning of each block."""
        self._mhz: list[float | None] = []
        """The processors' mean clock at the beginning and at the end of each block."""
        self._gpu: list[dict[str, Any]] = []
        """The GPU's state (`gpu.gpu_state`) at the same moments."""
        self._energy: list[tuple[Meters, str | None]] = []
        """The energy meters at the same moments, or why there are none."""

    def __enter__(self) -> Watch:
        self._loads.append(os.getloadavg()[0])
        self._read()
        # Energy is read last at the beginning and first at the end, because the other readings take milliseconds.
        self._energy.append(self._counters())
        self._busy = busy_seconds()
        self._own_busy = time.process_time()
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._start
        self._foreign_seconds += busy_seconds() - self._busy - (time.process_time() - self._own_busy)
        self._energy.append(self._counters())
        self._read()

    def _read(self) -> None:
        self._gpu.append(gpu.gpu_state(self.device, self.own_pids))
        self._mhz.append(_mhz(self.root))

    @property
    def foreign_cpu(self) -> float:
        """Share of the time of the usable processors that other processes used during the blocks."""
        capacity = self.seconds * len(machine.affinity())
        # The kernel counts in steps of 10 ms, so the share of a short time may come out below 0 or above 1.
        return min(max(self._foreign_seconds / capacity, 0.0), 1.0) if capacity else 0.0

    def _counters(self) -> tuple[Meters, str | None]:
        """Read the energy meters. Where there are none, the second value is the reason."""
        if self.device == "cpu":
            return _rapl(self.root)
        joules = gpu.energy_j(self.device)
        if joules is None:
            if self._gpu[-1]:
                return {}, "this GPU does not count its energy"
            return {}, "NVML is missing: no driver or no nvidia-ml-py"
        return {"NVML": (joules, 2**64 / 1000)}, None

    def row(self) -> dict[str, Any]:
        """Return the columns of the `certificates` table that describe the machine, after the last block."""
        present = [state for state in self._gpu if state]
        energy, source, note = self._spent()
        gpus = gpu.gpus() if self.device != "cpu" else ()
        return {
            "cpu_model": machine.cpu()[0],
            "cpu_governor": machine.governor(self.root),
            "cpu_mhz": _mean(self._mhz),
            "affinity": ranges(machine.affinity()),
            "load_average": self._loads[0],
            "foreign_cpu": self.foreign_cpu,
            "gpu_sm_mhz": _mean([state["sm_mhz"] for state in present]),
            "gpu_memory_mhz": _mean([state["memory_mhz"] for state in present]),
            "gpu_temperature_c": self._gpu[-1].get("temperature_c"),
            "gpu_trouble": ", ".join(dict.fromkeys(s["trouble"] for s in present if s["trouble"])) or None,
            "gpu_driver": gpus[0]["driver"] if gpus else None,
            "energy_j": energy,
            "power_w": energy / self.seconds if energy is not None and self.seconds else None,
            "energy_source": source,
            "energy_note": note,
        }

    def _spent(self) -> tuple[float | None, str | None, str | None]:
        """Return the joules of all blocks, the names of the meters, and where there are none, why."""
        mean = self.seconds / (len(self._energy) // 2)
        if self.device != "cpu" and mean < GPU_SECONDS and self._energy[0][0]:
            note = f"turns of {mean:.2g} s: a GPU's meter follows within some 0.1 s, and others had it before"
            return None, None, note
        joules = 0.0
        names = ""
        for (before, note_before), (after, note_after) in zip(self._energy[::2], self._energy[1::2], strict=True):
            if not before or before.keys() != after.keys():
                return None, None, note_before or note_after or "the meters changed meanwhile"
            for name, (end, start_again) in after.items():
                used = end - before[name][0]
                joules += used if used >= 0 else used + start_again
            names = ", ".join(before)
        return joules, names, None


def busy_seconds() -> float:
    """Return the CPU seconds used so far on the processors that this process may use, by any process.

    On a virtual machine this includes the time that the host gave to other machines ("steal").
    """
    import psutil

    times = psutil.cpu_times(percpu=True)
    usable = [number for number in machine.affinity() if number < len(times)]
    fields = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times[number], field, 0.0) for number in usable for field in fields)


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, consecutive ones as a range: 0-3,8."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        first = number
        if spans and spans[-1][1] == number - 1:
            first, _ = spans.pop()
        spans.append((first, number))
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mhz(root: Path) -> float | None:
    """Return the mean clock of the usable processors now, in MHz, as the kernel reports it.

    In a virtual machine this may be the nominal clock.
    """
    usable = machine.affinity()
    clocks: list[float | None] = []
    for number in usable:
        # A ValueError comes from the text "<unknown>".
        with suppress(OSError, ValueError):
            kilohertz = (root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq").read_text()
            clocks.append(int(kilohertz) / 1000)
    if clocks:
        return _mean(clocks)
    processor = None
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "processor":
                processor = int(value)
            elif key.strip() == "cpu MHz" and processor in usable:
                clocks.append(float(value))
    return _mean(clocks)


def _rapl(root: Path) -> tuple[Meters, str | None]:
    """Read the energy meter of each CPU package. Where there is none, the second value is the reason.

    RAPL (Intel, and AMD from Zen on, through the kernel's powercap) counts the whole package, whoever uses it.
    """
    folder = root / "sys/class/powercap"
    meters: Meters = {}
    try:
        for zone in sorted(folder.glob("*rapl*:*")):
            name = (zone / "name").read_text().strip()
            # One package may appear twice, through two interfaces of the kernel.
            if name.startswith("package"):
                joules = int((zone / "energy_uj").read_text()) / 1e6
                start_again = int((zone / "max_energy_range_uj").read_text()) / 1e6
                meters[f"RAPL {name}"] = joules, start_again
    except PermissionError:
        return {}, f"RAPL is not readable without root: {zone / 'energy_uj'}"
    except OSError as error:
        return {}, f"RAPL cannot be read: {error}"
    return meters, None if meters else f"no RAPL: {folder} has no package (virtual machine?)"


# Conditions are bad where other processes used more than this share of the cores.
FOREIGN_CPU = 0.25
HURRIED = "cut short by the minutes allowed"
"""Text in the `conditions` of a row whose visits had less time than they should have had."""

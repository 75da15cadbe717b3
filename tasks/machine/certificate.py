"""Under which conditions something was measured: clocks, load by others, what the GPU says, energy."""

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


# a GPU counts its energy in steps of 20-100 ms: a shorter block's is not its own
GPU_SECONDS = 1.0


class Watch:
    """Watches the machine while its `with` blocks run, one after another, in the process that measures.

    An end takes a few milliseconds (with a GPU some tens, where NVML is not held open), which are not part of what is
    watched, nor is what happens between blocks.
    """

    def __init__(self, device: str, own_pids: Container[int], root: Path = Path("/")) -> None:
        """Nothing is read yet.

        Parameters
        ----------
        own_pids : processes that are no strangers on the GPU. On the CPU every process but this one is.
        root : where proc and sys are
        """
        self.device, self.own, self.root = device, own_pids, root
        self.seconds, self._others = 0.0, 0.0
        self._loads: list[float] = []
        self._mhz: list[float | None] = []
        self._gpu: list[dict[str, Any]] = []
        self._energy: list[tuple[dict[str, tuple[float, float]], str | None]] = []
        """Meters at the beginning and at the end of each block."""

    def __enter__(self) -> Watch:
        self._loads.append(os.getloadavg()[0])
        self._read()
        # last, and at the end first: other readings take milliseconds
        self._energy.append(self._counters())
        self._busy, self._own_busy, self._start = busy_seconds(), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._start
        self._others += busy_seconds() - self._busy - (time.process_time() - self._own_busy)
        self._energy.append(self._counters())
        self._read()

    def _read(self) -> None:
        self._gpu.append(gpu.gpu_state(self.device, self.own))
        self._mhz.append(_mhz(self.root))

    @property
    def foreign_cpu(self) -> float:
        """Share of the usable processors that other processes used."""
        capacity = self.seconds * len(machine.affinity())
        # The kernel counts in steps of 10 ms, so that a short time may come out beyond the range.
        return min(max(self._others / capacity, 0.0), 1.0) if capacity else 0.0

    def _counters(self) -> tuple[dict[str, tuple[float, float]], str | None]:
        """(Energy meters in joules and where they start again, why there are none)."""
        if self.device == "cpu":
            return _rapl(self.root)
        joules = gpu.energy_j(self.device)
        if joules is None:
            known = self._gpu[-1]
            return (
                {},
                "this GPU does not count its energy" if known else "NVML is missing: no driver or no nvidia-ml-py",
            )
        return {"NVML": (joules, 2**64 / 1000)}, None

    def row(self) -> dict[str, Any]:
        """The columns of the `certificates` table that this knows, after the last block."""
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
        """(Joules, the meters' names, why there are none)."""
        mean = self.seconds / (len(self._energy) // 2)
        if self.device != "cpu" and mean < GPU_SECONDS and self._energy[0][0]:
            return (
                None,
                None,
                f"turns of {mean:.2g} s: a GPU's meter follows within some 0.1 s, and others had it before",
            )
        joules, names = 0.0, ""
        for (before, note), (after, late) in zip(self._energy[::2], self._energy[1::2], strict=True):
            if not before or before.keys() != after.keys():
                return None, None, note or late or "the meters changed meanwhile"
            for name, (end, start_again) in after.items():
                used = end - before[name][0]
                joules += used if used >= 0 else used + start_again
            names = ", ".join(before)
        return joules, names, None


def busy_seconds() -> float:
    """CPU seconds used so far, by anything (other machines too), on the processors that this process may use."""
    import psutil

    times, own = psutil.cpu_times(percpu=True), machine.affinity()
    fields = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times[n], field, 0.0) for n in own if n < len(times) for field in fields)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 0-3,8."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        first = found.pop()[0] if found and found[-1][1] == number - 1 else number
        found.append((first, number))
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in found)


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return statistics.fmean(given) if given else None


def _mhz(root: Path) -> float | None:
    """Mean clock of the usable processors now, as the kernel tells it; in a virtual machine it may be the nominal
    one."""
    usable, found = machine.affinity(), []
    for number in usable:
        # ValueError: "<unknown>"
        with suppress(OSError, ValueError):
            kilohertz = (root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq").read_text()
            found.append(int(kilohertz) / 1000)
    if found:
        return statistics.fmean(found)
    processor = None
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "processor":
                processor = int(value)
            elif key.strip() == "cpu MHz" and processor in usable:
                found.append(float(value))
    return _mean(found)


def _rapl(root: Path) -> tuple[dict[str, tuple[float, float]], str | None]:
    """(Energy of each CPU package in joules and where its counter starts again, why there is none).

    RAPL counts the whole package, whoever uses it: Intel, and AMD from Zen on, through the kernel's powercap.
    """
    folder, found = root / "sys/class/powercap", {}
    try:
        for zone in sorted(folder.glob("*rapl*:*")):
            name = (zone / "name").read_text().strip()
            # a package may show itself twice, by two interfaces
            if name.startswith("package"):
                counter, most = (int((zone / f).read_text()) / 1e6 for f in ("energy_uj", "max_energy_range_uj"))
                found[f"RAPL {name}"] = counter, most
    except PermissionError:
        return {}, f"RAPL is not readable without root: {zone / 'energy_uj'}"
    except OSError as error:
        return {}, f"RAPL cannot be read: {error}"
    return found, None if found else f"no RAPL: {folder} has no package (virtual machine?)"


# conditions are bad above this share of the cores used by other processes
FOREIGN_CPU = 0.25
HURRIED = "cut short by the minutes allowed"
"""Stands in the `conditions` of a row for what was bad because its visits had too little time."""

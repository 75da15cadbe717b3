"""NVIDIA GPUs as CUDA numbers them: which there are, their memory, state and energy, all through NVML. Nothing is
imported where there is no driver; what a GPU does not tell is None.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

# Where an NVIDIA driver shows itself (the last under WSL); looked at first, as importing NVML's package takes 0.1 s.
DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
# NVML's clock event reasons that mean the GPU was slowed down.
SLOWDOWNS = {0x08: "hardware slowdown", 0x20: "thermal slowdown", 0x40: "thermal slowdown", 0x80: "power brake"}


@contextmanager
def nvml() -> Iterator[Any]:
    """NVML (package nvidia-ml-py) started, or None where the package or the driver is missing."""
    library = None
    if any(Path(sign).exists() for sign in DRIVER_SIGNS) and importlib.util.find_spec("pynvml"):
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            library = pynvml
    try:
        yield library
    finally:
        if library is not None:
            library.nvmlShutdown()


@cache
def gpus() -> tuple[dict[str, Any], ...]:
    """GPUs that CUDA shows, cuda:0 first: {name, driver, memory_bytes (None without NVML)}."""
    with nvml() as library:
        if library is not None:
            driver = _text(library.nvmlSystemGetDriverVersion())
            return tuple(
                {
                    "name": _text(library.nvmlDeviceGetName(handle)),
                    "driver": driver,
                    "memory_bytes": int(library.nvmlDeviceGetMemoryInfo(handle).total),
                }
                for handle in _gpu_handles(library)
            )
    found, uuids = [], []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in file.read_text().splitlines())
        told = {key.strip(): value.strip() for key, _, value in lines}
        version = Path("/proc/driver/nvidia/version").read_text().split("  ")
        driver = version[1].strip() if len(version) > 1 else version[0].strip()
        found.append({"name": told.get("Model", "NVIDIA GPU"), "driver": driver, "memory_bytes": None})
        uuids.append(told.get("GPU UUID", ""))
    return tuple(found[index] for index in visible_gpus(uuids, os.environ.get("CUDA_VISIBLE_DEVICES")))


def visible_gpus(uuids: Sequence[str], listed: str | None) -> list[int]:
    """Indices in PCI order of cuda:0, cuda:1, ... as CUDA numbers them.

    Parameters
    ----------
    uuids : of all GPUs in PCI order
    listed : CUDA_VISIBLE_DEVICES: indices or (beginnings of) UUIDs; what follows the first that names no GPU is hidden.
        Its order by speed is not known here: indices are right where CUDA_DEVICE_ORDER is PCI_BUS_ID, as in candidates.
    """
    if listed is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in map(str.strip, listed.split(",")):
        if entry.isdecimal():
            matching = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matching = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matching) != 1:
            break
        found += matching
    return found


def _gpu_handles(library: Any) -> list[Any]:
    """NVML's handles of cuda:0, cuda:1, ..."""
    handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    uuids = [_text(library.nvmlDeviceGetUUID(handle)) for handle in handles]
    return [handles[index] for index in visible_gpus(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))]


def gpu_handle(library: Any, device: str) -> Any:
    """NVML's handle of `cuda:N`.

    Raises
    ------
    ValueError
        If CUDA_VISIBLE_DEVICES or the machine has no such GPU.
    """
    handles, number = _gpu_handles(library), int(device.partition(":")[2])
    if number >= len(handles):
        raise ValueError(f"{device}: {len(handles)} GPUs are visible (CUDA_VISIBLE_DEVICES, nvidia-smi -L)")
    return handles[number]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def missing_gpu(device: str) -> str | None:
    """Why `device` is not there (a GPU that the machine lacks); None for the CPU and for a GPU that is there."""
    if device == "cpu":
        return None
    found = len(gpus())
    if int(device.partition(":")[2]) < found:
        return None
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if listed is None else f" that CUDA_VISIBLE_DEVICES ({listed!r}) shows"
    return (
        f"{device}: this machine has {f'only {found}' if found else 'no'} NVIDIA GPU{'s' if found > 1 else ''}{hidden}"
    )


def vram_bytes(pid: int) -> int | None:
    """GPU memory of a process through NVML, over all GPUs; None where NVML is missing or does not list the process.

    In a container NVML lists the processes by their numbers outside it, so that they may not be found.
    """
    with nvml() as library:
        if library is None:
            return None
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        used = [
            process.usedGpuMemory
            for handle in handles
            for process in _told(library, handle, "nvmlDeviceGetComputeRunningProcesses") or ()
            if process.pid == pid and process.usedGpuMemory is not None
        ]
    return sum(used) if used else None


def gpu_usage(device: str) -> tuple[int, tuple[int, ...]] | None:
    """(Bytes in use, processes listed) of a GPU; None for a CPU or where NVML does not tell. See `vram`."""
    if device == "cpu":
        return None
    with nvml() as library:
        if library is None:
            return None
        handle = gpu_handle(library, device)
        memory = _told(library, handle, "nvmlDeviceGetMemoryInfo")
        processes = _told(library, handle, "nvmlDeviceGetComputeRunningProcesses")
    return None if memory is None or processes is None else (int(memory.used), tuple(each.pid for each in processes))


def nvml_free_bytes(device: str) -> int | None:
    """Return how many bytes of a GPU's memory are free. None means that NVML does not tell."""
    with nvml() as library:
        memory = library and _told(library, gpu_handle(library, device), "nvmlDeviceGetMemoryInfo")
    return int(memory.free) if memory else None


def vram(device: str, before: tuple[int, tuple[int, ...]] | None = None) -> tuple[int | None, str | None]:
    """GPU memory of this process, its CUDA context included, and how it is known; (None, None) where it is not.

    Called with the library loaded and no model opened it is the context's part.

    Parameters
    ----------
    before : `gpu_usage` before this process had a CUDA context

    Returns
    -------
    bytes, source : "process": NVML lists this process. "device difference": it does not (as in a container), but
    nothing
        was on the GPU before and one process, this one, is now; so it is what the GPU's use grew by. Where it lists
        none at all, others may be there, unseen: not known.
    """
    if device == "cpu":
        return None, None
    own = vram_bytes(os.getpid())
    if own is not None:
        return own, "process"
    now = gpu_usage(device)
    if before is None or now is None or before[1] or len(now[1]) != 1:
        return None, None
    return max(now[0] - before[0], 0), "device difference"


def _told(library: Any, handle: Any, function: str, *arguments: Any) -> Any:
    """What NVML's function answers; None for old, virtual or divided GPUs, and drivers, that do not have it."""
    try:
        return getattr(library, function)(handle, *arguments)
    except (library.NVMLError_NotSupported, library.NVMLError_FunctionNotFound, library.NVMLError_NoPermission):
        return None


def energy_j(device: str) -> float | None:
    """Joules that a GPU has used since its driver was loaded; None where it or NVML does not tell."""
    with nvml() as library:
        told = library and _told(library, gpu_handle(library, device), "nvmlDeviceGetTotalEnergyConsumption")
    return told / 1000 if told else None


def gpu_state(device: str, own: Container[int]) -> dict[str, Any]:
    """A GPU now; empty for a CPU or where NVML is missing, a value None where the GPU does not tell it.

    Parameters
    ----------
    own : process numbers that are not foreign. Where none of them is listed (a container), foreign ones are unknown.

    Returns
    -------
    state : sm_mhz, memory_mhz, temperature_c, trouble (what disturbs it: slowed down, foreign processes; None: nothing)
    """
    if device == "cpu":
        return {}
    with nvml() as library:
        if library is None:
            return {}
        handle = gpu_handle(library, device)

        told = partial(_told, library, handle)
        reasons = told("nvmlDeviceGetCurrentClocksEventReasons")
        # a driver before 535 has it under its old name
        if reasons is None:
            reasons = told("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        pids = [process.pid for process in told("nvmlDeviceGetComputeRunningProcesses") or ()]
        state = {
            "sm_mhz": told("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            "memory_mhz": told("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            "temperature_c": told("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
        }
    found = sorted({what for bit, what in SLOWDOWNS.items() if reasons & bit})
    foreign = [pid for pid in pids if pid not in own]
    if foreign and len(foreign) < len(pids):
        found.append("foreign process on the GPU")
    return state | {"trouble": ", ".join(found) or None}

"""NVIDIA GPUs, numbered as CUDA numbers them: which there are, their memory, state and energy, all through NVML.

Where there is no driver, NVML's package is not imported. A value that a GPU does not report is None.
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

# Files by which an NVIDIA driver shows itself (the last one under WSL). They are looked for first, because importing
# NVML's package takes 0.1 s.
DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
# Bits of NVML's clock event reasons which mean that the GPU was slowed down.
SLOWDOWNS = {0x08: "hardware slowdown", 0x20: "thermal slowdown", 0x40: "thermal slowdown", 0x80: "power brake"}


@contextmanager
def nvml() -> Iterator[Any]:
    """Start NVML (package nvidia-ml-py) and yield it, or None where the package or the driver is missing."""
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
    """Return the GPUs that CUDA shows, cuda:0 first.

    Each is a dictionary of name, driver and memory_bytes, which is None without NVML.
    """
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
    return _gpus_of_driver()


def _gpus_of_driver() -> tuple[dict[str, Any], ...]:
    """Return the GPUs as `gpus` does, from the driver's files in /proc, where NVML is missing."""
    cards = []
    uuids = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in file.read_text().splitlines())
        information = {key.strip(): value.strip() for key, _, value in lines}
        version = Path("/proc/driver/nvidia/version").read_text().split("  ")
        driver = version[1].strip() if len(version) > 1 else version[0].strip()
        cards.append({"name": information.get("Model", "NVIDIA GPU"), "driver": driver, "memory_bytes": None})
        uuids.append(information.get("GPU UUID", ""))
    return tuple(cards[index] for index in visible_gpus(uuids, os.environ.get("CUDA_VISIBLE_DEVICES")))


def visible_gpus(uuids: Sequence[str], listed: str | None) -> list[int]:
    """Return for cuda:0, cuda:1, ... the place of that GPU in PCI order.

    Parameters
    ----------
    uuids
        UUIDs of all GPUs in PCI order.
    listed
        The value of CUDA_VISIBLE_DEVICES: indices, or UUIDs or beginnings of them. Whatever follows the first entry
        that names no GPU is hidden. Indices are right where CUDA_DEVICE_ORDER is PCI_BUS_ID, as in the processes of
        candidates; CUDA's other order, by speed, is not known here.
    """
    if listed is None:
        return list(range(len(uuids)))
    indices: list[int] = []
    for entry in map(str.strip, listed.split(",")):
        if entry.isdecimal():
            matching = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matching = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matching) != 1:
            break
        indices += matching
    return indices


def _gpu_handles(library: Any) -> list[Any]:
    """Return NVML's handles of cuda:0, cuda:1, ..."""
    handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    uuids = [_text(library.nvmlDeviceGetUUID(handle)) for handle in handles]
    return [handles[index] for index in visible_gpus(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))]


def gpu_handle(library: Any, device: str) -> Any:
    """Return NVML's handle of `cuda:N`.

    Raises
    ------
    ValueError
        If CUDA_VISIBLE_DEVICES or the machine has no such GPU.
    """
    handles = _gpu_handles(library)
    number = int(device.partition(":")[2])
    if number >= len(handles):
        raise ValueError(f"{device}: {len(handles)} GPUs are visible (CUDA_VISIBLE_DEVICES, nvidia-smi -L)")
    return handles[number]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def missing_gpu(device: str) -> str | None:
    """Return why this machine lacks the GPU `device`. None means that it is there, or that `device` is the CPU."""
    if device == "cpu":
        return None
    count = len(gpus())
    if int(device.partition(":")[2]) < count:
        return None
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if listed is None else f" that CUDA_VISIBLE_DEVICES ({listed!r}) shows"
    number = f"only {count}" if count else "no"
    return f"{device}: this machine has {number} NVIDIA GPU{'s' if count > 1 else ''}{hidden}"


def vram_bytes(pid: int) -> int | None:
    """Return how many bytes of memory a process has on all GPUs together, as NVML reports it.

    None means that NVML is missing or does not list the process. In a container NVML may list processes by their
    numbers outside it.
    """
    with nvml() as library:
        if library is None:
            return None
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        used = [
            process.usedGpuMemory
            for handle in handles
            for process in _query(library, handle, "nvmlDeviceGetComputeRunningProcesses") or ()
            if process.pid == pid and process.usedGpuMemory is not None
        ]
    return sum(used) if used else None


def gpu_usage(device: str) -> tuple[int, tuple[int, ...]] | None:
    """Return the bytes in use on a GPU and the processes that NVML lists on it, for `vram`.

    None means that `device` is the CPU, or that NVML does not report them.
    """
    if device == "cpu":
        return None
    with nvml() as library:
        if library is None:
            return None
        handle = gpu_handle(library, device)
        memory = _query(library, handle, "nvmlDeviceGetMemoryInfo")
        processes = _query(library, handle, "nvmlDeviceGetComputeRunningProcesses")
    if memory is None or processes is None:
        return None
    return int(memory.used), tuple(process.pid for process in processes)


def nvml_free_bytes(device: str) -> int | None:
    """Return how many bytes of a GPU's memory are free. None means that NVML does not tell."""
    with nvml() as library:
        memory = library and _query(library, gpu_handle(library, device), "nvmlDeviceGetMemoryInfo")
    return int(memory.free) if memory else None


def vram(device: str, before: tuple[int, tuple[int, ...]] | None = None) -> tuple[int | None, str | None]:
    """Return how many bytes of GPU memory this process has, its CUDA context included, and how this is known.

    When the runtime's library is loaded and no model is opened yet, this is the memory of the context.

    Parameters
    ----------
    before
        What `gpu_usage` returned before this process had a CUDA context.

    Returns
    -------
    bytes, source
        "process": NVML lists this process. "device difference": NVML does not list it (as in a container), but it
        listed no process on the GPU before and lists one now, which must be this one, so its memory is the growth of
        the GPU's use. (None, None): not known, for example because NVML lists no process at all, so that others may be
        there unseen.
    """
    if device == "cpu":
        return None, None
    listed = vram_bytes(os.getpid())
    if listed is not None:
        return listed, "process"
    now = gpu_usage(device)
    if before is None or now is None or before[1] or len(now[1]) != 1:
        return None, None
    return max(now[0] - before[0], 0), "device difference"


def _query(library: Any, handle: Any, function: str, *arguments: Any) -> Any:
    """Call one of NVML's functions. Return None where the driver or the GPU (old, virtual or divided) lacks it."""
    try:
        return getattr(library, function)(handle, *arguments)
    except (library.NVMLError_NotSupported, library.NVMLError_FunctionNotFound, library.NVMLError_NoPermission):
        return None


def energy_j(device: str) -> float | None:
    """Return the joules that a GPU has used since its driver was loaded. None means that they are not reported."""
    with nvml() as library:
        millijoules = library and _query(library, gpu_handle(library, device), "nvmlDeviceGetTotalEnergyConsumption")
    return millijoules / 1000 if millijoules else None


def gpu_state(device: str, own_pids: Container[int]) -> dict[str, Any]:
    """Return the state of a GPU now. It is empty for the CPU and where NVML is missing.

    Parameters
    ----------
    own_pids
        Numbers of the processes that are not foreign. Where NVML lists none of them (as in a container), foreign
        processes cannot be told apart and are not reported.

    Returns
    -------
    state
        sm_mhz, memory_mhz, temperature_c, each None where the GPU does not report it; and trouble, which names what
        disturbs the GPU (a slowdown, foreign processes) or is None.
    """
    if device == "cpu":
        return {}
    with nvml() as library:
        if library is None:
            return {}
        handle = gpu_handle(library, device)
        query = partial(_query, library, handle)
        reasons = query("nvmlDeviceGetCurrentClocksEventReasons")
        # Drivers before 535 have this function under an older name.
        if reasons is None:
            reasons = query("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        pids = [process.pid for process in query("nvmlDeviceGetComputeRunningProcesses") or ()]
        state = {
            "sm_mhz": query("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            "memory_mhz": query("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            "temperature_c": query("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
        }
    troubles = sorted({name for bit, name in SLOWDOWNS.items() if reasons & bit})
    foreign = [pid for pid in pids if pid not in own_pids]
    if foreign and len(foreign) < len(pids):
        troubles.append("foreign process on the GPU")
    return state | {"trouble": ", ".join(troubles) or None}

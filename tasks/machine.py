"""The machine: what it is, what it has, what else runs on it. Nothing heavy is imported; a missing source is None."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

# Instructions that decide how fast vector, bf16 and int8 arithmetic is (x86-64, then Arm), as /proc/cpuinfo names them.
FEATURES = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
LIBRARIES = (
    "numpy", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "tensorrt-rtx-cu13-bindings", "nvidia-ml-py", "optuna", "polars", "scikit-learn",
)  # fmt: skip
# Where an NVIDIA driver shows itself (the last under WSL); looked at first, as importing NVML's package takes 0.1 s.
DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
# NVML's clock event reasons that mean the GPU was slowed down.
SLOWDOWNS = {0x08: "hardware slowdown", 0x20: "thermal slowdown", 0x40: "thermal slowdown", 0x80: "power brake"}


@cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """(model, those of FEATURES it has), as the kernel names them."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as file:
        block = {}
        for line in file:  # the first processor's block; the others repeat it
            if not line.strip():
                break
            key, _, value = line.partition(":")
            block[key.strip()] = value.strip()
        flags = set((block.get("flags") or block.get("Features", "")).split())
        model = block.get("model name") or block.get("CPU part") or platform.machine()
        return model, tuple(name for name in FEATURES if name in flags)
    return platform.processor() or platform.machine(), ()


def affinity() -> tuple[int, ...]:
    """Numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores() -> int:
    """Physical cores that this process can keep busy, within its affinity and a container's CPU quota."""
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {Path(topology.format(n)) for n in affinity()}
    usable = len({path.read_text() for path in siblings if path.exists()}) or len(siblings)
    with suppress(OSError, ValueError):  # ValueError: "max", no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, math.ceil(int(quota) / int(period)))
    return max(usable, 1)


def memory_available() -> int:
    """Bytes that new processes can take, within a container's limit."""
    import psutil

    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        limit = int((group / "memory.max").read_text())
        available = min(available, limit - int((group / "memory.current").read_text()))
    return max(available, 0)


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
        if entry.isdigit():
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
        used = [
            process.usedGpuMemory
            for index in range(library.nvmlDeviceGetCount())
            for process in library.nvmlDeviceGetComputeRunningProcesses(library.nvmlDeviceGetHandleByIndex(index))
            if process.pid == pid and process.usedGpuMemory is not None
        ]
    return sum(used) if used else None


def gpu_usage(device: str) -> tuple[int, tuple[int, ...]] | None:
    """(Bytes in use, processes listed) of a GPU; None for a CPU or where NVML is missing. See `vram`."""
    if device == "cpu":
        return None
    with nvml() as library:
        if library is None:
            return None
        handle = gpu_handle(library, device)
        pids = (process.pid for process in library.nvmlDeviceGetComputeRunningProcesses(handle))
        return int(library.nvmlDeviceGetMemoryInfo(handle).used), tuple(pids)


def vram(device: str, before: tuple[int, tuple[int, ...]] | None = None) -> tuple[int | None, str | None]:
    """GPU memory of this process, its CUDA context included, and how it is known; (None, None) where it is not.

    Called with the library loaded and no model opened it is the context's part.

    Parameters
    ----------
    before : `gpu_usage` before this process had a CUDA context

    Returns
    -------
    bytes, source : "process": NVML lists this process. "device difference": it does not (as in a container), but nothing
        else was on the GPU before and at most one process, this one, is now; so it is what the GPU's use grew by.
    """
    if device == "cpu":
        return None, None
    own = vram_bytes(os.getpid())
    if own is not None:
        return own, "process"
    now = gpu_usage(device)
    if before is None or now is None or before[1] or len(now[1]) > 1:
        return None, None
    return max(now[0] - before[0], 0), "device difference"


def gpu_state(device: str, own: Container[int]) -> dict[str, Any]:
    """A GPU now; empty for a CPU or where NVML is missing, a value None where the GPU does not tell it.

    Parameters
    ----------
    own : process numbers that are not foreign. Where none of them is listed (a container), foreign ones are unknown.

    Returns
    -------
    state : sm_mhz, memory_mhz, temperature_c, energy_j (since the driver was loaded), trouble (what disturbs it: slowed
        down, foreign processes; None: nothing)
    """
    if device == "cpu":
        return {}
    with nvml() as library:
        if library is None:
            return {}
        handle = gpu_handle(library, device)

        def told(function: str, *arguments: Any) -> Any:
            try:
                return getattr(library, function)(handle, *arguments)
            # Old, virtual or divided GPUs; drivers that do not know the function, or no more.
            except (library.NVMLError_NotSupported, library.NVMLError_FunctionNotFound):
                return None

        reasons = told("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # a driver before 535 has it under its old name
            reasons = told("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        pids = [process.pid for process in told("nvmlDeviceGetComputeRunningProcesses") or ()]
        millijoules = told("nvmlDeviceGetTotalEnergyConsumption")
        state = {
            "sm_mhz": told("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            "memory_mhz": told("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            "temperature_c": told("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
            "energy_j": None if millijoules is None else millijoules / 1000,
        }
    found = sorted({what for bit, what in SLOWDOWNS.items() if reasons & bit})
    foreign = [pid for pid in pids if pid not in own]
    if foreign and len(foreign) < len(pids):
        found.append("foreign process on the GPU")
    return state | {"trouble": ", ".join(found) or None}


def governor(root: Path = Path("/")) -> str | None:
    """Frequency governor of the usable processors, several if they differ."""
    found = set()
    for number in affinity():
        with suppress(OSError):
            found.add((root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor").read_text().strip())
    return " ".join(sorted(found)) or None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fingerprint() -> str:
    """What a cached measurement is only valid for: CPU, features, cores, memory (in GiB), GPUs and driver, hashed."""
    model, features = cpu()
    graphics = [(gpu["name"], gpu["driver"]) for gpu in gpus()]
    parts = (model, features, cores(), round(_memory_bytes() / 2**30), platform.machine(), graphics)
    return sha256(json.dumps(parts).encode()).hexdigest()


def devices(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Devices to measure on, each once: "auto" stands for the CPU and the first GPU, if there is one."""
    found: list[str] = []
    for device in asked:
        found += ["cpu", *(["cuda:0"] if gpus() else [])] if device == "auto" else [device]
    return tuple(dict.fromkeys(found))


@cache
def versions() -> dict[str, str]:
    """Versions of those of LIBRARIES that are installed, read without importing them."""
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def environment() -> dict[str, object]:
    """The row of the `environments` table."""
    model, features = cpu()
    gpu: dict[str, Any] = next(iter(gpus()), {})
    return {
        "cpu_model": model,
        "cpu_cores": cores(),
        "cpu_features": " ".join(features) or None,
        "cpu_governor": governor(),
        "memory_bytes": _memory_bytes(),
        "load_average": os.getloadavg()[0],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": gpu.get("name"),
        "gpu_driver": gpu.get("driver"),
        "gpu_memory_bytes": gpu.get("memory_bytes"),
        "libraries": json.dumps(versions()),
    }

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
    from collections.abc import Container, Iterator

# Instructions that decide how fast vector, bf16 and int8 arithmetic is (x86-64, then Arm), as /proc/cpuinfo names them.
FEATURES = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
LIBRARIES = (
    "numpy", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "tensorrt", "tensorrt-rtx-cu13-bindings", "nvidia-ml-py", "optuna", "polars", "scikit-learn",
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
    """GPUs in PCI order: {name, driver, memory_bytes (None without NVML)}."""
    with nvml() as library:
        if library is not None:
            driver = _text(library.nvmlSystemGetDriverVersion())
            handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            return tuple(
                {
                    "name": _text(library.nvmlDeviceGetName(handle)),
                    "driver": driver,
                    "memory_bytes": int(library.nvmlDeviceGetMemoryInfo(handle).total),
                }
                for handle in handles
            )
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        named = [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("Model")]
        version = Path("/proc/driver/nvidia/version").read_text().split("  ")
        driver = version[1].strip() if len(version) > 1 else version[0].strip()
        found.append({"name": named[0] if named else "NVIDIA GPU", "driver": driver, "memory_bytes": None})
    return tuple(found)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def missing_gpu(device: str) -> str | None:
    """Why `device` is not there (a GPU that the machine lacks); None for the CPU and for a GPU that is there."""
    if device == "cpu":
        return None
    found = len(gpus())
    if int(device.partition(":")[2]) < found:
        return None
    return f"{device}: this machine has {f'only {found}' if found else 'no'} NVIDIA GPU{'s' if found > 1 else ''}"


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


def gpu_trouble(device: str, own: Container[int]) -> str | None:
    """What disturbs a GPU now (slowed down, foreign processes); None: nothing, a CPU, or NVML is missing.

    Parameters
    ----------
    own : process numbers that are not foreign. Where none of them is listed (a container), foreign ones are unknown.
    """
    if device == "cpu":
        return None
    with nvml() as library:
        if library is None:
            return None
        handle = library.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2]))
        reasons = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        found = sorted({what for bit, what in SLOWDOWNS.items() if reasons & bit})
        pids = [process.pid for process in library.nvmlDeviceGetComputeRunningProcesses(handle)]
    foreign = [pid for pid in pids if pid not in own]
    if foreign and len(foreign) < len(pids):
        found.append("foreign process on the GPU")
    return ", ".join(found) or None


def _governor() -> str | None:
    with suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    return None


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


def environment() -> dict[str, object]:
    """The row of the `environments` table; versions are read without importing the libraries."""
    model, features = cpu()
    gpu: dict[str, Any] = next(iter(gpus()), {})
    versions = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu_model": model,
        "cpu_cores": cores(),
        "cpu_features": " ".join(features) or None,
        "cpu_governor": _governor(),
        "memory_bytes": _memory_bytes(),
        "load_average": os.getloadavg()[0],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": gpu.get("name"),
        "gpu_driver": gpu.get("driver"),
        "gpu_memory_bytes": gpu.get("memory_bytes"),
        "libraries": json.dumps(versions),
    }

"""This machine: its processor, cores, memory, GPUs and libraries. No heavy library is imported to find out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.machine import gpu, quota

# Instructions that decide how fast vector, bf16 and int8 arithmetic is (x86-64, then Arm), as /proc/cpuinfo names them.
FEATURES = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
LIBRARIES = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "nvidia-ml-py",
    "optuna",
    "polars",
    "scikit-learn",
)


@cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """Return the processor's model and those of FEATURES that it has, as the kernel names them."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as file:
        # The block of the first logical processor; those of the others repeat it.
        block = {}
        for line in file:
            if not line.strip():
                break
            key, _, value = line.partition(":")
            block[key.strip()] = value.strip()
        flags = set((block.get("flags") or block.get("Features", "")).split())
        model = block.get("model name") or block.get("CPU part") or platform.machine()
        return model, tuple(name for name in FEATURES if name in flags)
    return platform.processor() or platform.machine(), ()


def affinity() -> tuple[int, ...]:
    """Return the numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores() -> int:
    """Return how many physical cores this process can keep busy, within its affinity and a container's CPU quota."""
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {Path(topology.format(n)) for n in affinity()}
    usable = len({path.read_text() for path in siblings if path.exists()}) or len(siblings)
    return max(1, min(usable, quota.usable_processors()))


def keep_to_quota() -> None:
    """Let PyTorch take no more threads than the container's quota allows. By itself it counts the machine's cores.

    This must be called before PyTorch is imported. It leaves an OMP_NUM_THREADS that the user has set.
    """
    if quota.usable_processors() < len(affinity()):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def memory_available() -> int:
    """Return how many bytes of memory new processes can take, within a container's limit."""
    import psutil

    available: int = psutil.virtual_memory().available
    below_limit = quota.memory_left()
    return available if below_limit is None else min(available, below_limit)


def governor(root: Path = Path("/")) -> str | None:
    """Return the frequency governor of the processors that this process may run on; several names if they differ."""
    governors = set()
    for number in affinity():
        with suppress(OSError):
            governors.add((root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor").read_text().strip())
    return " ".join(sorted(governors)) or None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fingerprint() -> str:
    """Return a hash of what a cached measurement is valid for: CPU, features, cores, GiB of memory, GPUs and driver."""
    model, features = cpu()
    graphics = [(card["name"], card["driver"]) for card in gpu.gpus()]
    parts = (model, features, cores(), round(_memory_bytes() / 2**30), platform.machine(), graphics)
    return sha256(json.dumps(parts).encode()).hexdigest()


def resolve_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the devices to measure on, each once. "auto" stands for the CPU and, if there is one, the first GPU."""
    devices: list[str] = []
    for name in names:
        if name != "auto":
            devices.append(name)
        elif gpu.gpus():
            devices += ["cpu", "cuda:0"]
        else:
            devices.append("cpu")
    return tuple(dict.fromkeys(devices))


@cache
def versions() -> dict[str, str]:
    """Return the versions of those of LIBRARIES that are installed, read without importing them."""
    installed = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def environment() -> dict[str, object]:
    """Return the row of the `environments` table that describes this machine."""
    model, features = cpu()
    card: dict[str, Any] = next(iter(gpu.gpus()), {})
    return {
        "cpu_model": model,
        "cpu_cores": cores(),
        "cpu_features": " ".join(features) or None,
        "cpu_governor": governor(),
        "memory_bytes": _memory_bytes(),
        "load_average": os.getloadavg()[0],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": card.get("name"),
        "gpu_driver": card.get("driver"),
        "gpu_memory_bytes": card.get("memory_bytes"),
        "libraries": json.dumps(versions()),
    }

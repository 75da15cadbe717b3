"""The device that a training runs on: which one it is, which arithmetic it has, and how much memory is free."""

from __future__ import annotations

import gc
import importlib.util
import sys
from contextlib import suppress

from tasks import machine
from tasks.machine import gpu, memory


class Unavailable(Exception):
    """Something that the study asks for cannot run on this machine.

    It is skipped, with the message as the reason, and nothing else is run in its place.
    """


def choose_device(name: str) -> str:
    """Return the device that `name` means on this machine: for `auto` the first GPU, or the CPU where there is none.

    Raises
    ------
    ValueError
        If `name` is a GPU that is not there. Training never falls back to another device.
    """
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(
            f"train.device: {name} was asked for, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return name


def missing_triton(device: str) -> str | None:
    """Return why Triton's kernels cannot run on a device. None means that they can."""
    if not device.startswith("cuda"):
        return f"Triton's kernels run on CUDA devices only, asked for {device}"
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def missing_instructions(precision: str, device: str) -> str | None:
    """Return why a device can compute in `precision` only by emulation, which is slower than fp32.

    None means that the device has instructions for it.
    """
    import torch

    if precision == "bf16" and device.startswith("cuda"):
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "bf16":
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has = precision == "fp32" or device.startswith("cuda") or "avx512_fp16" in machine.cpu()[1]
    return None if has else f"{device} has no {precision} instructions, PyTorch would emulate them"


def choose_precision(name: str, device: str) -> str:
    """Return the arithmetic that `name` means: `auto` is bf16 where the device has instructions for it, else fp32."""
    if name != "auto":
        return name
    return "fp32" if missing_instructions("bf16", device) else "bf16"


def free_bytes(device: str) -> int | None:
    """Return how many bytes of memory can still be taken on a device. None means that nothing tells.

    A process that uses CUDA already asks CUDA, after it has given back what PyTorch's allocator keeps. Any other asks
    NVML, because a CUDA context would itself take some hundred megabytes of the GPU.
    """
    if device == "cpu":
        return machine.memory_available()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return gpu.nvml_free_bytes(device)
    release()
    return torch.cuda.mem_get_info(device)[0]


def release() -> None:
    """Give back to the GPUs what PyTorch's allocator keeps for this process, because other processes need it now."""
    # Where PyTorch is not imported, or has not used CUDA, its allocator keeps nothing.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    """Make `peak_bytes` start again from the memory that is in use now."""
    import torch

    if device.startswith("cuda"):
        # Before CUDA is initialised the allocator has no figures to reset, and torch 2.11 raises an error.
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Where a container refuses it, the peak is that of the process's whole life.
        with suppress(OSError):
            memory.reset_peak()


def peak_bytes(device: str) -> int:
    """Return the most bytes in use since `reset_peak`.

    On a GPU these are the bytes of PyTorch's allocator, on the CPU the resident memory of this process.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_resident_bytes()

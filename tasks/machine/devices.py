"""The device that a training runs on: which one, in what arithmetic, and its memory."""

from __future__ import annotations

import gc
import importlib.util
import re
import sys
from contextlib import suppress
from pathlib import Path

from tasks import machine


class Unavailable(Exception):
    """What was asked for cannot run on this machine: it is skipped with this reason, and nothing takes its place."""


def choose_device(name: str) -> str:
    """The device that `auto` stands for; a GPU that was asked for and is not there is an error, not a fallback."""
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(
            f"train.device: {name} was asked for, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return name


def missing_triton(device: str) -> str | None:
    """Why Triton's kernels cannot run on a device, or None."""
    if not device.startswith("cuda"):
        return f"Triton's kernels run on CUDA devices only, asked for {device}"
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def missing_instructions(precision: str, device: str) -> str | None:
    """Why a device would compute in an arithmetic by emulation alone, which is slower than fp32, or None."""
    import torch

    if precision == "bf16" and device.startswith("cuda"):
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "bf16":
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has = precision == "fp32" or device.startswith("cuda") or "avx512_fp16" in machine.cpu()[1]
    return None if has else f"{device} has no {precision} instructions, PyTorch would emulate them"


def choose_precision(name: str, device: str) -> str:
    """The arithmetic that `auto` stands for: bf16 where the device has instructions for it, else fp32."""
    if name != "auto":
        return name
    return "fp32" if missing_instructions("bf16", device) else "bf16"


def free_bytes(device: str) -> int:
    """Memory that can still be taken on the device."""
    import torch

    if device == "cpu":
        return machine.memory_available()
    release()
    return torch.cuda.mem_get_info(device)[0]


def release() -> None:
    """Give back to the GPUs what PyTorch's allocator keeps for this process: others need it now."""
    # not imported: it keeps nothing
    torch = sys.modules.get("torch")
    if torch is not None:
        gc.collect()
        # does nothing before CUDA's first use
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    """Make `peak_bytes` start anew."""
    import torch

    if device.startswith("cuda"):
        # before, the allocator has no figures to reset: torch 2.11 raises
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # a container may refuse it: then the peak is that of the process's life
        with suppress(OSError):
            # VmHWM starts again from VmRSS (man 5 proc)
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Most memory since `reset_peak`: of the GPU's allocator, or resident memory of this process."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) * 1024

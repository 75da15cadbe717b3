"""Find the batch size that `train.batch_size = "auto"` stands for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST = 8
"""Images of the smallest batch that is tried."""
GAIN = 1.05
"""On a CPU, a batch twice as large must train at least this many times as many images per second."""
SECONDS = 0.3
"""On a CPU, each batch size is measured for this long."""
OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""Texts by which errors that are not PyTorch's own OutOfMemoryError say that a GPU's memory is full."""


def largest(step: Callable[[int], None], device: str, images: int) -> int:
    """Return the largest power of two, up to `images`, whose training step fits a GPU's memory. Sizes are tried out.

    A CPU's memory is not filled to find out: there it is the size beyond which images per second no longer rise.

    Parameters
    ----------
    step
        Does a training step on a batch of that many images, and leaves the training as it was.

    Raises
    ------
    ValueError
        If not even the smallest batch fits.
    """
    import torch

    best = 0
    fastest = 0.0
    size = SMALLEST
    while size <= max(images, SMALLEST):
        try:
            # The first step also allocates the optimizer's state, which the measured ones then have.
            step(size)
            rate = _rate(step, size) if device == "cpu" else 0.0
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if not best:
                raise ValueError(
                    f"train.batch_size: not even {size} images fit the memory of {device}; choose a smaller model, or "
                    "a smaller data.image_size"
                ) from error
            break
        finally:
            if device != "cpu":
                torch.cuda.empty_cache()
        if device == "cpu" and rate < GAIN * fastest:
            break
        best = size
        fastest = rate
        size *= 2
    return best


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def _rate(step: Callable[[int], None], size: int) -> float:
    """Return images per second. A step ends with its loss on the CPU, so that the device is done with it."""
    started = time.perf_counter()
    images = 0
    while True:
        passed = time.perf_counter() - started
        if images and passed >= SECONDS:
            return images / passed
        step(size)
        images += size

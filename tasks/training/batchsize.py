"""The batch-size finder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST = 8
# on a CPU, a batch twice as large must be this much faster
GAIN = 1.05
# for which a size is measured
SECONDS = 0.3
FULL = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What other errors than PyTorch's own say of a full GPU."""


def largest(step: Callable[[int], None], device: str, images: int) -> int:
    """The largest power of two, up to `images`, whose training step fits a GPU's memory; it is found by trying.

    A CPU's memory is not tried out: there it is the size after which images a second no longer rise.

    Parameters
    ----------
    step
        Trains on so many images and forgets it.

    Raises
    ------
    ValueError
        If not even the smallest batch fits.
    """
    import torch

    found, fastest, size = 0, 0.0, SMALLEST
    while size <= max(images, SMALLEST):
        try:
            # also makes the optimizer's state
            step(size)
            rate = _rate(step, size) if device == "cpu" else 0.0
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in FULL)):
                raise
            if not found:
                raise ValueError(f"train.batch_size: not even {size} images fit the memory of {device}") from error
            break
        finally:
            if device != "cpu":
                torch.cuda.empty_cache()
        if device == "cpu" and rate < GAIN * fastest:
            break
        found, fastest, size = size, rate, 2 * size
    return found


def _rate(step: Callable[[int], None], size: int) -> float:
    """Images a second; a step ends with its loss on the CPU, so the device has done it."""
    started, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < SECONDS or not done:
        step(size)
        done += size
    return done / passed

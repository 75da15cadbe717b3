"""Gradient checkpointing: blocks are computed again in the backward pass, so that their activations need not be kept.

Chen et al. 2016, Training deep nets with sublinear memory cost.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of several layers that stand one after the other (in an nn.Sequential)."""
    from torch import nn

    found: list[nn.Module] = []

    def walk(module: nn.Module, in_row: bool) -> None:
        is_row = isinstance(module, nn.Sequential)
        layers = sum(1 for m in module.modules() if next(m.parameters(recurse=False), None) is not None)
        if in_row and not is_row and layers > 1:
            found.append(module)
            return
        for child in module.children():
            walk(child, is_row)

    walk(model, False)
    return found


def checkpoint_blocks(model: nn.Module, label: str) -> None:
    """Checkpoint every block of a model, in place; the trained weights are the same ones.

    Raises
    ------
    ValueError
        If the model has no blocks.
    """
    from torch.utils.checkpoint import checkpoint

    found = blocks(model)
    if not found:
        raise ValueError(f"train.checkpointing: {label} has no blocks one after the other; set it to false")
    for block in found:
        again = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=again)  # type: ignore[method-assign]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _keep_statistics(block)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """The second computation of a batch does not count it again in BatchNorm's running statistics."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        assert layer.num_batches_tracked is not None
        layer.momentum, layer.num_batches_tracked = 0.0, torch.zeros_like(layer.num_batches_tracked)
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked

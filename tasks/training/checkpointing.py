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
    """Return the blocks of a model: the outermost modules of several layers that stand in an nn.Sequential."""
    from torch import nn

    in_sequence = isinstance(model, nn.Sequential)
    outermost: list[nn.Module] = []
    for child in model.children():
        is_block = in_sequence and not isinstance(child, nn.Sequential) and _layers(child) > 1
        outermost += [child] if is_block else blocks(child)
    return outermost


def _layers(module: nn.Module) -> int:
    """Return how many of a module's parts have parameters of their own."""
    return sum(1 for part in module.modules() if next(part.parameters(recurse=False), None) is not None)


def checkpoint_blocks(model: nn.Module, label: str) -> None:
    """Checkpoint every block of a model, in place. A training gives the same weights as without.

    `label` names the model in an error.

    Raises
    ------
    ValueError
        If the model has no blocks.
    """
    from torch.utils.checkpoint import checkpoint

    model_blocks = blocks(model)
    if not model_blocks:
        raise ValueError(f"train.checkpointing: {label} has no blocks one after the other; set it to false")
    for block in model_blocks:
        contexts = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)  # type: ignore[method-assign]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's first and of its second computation, as torch's `checkpoint` asks for them."""
    return nullcontext(), _frozen_statistics(block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics as they are: the second computation of a batch must not count it again."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        assert layer.num_batches_tracked is not None
        layer.momentum = 0.0
        layer.num_batches_tracked = torch.zeros_like(layer.num_batches_tracked)
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = batches

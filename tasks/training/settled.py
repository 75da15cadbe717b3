"""Whether BatchNorm's running statistics, which evaluation uses, describe the weights that they belong to.

Each training step moves them by `momentum` of the way. After few steps they still consist mostly of their initial
values; where the weights move fast, they lag behind. Either way the model is good in training and bad in use, and a
validation score looks the same as one of bad weights. So the statistics are estimated anew, and the scores compared.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy

from tasks.datasets._arrays import load_arrays
from tasks.measure.seeds import generator
from tasks.training.evaluation import evaluate
from tasks.training.policies import Normaliser

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from tasks.caching.store import Store
    from tasks.records import Prepared

SETTLED_SHARE = 0.05
"""Statistics have settled when at most this share of them is their initial value: with momentum 0.1, after 29 steps."""
LAG_TOP1 = 0.2
"""Settled statistics are estimated anew only where top-1 on validation is further below that on training than this."""
GAIN_TOP1 = 0.1
"""A note is written only where statistics estimated anew raise top-1 on validation by at least this much."""
GAIN_IMAGES = 5
"""A note is written only where they also make at least this many more validation images right."""
BATCH = 64
"""Training images per batch from which statistics are estimated anew."""
MOST_IMAGES = 1024
"""Training images at most from which statistics are estimated anew."""


def initial_share(model: nn.Module) -> tuple[float, int] | None:
    """Look at the model's least settled BatchNorm layer.

    Returns
    -------
    tuple of (float, int), or None
        The share of its statistics that is still their initial value, and the training steps that it has seen. None
        where the model has no such layer.
    """
    shares = [
        ((1 - layer.momentum) ** int(layer.num_batches_tracked), int(layer.num_batches_tracked))
        for layer in _batch_norms(model)
        if layer.num_batches_tracked is not None and layer.momentum is not None
    ]
    return max(shares, default=None)


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def estimated_anew(model: nn.Module, data: Prepared, store: Store) -> nn.Module:
    """Return a copy of the model whose BatchNorm statistics are the mean of those of batches of training images."""
    import torch

    copied = copy.deepcopy(model).eval()
    for layer in _batch_norms(copied):
        layer.reset_running_stats()
        # Without a momentum, PyTorch takes the mean over all batches.
        layer.momentum = None
        layer.train()
    arrays = load_arrays(store, data)
    # The rows are shuffled, because files may be sorted by class.
    rows = generator(0).permutation(arrays.rows_of("train"))[:MOST_IMAGES]
    device = str(next(model.parameters()).device)
    normaliser = Normaliser(data, device)
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            chosen = numpy.sort(rows[start : start + BATCH])
            # A batch of one image has no variance.
            if len(chosen) > 1:
                copied(normaliser(torch.from_numpy(arrays.images[chosen]).to(device)))
    return copied.eval()


def note(
    model: nn.Module,
    last: Mapping[str, torch.Tensor],
    epochs: Sequence[Mapping[str, object]],
    data: Prepared,
    store: Store,
) -> str | None:
    """Return a sentence for the user where the weights are much better than validation shows, else None.

    Parameters
    ----------
    model
        The model with the weights of the epoch that was best on validation images, which later stages continue from.
    last
        The weights of the last epoch. They may be better ones: statistics that have not settled make an early epoch
        look the best.
    epochs
        The rows of the table `epochs` of this training.
    """
    unsettled = initial_share(model)
    if unsettled is None:
        return None
    share, steps = unsettled
    if share <= SETTLED_SHARE and _best_top1(epochs, "train") - _best_top1(epochs, "validation") < LAG_TOP1:
        return None
    top1 = evaluate(model, data, store, "validation").top1
    last_model = copy.deepcopy(model)
    last_model.load_state_dict(dict(last))
    top1_anew = {
        name: evaluate(estimated_anew(trained, data, store), data, store, "validation").top1
        for name, trained in {"the same weights": model, "the weights of the last epoch": last_model}.items()
    }
    best = max(top1_anew, key=lambda name: top1_anew[name])
    gain = top1_anew[best] - top1
    if gain < GAIN_TOP1 or gain * data.validation_rows < GAIN_IMAGES:
        return None
    unsettled_share = f"{share:.0%} of them is still their initial value"
    reason = unsettled_share if share > SETTLED_SHARE else "they lag behind the weights"
    after = f"after {steps} training {'step' if steps == 1 else 'steps'}"
    return (
        f"BatchNorm's running statistics have not settled: in the weights that go on, {after}, {reason}. "
        f"Top-1 on validation images is {top1:.3f}, and {top1_anew[best]:.3f} for {best} with statistics estimated "
        "anew from training images. Train for more steps: more epochs (train.epochs, train.patience) or smaller "
        "batches (train.batch_size)."
    )


def _best_top1(epochs: Sequence[Mapping[str, object]], split: str) -> float:
    """Return the highest top-1 of a split in rows of the table `epochs`, 0 where there is none."""
    return max((float(str(row["top1"])) for row in epochs if row["split"] == split), default=0.0)

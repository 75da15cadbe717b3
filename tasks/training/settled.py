"""Whether BatchNorm's running statistics, which evaluation uses, describe the weights that they belong to.

They move by `momentum` of the way in each training step. After few steps, most of them is still their initial value;
where weights move fast, they lag behind. Either way the model is good in training and bad in use, which no validation
score tells apart from bad weights. So they are estimated anew, and the scores are compared.
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

LEFT = 0.05
"""Share of a running statistic that may still be its initial value; a momentum of 0.1 is there after 29 steps."""
BEHIND = 0.2
"""Top-1 by which validation must be behind training for statistics to be looked at that have left their initial
values."""
GAINED = 0.1
"""Top-1 that statistics estimated anew must add for that to matter."""
FEWEST = 5
"""Validation images that must be right by it."""
BATCH, MOST = 64, 1024
"""Training images per batch, and in all, from which statistics are estimated anew."""


def initial_share(model: nn.Module) -> tuple[float, int] | None:
    """Of the BatchNorm layer furthest from settled: the share of its initial value that is left, and the steps it has
    seen.

    None where the model has no such layer.
    """
    found = [
        ((1 - layer.momentum) ** int(layer.num_batches_tracked), int(layer.num_batches_tracked))
        for layer in _layers(model)
        if layer.num_batches_tracked is not None and layer.momentum is not None
    ]
    return max(found, default=None)


def _layers(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def estimated_anew(model: nn.Module, data: Prepared, store: Store) -> nn.Module:
    """A copy of the model whose BatchNorm statistics are the mean of those of batches of training images."""
    import torch

    again = copy.deepcopy(model).eval()
    for layer in _layers(again):
        layer.reset_running_stats()
        # PyTorch then takes the mean over all batches
        layer.momentum = None
        layer.train()
    arrays = load_arrays(store, data)
    rows = arrays.rows_of("train")
    # files are sorted by class
    rows = generator(0).permutation(rows)[:MOST]
    device = str(next(model.parameters()).device)
    ready = Normaliser(data, device)
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            chosen = numpy.sort(rows[start : start + BATCH])
            # one image has no variance
            if len(chosen) > 1:
                again(ready(torch.from_numpy(arrays.images[chosen]).to(device)))
    return again.eval()


def note(
    model: nn.Module,
    last: Mapping[str, torch.Tensor],
    epochs: Sequence[Mapping[str, object]],
    data: Prepared,
    store: Store,
) -> str | None:
    """What a person should know where the training has made much better weights than validation shows, or None.

    Parameters
    ----------
    model : with the weights that go on, those of the epoch that was best on validation images
    last : the weights of the last epoch; statistics that have not settled make an early epoch the best
    epochs : rows of the table `epochs` of its training
    """
    found = initial_share(model)
    best = {
        split: max((float(str(row["top1"])) for row in epochs if row["split"] == split), default=0.0)
        for split in ("train", "validation")
    }
    if found is None or (found[0] <= LEFT and best["train"] - best["validation"] < BEHIND):
        return None
    share, steps = found
    now = evaluate(model, data, store, "validation").top1
    ended = copy.deepcopy(model)
    ended.load_state_dict(dict(last))
    anew = {
        name: evaluate(estimated_anew(one, data, store), data, store, "validation").top1
        for name, one in {"the same weights": model, "the weights of the last epoch": ended}.items()
    }
    name = max(anew, key=lambda name: anew[name])
    if anew[name] - now < GAINED or (anew[name] - now) * data.validation_rows < FEWEST:
        return None
    why = f"{share:.0%} of them is still their initial value" if share > LEFT else "they lag behind the weights"
    after = f"after {steps} training {'step' if steps == 1 else 'steps'}"
    return (
        f"BatchNorm's running statistics have not settled: in the weights that go on, {after}, {why}. "
        f"Top-1 on validation images is {now:.3f}, and {anew[name]:.3f} for {name} with statistics estimated anew from "
        "training images. Train for more steps: more epochs (train.epochs, train.patience) or smaller batches "
        "(train.batch_size)."
    )

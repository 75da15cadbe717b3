"""Whether BatchNorm's running statistics, which evaluation uses, have had enough steps to leave their initial values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

LEFT = 0.05
"""Share of a running statistic that may still be its initial value; a momentum of 0.1 is there after 29 steps."""
BEHIND = 0.2
"""Top-1 by which validation must be behind training for that to matter."""


def initial_share(model: nn.Module) -> tuple[float, int]:
    """Of the BatchNorm layer furthest from settled: the share of its initial value that is left, and the steps it has seen.

    (0.0, 0) where the model has no such layer. Statistics move by `momentum` of the way in each training step.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    found = [(0.0, 0)]
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None and layer.momentum is not None:
            steps = int(layer.num_batches_tracked)
            found.append(((1 - layer.momentum) ** steps, steps))
    return max(found)


def note(model: nn.Module, epochs: Sequence[Mapping[str, object]]) -> str | None:
    """What a person should know where validation is far behind training because the statistics have not settled, or None.

    Parameters
    ----------
    model : with the weights that go on
    epochs : rows of the table `epochs` of its training
    """
    share, steps = initial_share(model)
    best = {
        split: max((float(str(row["top1"])) for row in epochs if row["split"] == split), default=0.0)
        for split in ("train", "validation")
    }
    if share <= LEFT or best["train"] - best["validation"] < BEHIND:
        return None
    return (f"BatchNorm's running statistics have not settled: in the weights that go on, after {steps} training "
            f"step{'' if steps == 1 else 's'}, {share:.0%} of them is still their initial value. Top-1 reached "
            f"{best['train']:.3f} on training images but {best['validation']:.3f} on validation images. Train for more "
            "steps: more epochs (train.epochs, train.patience) or smaller batches (train.batch_size).")  # fmt: skip

"""What a training is about, and how far it is: all that a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.training.checkpoints import Checkpoints, load

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tasks.caching.work import Work
    from tasks.records import Prepared, Train


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one training is about: which model, on which images, with which settings."""

    work: Work
    architecture: dict[str, Any]
    """Arguments of `models.build`; stored with the weights."""
    data: Prepared
    settings: Train
    """The first of its seeds is the one that is trained with."""
    model_label: str
    variant: str
    """Name of the variant that the weights will be."""
    stage: str
    """Name of the stage that trains."""

    @property
    def seed(self) -> int:
        return self.settings.seeds[0]

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.work.scratch, self.variant, self.seed)


@dataclass(kw_only=True)
class State:
    """How far a training is. It is saved whole after an epoch, and loaded whole by the run that goes on."""

    batch_size: int
    """Images per step, those of all processes together."""
    epoch: int = 0
    """The epoch that is being trained, or that has ended last, from 1."""
    step: int = 0
    """Steps of the optimizer so far."""
    stale: int = 0
    """Epochs in a row in which macro F1 on validation has not risen."""
    best_macro_f1: float = -1.0
    """Macro F1 on validation of the best weights so far."""
    best_loss: float = 0.0
    """Their loss on validation, which decides between weights of the same macro F1."""
    best_top1: float = 0.0
    """Their top-1 on validation."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best weights so far, on the CPU."""
    epochs: list[dict[str, object]] = field(default_factory=list)
    """Rows of the table `epochs`, two per epoch: train and validation."""
    model: dict[str, torch.Tensor] = field(default_factory=dict)
    """The weights after the last epoch."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    average: tuple[int, dict[str, torch.Tensor]] | None = None
    """Steps and weights of the moving average, where there is one."""

    @classmethod
    def load(cls, checkpoint: Path, device: str) -> State:
        """Read a checkpoint, its tensors on a device."""
        return cls(**load(checkpoint, device))

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint of the epoch that has ended."""
        checkpoints.save(self.epoch, vars(self))

    def is_best(self, macro_f1: float, loss: float) -> bool:
        """Return whether weights of these validation scores are better than the best so far."""
        return (macro_f1, -loss) > (self.best_macro_f1, -self.best_loss)

    def ends(self, settings: Train) -> bool:
        """Return whether the training has ended: all epochs, or too many in a row without a rise."""
        return self.epoch == settings.epochs or self.stale >= settings.patience

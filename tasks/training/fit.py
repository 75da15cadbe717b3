"""One training run, in this process or in several: from a model to the best of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.machine.devices import Unavailable, choose_device, missing_triton
from tasks.training import ddp, settled
from tasks.training.loop import Diverged, TrainingLoop
from tasks.training.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from tasks.caching.work import Work
    from tasks.records import Artifact
    from tasks.training.state import Training

__all__ = ["Diverged", "Fitted", "fit"]


@dataclass(frozen=True)
class Fitted:
    """The best weights of a training run."""

    artifact: Artifact
    validation_macro_f1: float
    validation_top1: float
    epochs: list[dict[str, object]] = field(repr=False)
    """Rows of the `epochs` table."""
    note: str | None = None
    """What a person should know about these weights."""


def train_best(training: Training, model: nn.Module, on_epoch: Callable[[int, float], None] | None = None) -> State:
    """Train by cross-entropy until macro F1 on validation has not risen for `patience` epochs.

    `model` gets the weights of the best epoch.

    Parameters
    ----------
    training
        What is trained, on what and how.
    model
        Freshly built from `training.architecture` (or pruned); trained in place.
    on_epoch
        Called after each epoch with (epoch from 1, validation macro F1), first for those that a checkpoint holds; may
        raise to end the training.

    Returns
    -------
    State
        What the last checkpoint holds.

    Raises
    ------
    Diverged
        If the loss is NaN or infinite; the message has the epoch and the step.
    Unavailable
        If the settings ask for Triton's kernels where they cannot run.
    """
    settings, work = training.settings, training.work
    if settings.fused_pointwise and (reason := missing_triton(choose_device(settings.device))):
        raise Unavailable(f"train.fused_pointwise: {reason}")
    if settings.processes > 1:
        ddp.launch(training, model, on_epoch)
    else:
        TrainingLoop(training, model).go(on_epoch)
    newest = training.checkpoints.newest(work.log)
    state = State.load(newest, "cpu") if newest else None
    if state is None or not state.ends(settings):
        raise RuntimeError(
            f"{training.variant}: the checkpoint that its training has just written is damaged: check the disk that "
            f"holds {work.scratch}; the same command trains on from what is left"
        )
    model.load_state_dict(state.best_weights)
    return state


def fit(training: Training, model: nn.Module, on_epoch: Callable[[int, float], None] | None = None) -> Fitted:
    """Train as `train_best` does, and store the weights of the best epoch."""
    state = train_best(training, model, on_epoch)
    artifact = store_weights(training.work, model.eval(), training.architecture)
    note = settled.note(model, state.model, state.epochs, training.data, training.work.store)
    return Fitted(artifact, state.best_macro_f1, state.best_top1, state.epochs, note)


def store_weights(work: Work, model: nn.Module, architecture: dict[str, Any]) -> Artifact:
    """Store the weights of a model together with the arguments of `models.build` that made it."""
    import models

    with work.store.temporary() as folder:
        models.save(model, folder / "weights.safetensors", architecture)
        return work.store.put(folder / "weights.safetensors", "safetensors", "fp32")

"""One training run, in this process or in several: from a model to the best of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.machine.devices import Unavailable, choose_device, missing_triton
from tasks.training import ddp, settled
from tasks.training.checkpoints import load
from tasks.training.loop import Diverged, Job, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from tasks.caching.work import Work
    from tasks.records import Artifact, Prepared, Train

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


def train_best(
    work: Work,
    model: nn.Module,
    architecture: dict[str, Any],
    data: Prepared,
    settings: Train,
    *,
    model_label: str,
    variant: str,
    stage: str,
    on_epoch: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train by cross-entropy until validation macro F1 has not risen for `patience` epochs; the model gets the best
    epoch's weights. Returns what is in the last checkpoint.

    Parameters
    ----------
    model
        Freshly built from `architecture` (or pruned); trained in place, with the first of `settings.seeds`.
    architecture
        Arguments of `models.build`; stored with the weights.
    on_epoch
        Called after each epoch with (epoch from 1, validation macro F1), first for those that a checkpoint holds; may
        raise to end the training.

    Raises
    ------
    Diverged
        If the loss is NaN or infinite; the message has the epoch and the step.
    Unavailable
        If `settings` ask for Triton's kernels where they cannot run.
    """
    if settings.fused_pointwise and (reason := missing_triton(choose_device(settings.device))):
        raise Unavailable(f"train.fused_pointwise: {reason}")
    job = Job(work, architecture, data, settings, model_label, variant, stage)
    if settings.processes > 1:
        ddp.launch(job, model, on_epoch)
    else:
        Run(job, model).go(on_epoch)
    newest = job.checkpoints.newest(work.log)
    state = load(newest, "cpu") if newest else None
    if state is None or not (state["epoch"] == settings.epochs or state["stale"] >= settings.patience):
        raise RuntimeError(
            f"{variant}: the checkpoint that its training has just written is damaged: check the disk that "
            f"holds {work.scratch}; the same command trains on from what is left"
        )
    model.load_state_dict(state["best_state"])
    return state


def fit(
    work: Work, model: nn.Module, architecture: dict[str, Any], data: Prepared, settings: Train, **told: Any
) -> Fitted:
    """Train as `train_best` does, and store the best epoch's weights."""
    import models

    state = train_best(work, model, architecture, data, settings, **told)
    with work.store.temporary() as folder:
        models.save(model.eval(), folder / "weights.safetensors", architecture)
        artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
    note = settled.note(model, state["model"], state["epochs"], data, work.store)
    return Fitted(artifact, state["best"][0], state["best_top1"], state["epochs"], note)

"""Trains a LeNet-5 in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.records import Model, Prepared, Train
from tasks.training.fit import Fitted, fit
from tasks.training.state import Training
from tasks.training.weights import fresh

if TYPE_CHECKING:
    from tasks.caching.work import Work

LENET = Model(name="lenet5")
QUICK = Train(epochs=4, patience=4, batch_size=32, learning_rate=0.05)


def training_of(
    work: Work, architecture: dict[str, Any], data: Prepared, settings: Train, model: str = "m"
) -> Training:
    """Return the record that describes a training by the stage `train`."""
    return Training(
        work=work,
        architecture=architecture,
        data=data,
        settings=settings,
        model_label=model,
        variant=f"{model}/train",
        stage="train",
    )


def fit_lenet(work: Work, data: Prepared, settings: Train, **options: Any) -> Fitted:
    """Train a LeNet-5. `options` are further arguments of `fit`."""
    network, architecture = fresh(LENET, data, settings.seeds[0])
    return fit(training_of(work, architecture, data, settings, "lenet5"), network, **options)

"""Trains LeNet-5 in seconds."""

from __future__ import annotations

from tasks.records import Model, Train
from tasks.training.fit import fit
from tasks.training.weights import fresh

LENET = Model(name="lenet5")
QUICK = Train(epochs=4, patience=4, batch_size=32, learning_rate=0.05)


def fitted(work, data, settings, **how):
    network, architecture = fresh(LENET, data, settings.seeds[0])
    return fit(
        work, network, architecture, data, settings, model_label="lenet5", variant="lenet5/train", stage="train", **how
    )

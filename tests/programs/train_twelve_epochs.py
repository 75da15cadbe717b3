"""Trains a LeNet-5 on digits for twelve epochs. It prints a line per epoch and finally the SHA-256 of the weights.

Argument: the artifacts folder. Started again, it goes on from its checkpoint.
"""

import sys
from pathlib import Path
from typing import Any

from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.training import loop
from tests.support.digits import digits
from tests.support.trainings import QUICK, fit_lenet

out = Path(sys.argv[1])
work = Work(Store(out / "store"), out / "scratch")
work.scratch.mkdir(parents=True, exist_ok=True)
train_epoch = loop.TrainingLoop._train


def train_epoch_and_print(run: loop.TrainingLoop) -> Any:
    scores = train_epoch(run)
    print("epoch", run.state.epoch, flush=True)
    return scores


loop.TrainingLoop._train = train_epoch_and_print  # type: ignore[method-assign]
settings = QUICK.model_copy(update={"epochs": 12, "patience": 12})
print(fit_lenet(work, digits(work), settings).artifact.sha256, flush=True)

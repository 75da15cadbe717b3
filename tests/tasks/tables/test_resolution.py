"""The smallest drop that few validation images can show is the same number in every message."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest

from tasks.caching.work import Work
from tasks.measure.handful import handful
from tasks.measure.metrics import FEW, smallest_drop
from tasks.prepare import prepare
from tasks.records import Data, Model, Train
from tasks.train import train

if TYPE_CHECKING:
    from pathlib import Path


def test_training_warns_of_few_validation_images_in_the_words_of_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work.at(tmp_path, "train")
    data = prepare(work, Data(train_limit=200, test_limit=50))
    assert data.validation_rows < FEW
    caplog.set_level(logging.WARNING)
    train(work, Model(), data, Train(epochs=1), final=False)
    (warning,) = [record.message for record in caplog.records if "validation image" in record.message]
    assert warning == f"lenet5/train: {handful(data.validation_rows)}"
    assert re.findall(r"less than ([\d.]+)", warning) == [f"{smallest_drop(data.validation_rows):.2g}"]

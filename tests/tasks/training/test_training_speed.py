"""Speed of training a ResNet-34 on images of CIFAR-10, against a bare loop and against a loop as in tutorials.

In every round, each loop trains on the same few batches. BURNISH_SPEED=width,batch,batches,rounds sets other sizes for
measurements by hand, such as 64,128,2,3 for the full width.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import polars
import pytest
import torch
from PIL import Image
from torch import nn

import models
from tasks.caching.work import Work
from tasks.records import Prepared, Train
from tasks.training.loop import TrainingLoop
from tests.support.paths import SHARED
from tests.support.trainings import training_of

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, BATCH, BATCHES, ROUNDS = (int(n) for n in os.environ.get("BURNISH_SPEED", "16,128,2,12").split(","))
CIFAR10 = SHARED / "cifar10" / "test-00000-of-00001.parquet"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
ARCHITECTURE = {"name": "resnet34", "num_classes": 10, "in_channels": 3, "image_size": 32, "width": WIDTH}


def pictures() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return images of CIFAR-10, or noise of their shape where they are missing: the speed does not depend on them."""
    # The last 16 images are for validation.
    count = BATCH * BATCHES + 16
    if CIFAR10.exists():
        files = polars.read_parquet(CIFAR10, n_rows=count)
        images = [numpy.asarray(Image.open(io.BytesIO(file["bytes"]))) for file in files["img"]]
        return numpy.stack(images), numpy.array(files["label"])
    dice = numpy.random.default_rng(0)
    return dice.integers(0, 256, (count, 32, 32, 3), numpy.uint8), dice.integers(0, 10, count)


def burnish_loop(folder: Path, images: numpy.ndarray, labels: numpy.ndarray) -> Callable[[], None]:
    settings = Train(epochs=1000, batch_size=BATCH, precision="auto", device="cpu", augment="crop_flip")
    loop = training_loop(folder, images, labels, settings)

    def train() -> None:
        loop.state.epoch += 1
        loop._train()

    return train


def training_loop(folder: Path, images: numpy.ndarray, labels: numpy.ndarray, settings: Train) -> TrainingLoop:
    """Return burnish's training loop over all images but the last 16, which are for validation."""
    work = Work.at(folder)
    size = images.shape[1]
    trained = len(images) - 16
    splits = (numpy.arange(len(images)) >= trained).astype(numpy.uint8)
    artifacts = []
    for array in (images, labels, splits):
        with work.store.temporary() as place:
            numpy.save(place / "a.npy", array)
            artifacts.append(work.store.put(place / "a.npy", "npy"))
    data = Prepared(
        images=artifacts[0],
        labels=artifacts[1],
        splits=artifacts[2],
        classes=tuple("0123456789"),
        image_size=size,
        channels=3,
        mean=MEAN,
        std=STD,
        train_rows=trained,
        validation_rows=16,
        test_rows=0,
    )
    architecture = ARCHITECTURE | {"image_size": size}
    return TrainingLoop(training_of(work, architecture, data, settings), models.build(**architecture))


def bare_loop(images: numpy.ndarray, labels: numpy.ndarray) -> Callable[[], None]:
    """Return a loop as one would write it by hand for the same settings, without metrics, checks and rows."""
    low_precision = (
        torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else None
    )
    pixels, targets = (torch.from_numpy(a[: BATCH * BATCHES]) for a in (images, labels))
    model = models.build(**ARCHITECTURE).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    mean, std = 255 * torch.tensor(MEAN), 255 * torch.tensor(STD)
    line = torch.arange(32)

    def train() -> None:
        for rows in torch.randperm(len(pixels)).split(BATCH):
            shift = torch.randint(-4, 5, (BATCH, 2, 1))
            y, x = (31 - (31 - (line + shift[:, axis]).abs()).abs() for axis in (0, 1))
            x = torch.where(torch.rand(BATCH, 1) < 0.5, 31 - x, x)
            index = ((rows[:, None] * 32 + y) * 32)[:, :, None] + x[:, None]
            batch = pixels.view(-1, 3).index_select(0, index.flatten()).view(BATCH, 32, 32, 3)
            inputs = ((batch - mean) / std).permute(0, 3, 1, 2)
            with torch.autocast("cpu", dtype=low_precision, enabled=low_precision is not None):
                loss = nn.functional.cross_entropy(model(inputs).float(), targets[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def tutorial_loop(images: numpy.ndarray, labels: numpy.ndarray) -> Callable[[], None]:
    """Return a loop as tutorials have it: contiguous fp32, two workers, torchvision's transforms per PIL image."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return BATCH * BATCHES

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(images[index])), int(labels[index])

    loader = torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    model = models.build(**ARCHITECTURE).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def train() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return train


@pytest.mark.alone
@pytest.mark.slow
def test_training_is_as_fast_as_a_bare_loop_and_faster_than_that_of_a_tutorial(tmp_path):
    """The loops are compared by the processor time of one thread, which other processes disturb less than wall time.

    The ratio of a round still has a standard deviation of 6 %: where burnish seems too slow after the first rounds, up
    to four times as many decide. The tutorial's loop costs even more: its workers, and waiting for them, do not count.
    """
    torch.set_num_threads(1)
    pixels_and_labels = pictures()
    trains = {
        "burnish": burnish_loop(tmp_path, *pixels_and_labels),
        "bare": bare_loop(*pixels_and_labels),
        "tutorial": tutorial_loop(*pixels_and_labels),
    }
    for train in trains.values():
        # The first call is the warm-up.
        train()
    seconds: dict[str, list[float]] = {name: [] for name in trains}

    def speed_over(name: str) -> float:
        """Return the median over rounds of burnish's images per second over those of the loop `name`."""
        return statistics.median(
            other_seconds / burnish_seconds
            for other_seconds, burnish_seconds in zip(seconds[name], seconds["burnish"], strict=False)
        )

    for number in range(4 * ROUNDS):
        if number >= ROUNDS and speed_over("bare") >= 0.97:
            break
        for name in sorted(trains, reverse=bool(number % 2)):
            if name != "tutorial" or number < 3:
                before = time.process_time()
                trains[name]()
                seconds[name].append(time.process_time() - before)
    rates = {name: round(BATCH * BATCHES / statistics.median(values)) for name, values in seconds.items()}
    rounds = len(seconds["burnish"])
    summary = (
        f"{rates} images/s, {speed_over('bare'):.3f} x bare, {speed_over('tutorial'):.2f} x tutorial, {rounds} rounds"
    )
    print(summary)
    assert speed_over("bare") >= 0.97, summary
    assert speed_over("tutorial") >= 1.15, summary


@pytest.mark.alone
@pytest.mark.parametrize("augment", ["crop_flip", "trivialaugment"])
def test_training_does_not_wait_for_large_images_that_workers_gather(tmp_path, augment):
    """Two workers gather images of 224 pixels for one thread of training. They start in the first epoch."""
    torch.set_num_threads(1)
    dice = numpy.random.default_rng(0)
    images, labels = dice.integers(0, 256, (6 * 16 + 16, 224, 224, 3), numpy.uint8), numpy.arange(6 * 16 + 16) % 10
    settings = Train(epochs=2, batch_size=16, device="cpu", loading="workers", workers=2, augment=augment)
    shares = []
    # Other processes only add to the share, so that the least of three attempts decides.
    for attempt in range(3):
        loop = training_loop(tmp_path / str(attempt), images, labels, settings)
        loop.go()
        _, second_epoch = (row for row in loop.state.epochs if row["split"] == "train")
        shares.append(second_epoch["data_wait"])
        if shares[-1] < 0.03:
            break
    assert 0 < min(shares) < 0.03, shares

"""The batches of a training: its images are kept on the device, or worker processes read them from the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy

from tasks import machine
from tasks.datasets._split import sample
from tasks.machine.devices import free_bytes
from tasks.training.policies import DRAWS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    import torch

    from tasks.records import Prepared, Train

DEVICE_SHARE = 0.25
"""Share of the device's free memory that images may take: weights, gradients and activations need the rest."""
MOST_WORKERS = 8
"""Worker processes that are started at most where the settings leave their number open."""


def subset(rows: numpy.ndarray, labels: numpy.ndarray, limit: int | None, seed: int) -> numpy.ndarray:
    """Return at most `limit` of `rows`, each class in proportion, in ascending order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[sample(labels[rows], limit, (seed, 0))]


@dataclass(frozen=True)
class Batch:
    """The part of a batch that this process trains on."""

    pixels: torch.Tensor
    """uint8, (images, height, width, channels)."""
    labels: torch.Tensor
    """int64, (images,)."""
    draws: torch.Tensor
    """Random numbers for the augmentation: float32, (images, DRAWS), on the training's device from the start."""
    weight: float
    """Number of this part's images, divided by the mean number over all processes; 1 where the batch splits evenly."""

    def to(self, device: str) -> Batch:
        """Return the batch with its pixels and labels on a device; the copy may still be under way."""
        pixels = self.pixels.to(device, non_blocking=True)
        labels = self.labels.to(device, non_blocking=True)
        return replace(self, pixels=pixels, labels=labels)


def blank(images: int, data: Prepared, device: str) -> Batch:
    """Return a batch of black images of the first class, for a step whose result nobody uses."""
    import torch

    return Batch(
        torch.zeros(images, data.image_size, data.image_size, data.channels, dtype=torch.uint8, device=device),
        torch.zeros(images, dtype=torch.long, device=device),
        torch.rand(images, DRAWS, device=device),
        1.0,
    )


@dataclass(frozen=True)
class _Part:
    """One process's part of a batch: places `start` to `stop` in the order of the epoch."""

    start: int
    stop: int
    images: int
    """Images of the whole batch, over all processes."""


class Plan:
    """Order and random numbers of the images of an epoch.

    They follow from (seed, epoch) alone, so that they are the same on every device and with any number of processes.
    """

    def __init__(self, images: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        # BatchNorm cannot train on a last batch of one image, so an incomplete one is left out.
        starts = range(0, images - batch_size + 1, batch_size) if images > batch_size else [0]
        size = min(batch_size, images)
        self.images = images
        self.processes = processes
        self.parts: list[_Part] = []
        """This process's part of each batch."""
        for start in starts:
            first = start + size * rank // processes
            end = start + size * (rank + 1) // processes
            self.parts.append(_Part(first, end, size))

    def draw(self, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the order of the images, and the uniform random numbers (DRAWS of them) of each place in it."""
        import torch

        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(self.images, generator=generator)
        return order, torch.rand(self.images, DRAWS, generator=generator)

    def weight(self, part: _Part) -> float:
        """Return by what the loss of a part is multiplied, so that every image of the batch counts the same."""
        return (part.stop - part.start) * self.processes / part.images


class Resident:
    """A source of batches that keeps all training images and labels on the device."""

    REMEDY = "larger batches (train.batch_size)"
    """Advice for the user of a training that waits for its images; it ends a sentence of the log before its verb."""

    def __init__(self, images: numpy.ndarray, labels: numpy.ndarray, rows: numpy.ndarray, device: str) -> None:
        import torch

        self.device = device
        self.images = torch.from_numpy(images[rows]).to(device)
        self.labels = torch.from_numpy(labels[rows]).to(device)

    def epoch(self, plan: Plan, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        order, draws = plan.draw(seed, epoch)
        order = order.to(self.device)
        draws = draws.to(self.device)
        for part in plan.parts:
            places = order[part.start : part.stop]
            yield Batch(self.images[places], self.labels[places], draws[part.start : part.stop], plan.weight(part))


class Gathered:
    """A source of batches whose images worker processes read from the file, ahead of the training.

    With `pin` and on a GPU, batches are put into page-locked memory. `each` transforms one image at a time.
    """

    REMEDY = "more train.workers, or fewer pixels (data.image_size),"
    """Advice for the user of a training that waits for its images; it ends a sentence of the log before its verb."""

    def __init__(
        self,
        images: numpy.ndarray,
        labels: numpy.ndarray,
        rows: numpy.ndarray,
        device: str,
        workers: int,
        pin: bool,
        each: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        import torch

        self.device = device
        self.sampler = _BatchesOfEpoch()
        self.loader: Any = torch.utils.data.DataLoader(
            _BatchReader(images, labels, rows, each),  # type: ignore[arg-type]
            # The data set returns whole batches.
            batch_size=None,
            sampler=self.sampler,
            num_workers=workers,
            pin_memory=pin and device != "cpu",
            persistent_workers=workers > 0,
            # Without a generator of its own, the loader would draw from the one that mixup and dropout draw from.
            generator=torch.Generator(),
        )

    def epoch(self, plan: Plan, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        order, draws = plan.draw(seed, epoch)
        draws = draws.to(self.device)
        first_seed = (seed * 100_003 + epoch) * 1_000_003
        self.sampler.batches = [(first_seed + part.start, order[part.start : part.stop].numpy()) for part in plan.parts]
        for part, (pixels, labels) in zip(plan.parts, self.loader, strict=True):
            yield Batch(pixels, labels, draws[part.start : part.stop], plan.weight(part))


class _BatchesOfEpoch:
    """A sampler whose batches are set anew for each epoch, so that worker processes live as long as the training.

    A batch is (seed of its transforms, places among the training images).
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, numpy.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int, numpy.ndarray]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _BatchReader:
    """A data set whose item is a whole batch: (seed, places among the training images) -> (uint8 pixels, labels)."""

    def __init__(
        self,
        images: numpy.ndarray,
        labels: numpy.ndarray,
        rows: numpy.ndarray,
        each: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.rows = rows
        self.each = each

    def __getitem__(self, batch: tuple[int, numpy.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        seed, places = batch
        rows = self.rows[places]
        # The memory-mapped file is read in ascending order.
        order = numpy.argsort(rows)
        images = numpy.empty((len(rows), *self.images.shape[1:]), numpy.uint8)
        images[order] = self.images[rows[order]]
        pixels = torch.from_numpy(images)
        if self.each is not None:
            pixels = self._transformed(pixels, seed)
        return pixels, torch.from_numpy(self.labels[rows])

    def _transformed(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        """Return the images after `each`, whose draws follow from the seed alone, with any number of workers."""
        import torch

        assert self.each is not None
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed the GPU's generator, which fork_rng does not put back here.
            torch.default_generator.manual_seed(seed)
            images = [self.each(image) for image in pixels.permute(0, 3, 1, 2).contiguous()]
        # The memory order is that of all other batches, so that code compiled for them fits.
        return torch.stack(images).permute(0, 2, 3, 1).contiguous()


def source(
    images: numpy.ndarray,
    labels: numpy.ndarray,
    rows: numpy.ndarray,
    device: str,
    settings: Train,
    each: Callable[[torch.Tensor], torch.Tensor] | None,
    log: logging.Logger,
) -> Resident | Gathered:
    """Keep the images on the device where `settings.loading` and its free memory allow it; else read them in batches.

    A line of the log says which. Where `each` transforms one image at a time, the images are always read from the file.
    """
    size = images[0].nbytes * len(rows)
    # Where nothing tells how much is free, no room is assumed.
    free = free_bytes(device) or 0
    description = f"{len(rows)} training images of {size / 1e6:.1f} MB"
    # On a CPU every process of a group keeps all images in the same memory.
    most = free * DEVICE_SHARE / (settings.processes if device == "cpu" else 1)
    if each is None and (settings.loading == "device" or (settings.loading == "auto" and size <= most)):
        # A detail, because it is the same for every training of a run.
        log.info("%s are kept on %s, which has %.1f GB free", description, device, free / 1e9, extra={"detail": True})
        return Resident(images, labels, rows, device)
    if each is not None:
        reason = "the policy works on one image at a time"
    elif settings.loading == "workers":
        reason = "train.loading = workers"
    else:
        reason = f"over {DEVICE_SHARE:.0%} of the {free / 1e9:.1f} GB free on {device}"
    workers = _workers(settings, device, each is not None)
    readers = f"{workers} workers" if workers else "no worker but training itself (train.workers = 0)"
    log.info("%s are read batch by batch from the file, by %s: %s", description, readers, reason)
    return Gathered(images, labels, rows, device, workers, settings.pin_memory, each)


def _workers(settings: Train, device: str, transforms: bool) -> int:
    """Return how many worker processes read images, which they may also transform one by one."""
    if settings.workers is not None:
        return settings.workers
    if device == "cpu" and not transforms:
        # Reading alone slows a CPU's training down less than a process beside it does.
        return 0
    return min(MOST_WORKERS, max(1, machine.cores() // settings.processes - 1))

"""Where training batches come from: images that live on the device, or that workers gather from the memory-mapped
file."""

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

ROOM = 0.25
"""Share of the device's free memory that images may take: weights, gradients and activations need the rest."""


def subset(rows: numpy.ndarray, labels: numpy.ndarray, limit: int | None, seed: int) -> numpy.ndarray:
    """At most `limit` of `rows`, stratified by label, in ascending order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[sample(labels[rows], limit, (seed, 0))]


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch; `to` takes what is not there to the device."""

    pixels: torch.Tensor
    """uint8 (images, height, width, channels)."""
    labels: torch.Tensor
    draws: torch.Tensor
    """Random numbers for the augmentation, float32 (images, DRAWS)."""
    weight: float
    """Images here over the mean of all processes; 1 where the batch splits evenly."""

    def to(self, device: str) -> Batch:
        pixels, labels = (each.to(device, non_blocking=True) for each in (self.pixels, self.labels))
        return replace(self, pixels=pixels, labels=labels)


def blank(images: int, data: Prepared, device: str) -> Batch:
    """A batch of black images of the first class, to try a step with."""
    import torch

    return Batch(
        torch.zeros(images, data.image_size, data.image_size, data.channels, dtype=torch.uint8, device=device),
        torch.zeros(images, dtype=torch.long, device=device),
        torch.rand(images, DRAWS, device=device),
        1.0,
    )


@dataclass(frozen=True)
class _Part:
    """Where a batch's images stand in the epoch's order, and how many the batch has over all processes."""

    start: int
    stop: int
    images: int


class Plan:
    """Order and random numbers of an epoch, from (seed, epoch) alone: alike on every device and over any processes."""

    def __init__(self, images: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        # BatchNorm cannot train on a last batch of one image, so an incomplete one is left out.
        starts = range(0, images - batch_size + 1, batch_size) if images > batch_size else [0]
        self.images, self.processes = images, processes
        self.parts = []
        for start in starts:
            size = min(batch_size, images)
            first, end = (start + size * n // processes for n in (rank, rank + 1))
            self.parts.append(_Part(first, end, size))

    def draw(self, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(order of the images, uniform draws of each place in it)."""
        import torch

        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        return torch.randperm(self.images, generator=generator), torch.rand(self.images, DRAWS, generator=generator)

    def weight(self, part: _Part) -> float:
        return (part.stop - part.start) * self.processes / part.images


class Resident:
    """Images and labels that live on the device."""

    REMEDY = "larger batches (train.batch_size)"

    def __init__(self, images: numpy.ndarray, labels: numpy.ndarray, rows: numpy.ndarray, device: str) -> None:
        import torch

        self.device = device
        self.images, self.labels = (torch.from_numpy(a[rows]).to(device) for a in (images, labels))

    def epoch(self, plan: Plan, seed: int, epoch: int) -> Iterator[Batch]:
        order, draws = (t.to(self.device) for t in plan.draw(seed, epoch))
        for part in plan.parts:
            here = order[part.start : part.stop]
            yield Batch(self.images[here], self.labels[here], draws[part.start : part.stop], plan.weight(part))


class Gathered:
    """Images that loader processes gather batch by batch, pinned and ahead of time where the device is a GPU."""

    REMEDY = "more train.workers, or fewer pixels (data.image_size),"

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

        self.device, self.asked = device, _Asked()
        self.loader: Any = torch.utils.data.DataLoader(
            _Rows(images, labels, rows, each),  # type: ignore[arg-type]
            # it hands out whole batches
            batch_size=None,
            sampler=self.asked,
            num_workers=workers,
            pin_memory=pin and device != "cpu",
            persistent_workers=workers > 0,
            # it would draw from the one that mixup and dropout draw from
            generator=torch.Generator(),
        )

    def epoch(self, plan: Plan, seed: int, epoch: int) -> Iterator[Batch]:
        order, draws = plan.draw(seed, epoch)
        draws = draws.to(self.device)
        first = (seed * 100_003 + epoch) * 1_000_003
        self.asked.batches = [(first + p.start, order[p.start : p.stop].numpy()) for p in plan.parts]
        for part, (pixels, labels) in zip(plan.parts, self.loader, strict=True):
            yield Batch(pixels, labels, draws[part.start : part.stop], plan.weight(part))


class _Asked:
    """A sampler whose batches are set anew each epoch: workers live on."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, numpy.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int, numpy.ndarray]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Rows:
    """(seed, places among the training images) -> (uint8 pixels, labels); an image's transform sees the seed alone."""

    def __init__(
        self,
        images: numpy.ndarray,
        labels: numpy.ndarray,
        rows: numpy.ndarray,
        each: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self.images, self.labels, self.rows, self.each = images, labels, rows, each

    def __getitem__(self, asked: tuple[int, numpy.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        seed, places = asked
        rows = self.rows[places]
        # ascending reads of the memory-mapped file
        order = numpy.argsort(rows)
        batch = numpy.empty((len(rows), *self.images.shape[1:]), numpy.uint8)
        batch[order] = self.images[rows[order]]
        pixels = torch.from_numpy(batch)
        if self.each is not None:
            # the same images from any number of workers, or from none
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would seed the GPU's too, for good
                torch.default_generator.manual_seed(seed)
                each = [self.each(image) for image in pixels.permute(0, 3, 1, 2).contiguous()]
            # as others are: what is compiled for them fits
            pixels = torch.stack(each).permute(0, 2, 3, 1).contiguous()
        return pixels, torch.from_numpy(self.labels[rows])


def source(
    images: numpy.ndarray,
    labels: numpy.ndarray,
    rows: numpy.ndarray,
    device: str,
    settings: Train,
    each: Callable[[torch.Tensor], torch.Tensor] | None,
    log: logging.Logger,
) -> Resident | Gathered:
    """Keep the images on the device where `settings.loading` and its free memory let them; says in one line what was
    chosen.

    `each` works on one image at a time, so its images are gathered.
    """
    size = images[0].nbytes * len(rows)
    # Where nothing tells how much is free, no room is assumed.
    free = free_bytes(device) or 0
    told = f"{len(rows)} training images of {size / 1e6:.1f} MB"
    room = free * ROOM / (settings.processes if device == "cpu" else 1)
    if each is None and (settings.loading == "device" or (settings.loading == "auto" and size <= room)):
        # The same for each training of a run.
        log.info("%s are kept on %s, which has %.1f GB free", told, device, free / 1e9, extra={"detail": True})
        return Resident(images, labels, rows, device)
    why = (
        "the policy works on one image at a time"
        if each is not None
        else "train.loading = workers"
        if settings.loading == "workers"
        else f"over {ROOM:.0%} of the {free / 1e9:.1f} GB free on {device}"
    )
    workers = settings.workers
    # gathering alone costs a CPU's training less than a process beside it
    if workers is None:
        workers = (
            min(8, max(1, machine.cores() // settings.processes - 1)) if device != "cpu" or each is not None else 0
        )
    log.info(
        "%s are read batch by batch from the file, by %s: %s",
        told,
        f"{workers} workers" if workers else "no worker but training itself (train.workers = 0)",
        why,
    )
    return Gathered(images, labels, rows, device, workers, settings.pin_memory, each)

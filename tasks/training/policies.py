"""Augmentation policies: what is drawn for each image, done to whole batches on the device.

RandAugment and TrivialAugment alone work image by image (torchvision's v2 transforms), where images are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.machine import compilation

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from tasks.records import Prepared

DRAWS = 8
"""Uniform random numbers an image: crop (2), flip, erasing (whether, area, aspect ratio, place (2))."""


@dataclass(frozen=True)
class Policy:
    """What is done to the images of a batch."""

    crop: bool = False
    """Shifted by up to an eighth of the size in each direction, mirrored at the border."""
    flip: bool = False
    """Half of the images."""
    erase: bool = False
    """A box of half of the images becomes the mean pixel."""
    each: Callable[[torch.Tensor], torch.Tensor] | None = None
    """One uint8 image (channels, height, width) at a time."""
    mix: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    """A normalised batch and its labels -> mixed images and class probabilities."""


def policy(name: str, classes: int) -> Policy:
    """A policy of `records.POLICIES` by name.

    Sources: Cubuk et al. 2020 (RandAugment), Müller & Hutter 2021 (TrivialAugment), Zhong et al. 2020 (random erasing),
    Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix).
    """
    if name in ("none", "crop", "crop_flip", "erasing"):
        return Policy(crop=name != "none", flip=name in ("crop_flip", "erasing"), erase=name == "erasing")
    from torchvision.transforms import v2

    return {
        "randaugment": lambda: Policy(True, True, each=v2.RandAugment()),
        "trivialaugment": lambda: Policy(True, True, each=v2.TrivialAugmentWide()),
        "mixup": lambda: Policy(True, True, mix=v2.MixUp(alpha=0.2, num_classes=classes)),
        "cutmix": lambda: Policy(True, True, mix=v2.CutMix(alpha=1.0, num_classes=classes)),
    }[name]()


def crop_flip(pixels: torch.Tensor, draws: torch.Tensor, crop: bool, flip: bool) -> torch.Tensor:
    """Shift and mirror each image by its own draws, in one gather: uint8 (images, height, width, channels)."""
    import torch

    images, size, _, channels = pixels.shape
    line = torch.arange(size, device=pixels.device)
    rows = columns = line.expand(images, size)
    if crop:
        pad = max(1, size // 8)
        shift = (draws[:, :2] * (2 * pad + 1)).long() - pad
        # mirrored at 0 and size - 1
        rows, columns = (size - 1 - (size - 1 - (line + shift[:, [axis]]).abs()).abs() for axis in (0, 1))
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, size - 1 - columns, columns)
    first = torch.arange(images, device=pixels.device)[:, None] * size + rows
    index = first[:, :, None] * size + columns[:, None, :]
    return pixels.reshape(-1, channels).index_select(0, index.reshape(-1)).reshape(pixels.shape)


def erase(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Zero a box in half of the images: 2 to 33 % of the area, aspect ratio 0.3 to 3.3 (Zhong et al. 2020)."""
    import math

    import torch

    size = images.shape[-1]
    whether, area, ratio, top, left = (draws[:, n, None] for n in range(3, 8))
    aspect = torch.exp(math.log(0.3) + ratio * (math.log(3.3) - math.log(0.3)))
    side = size * (0.02 + area * (0.33 - 0.02)).sqrt()
    line = torch.arange(size, device=images.device)

    def inside(length: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        length = length.round().clamp(1, size)
        start = (start * (size - length + 1)).floor()
        return (line >= start) & (line < start + length)

    rows, columns = inside(side * aspect.sqrt(), top), inside(side / aspect.sqrt(), left)
    box = rows[:, :, None] & columns[:, None, :] & (whether < 0.5)[:, :, None]
    return images.masked_fill(box[:, None], 0.0)


class Normaliser:
    """uint8 pixels (images, height, width, channels) on the device -> float32 (images, channels, height, width)."""

    def __init__(self, data: Prepared, device: str, channels_last: bool = False) -> None:
        import torch

        self.scale = (1 / (255 * torch.tensor(data.std))).to(device)
        self.shift = (torch.tensor(data.mean) / torch.tensor(data.std)).to(device)
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.scale - self.shift).permute(0, 3, 1, 2).contiguous(memory_format=self.format)


class Augmentation:
    """A policy's batched part and the normalisation, on the device; compiled into few kernels where asked for."""

    def __init__(self, policy: Policy, ready: Normaliser, compiled: bool) -> None:

        self.policy, self.ready = policy, ready
        self.apply = compilation.compiled(self._apply) if compiled else self._apply

    def _apply(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        if self.policy.crop or self.policy.flip:
            pixels = crop_flip(pixels, draws, self.policy.crop, self.policy.flip)
        images = self.ready(pixels)
        return erase(images, draws) if self.policy.erase else images

    def __call__(
        self, pixels: torch.Tensor, draws: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, what cross-entropy compares them with): uint8 pixels, uniform draws (images, DRAWS), labels."""
        images = self.apply(pixels, draws)
        return self.policy.mix(images, labels) if self.policy.mix else (images, labels)

"""Augmentation policies. Random numbers are drawn for each image, and whole batches are transformed on the device.

RandAugment and TrivialAugment are exceptions: torchvision's v2 transforms work on one image at a time, in the
processes that read the images.
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
"""Uniform random numbers per image: crop (2), flip (1), erasing (whether, area, aspect ratio, row, column)."""


@dataclass(frozen=True)
class Policy:
    """The augmentations of one policy."""

    crop: bool = False
    """Shift each image by up to an eighth of its size in each direction, mirrored at the border."""
    flip: bool = False
    """Mirror half of the images, left to right."""
    erase: bool = False
    """Set a box in half of the images to the mean pixel."""
    each: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Transforms one image at a time: uint8, (channels, height, width)."""
    mix: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    """Turns a normalised batch and its labels into mixed images and class probabilities."""


def policy(name: str, classes: int) -> Policy:
    """Return the policy of a name in `records.POLICIES`.

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
    """Shift and mirror each image by its own draws, in one gather.

    `pixels` is uint8, (images, height, width, channels); `draws` is float32, (images, DRAWS).
    """
    import torch

    images, size, _, channels = pixels.shape
    line = torch.arange(size, device=pixels.device)
    rows = columns = line.expand(images, size)
    if crop:
        pad = max(1, size // 8)
        shift = (draws[:, :2] * (2 * pad + 1)).long() - pad
        # Places outside of the image are mirrored at 0 and at size - 1.
        rows, columns = (size - 1 - (size - 1 - (line + shift[:, [axis]]).abs()).abs() for axis in (0, 1))
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, size - 1 - columns, columns)
    first = torch.arange(images, device=pixels.device)[:, None] * size + rows
    index = first[:, :, None] * size + columns[:, None, :]
    return pixels.reshape(-1, channels).index_select(0, index.reshape(-1)).reshape(pixels.shape)


def erase(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Set a box in half of the images to zero: 2 to 33 % of the area, aspect ratio 0.3 to 3.3 (Zhong et al. 2020)."""
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
    """Normalises uint8 pixels, (images, height, width, channels), to float32, (images, channels, height, width).

    The pixels are on the device already.
    """

    def __init__(self, data: Prepared, device: str, channels_last: bool = False) -> None:
        import torch

        self.scale = (1 / (255 * torch.tensor(data.std))).to(device)
        self.shift = (torch.tensor(data.mean) / torch.tensor(data.std)).to(device)
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.scale - self.shift).permute(0, 3, 1, 2).contiguous(memory_format=self.format)


class Augmentation:
    """A policy's batched part and the normalisation, on the device. With `compiled` they become a few kernels."""

    def __init__(self, policy: Policy, normaliser: Normaliser, compiled: bool) -> None:
        self.policy = policy
        self.normaliser = normaliser
        self.apply = compilation.compiled(self._apply) if compiled else self._apply

    def _apply(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        if self.policy.crop or self.policy.flip:
            pixels = crop_flip(pixels, draws, self.policy.crop, self.policy.flip)
        images = self.normaliser(pixels)
        return erase(images, draws) if self.policy.erase else images

    def __call__(
        self, pixels: torch.Tensor, draws: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the augmented images, and the labels or class probabilities that the loss compares them with.

        `pixels` is uint8, (images, height, width, channels); `draws` is float32, (images, DRAWS).
        """
        images = self.apply(pixels, draws)
        return self.policy.mix(images, labels) if self.policy.mix else (images, labels)

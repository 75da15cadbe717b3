"""Augmentation policies, from torchvision's v2 transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


@dataclass(frozen=True)
class Policy:
    """`each`: on one uint8 image (channels, height, width). `mix`: on a normalised batch and its labels."""

    each: Callable[[torch.Tensor], torch.Tensor] | None = None
    mix: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None


def policy(name: str, image_size: int, classes: int) -> Policy:
    """A policy of `records.POLICIES` by name.

    Sources: Cubuk et al. 2020 (RandAugment), Müller & Hutter 2021 (TrivialAugment), Zhong et al. 2020 (random erasing),
    Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix).
    """
    if name == "none":
        return Policy()
    from torchvision.transforms import v2

    crop = v2.RandomCrop(image_size, padding=max(1, image_size // 8), padding_mode="reflect")
    crop_flip = [crop, v2.RandomHorizontalFlip()]
    return {
        "crop": lambda: Policy(crop),
        "crop_flip": lambda: Policy(v2.Compose(crop_flip)),
        "erasing": lambda: Policy(v2.Compose([*crop_flip, v2.RandomErasing(0.5)])),
        "randaugment": lambda: Policy(v2.Compose([*crop_flip, v2.RandAugment()])),
        "trivialaugment": lambda: Policy(v2.Compose([*crop_flip, v2.TrivialAugmentWide()])),
        "mixup": lambda: Policy(v2.Compose(crop_flip), v2.MixUp(alpha=0.2, num_classes=classes)),
        "cutmix": lambda: Policy(v2.Compose(crop_flip), v2.CutMix(alpha=1.0, num_classes=classes)),
    }[name]()

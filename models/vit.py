"""Vision Transformer of torchvision (Dosovitskiy et al. 2021, An image is worth 16x16 words)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import _library

if TYPE_CHECKING:
    from torch import nn


def vit_b_16(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build ViT-B/16; 86,567,656 parameters at 1,000 classes and 224 pixels. Image sizes are multiples of 16 pixels.

    It is torchvision's and not timm's, because its attention is nn.MultiheadAttention, which torch-pruning can prune.
    """
    return _library.torchvision("vit_b_16", num_classes=num_classes, in_channels=in_channels, image_size=image_size)

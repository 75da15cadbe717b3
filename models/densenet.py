"""DenseNet of torchvision (Huang et al. 2017, Densely connected convolutional networks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import _library

if TYPE_CHECKING:
    from torch import nn


def densenet121(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build DenseNet-121; 7,978,856 parameters at 1,000 classes.

    Images must have 8 pixels per side or more. Below 64 pixels the model gets the stem for small images.
    """
    model = _library.torchvision("densenet121", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return _library.small_stem(model, pool="features.pool0") if image_size < 64 else model

"""EfficientNet-B0 of torchvision (Tan & Le 2019) and EfficientNet-Lite0 of timm (TensorFlow's edge variant)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import _library

if TYPE_CHECKING:
    from torch import nn


def efficientnet_b0(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build EfficientNet-B0; 5,288,548 parameters at 1,000 classes. Designed for 224 pixels; takes 8 or more."""
    return _library.torchvision(
        "efficientnet_b0", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )


def tf_efficientnet_lite0(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build EfficientNet-Lite0; 4,652,008 parameters at 1,000 classes. It takes the same image sizes as B0.

    Unlike B0 it has no squeeze-and-excitation, and ReLU6 for its activation.
    """
    return _library.timm(
        "tf_efficientnet_lite0", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )

"""ResNet (He et al. 2015, Deep residual learning): ResNet-34 written out here, and torchvision's ResNet-50.

torchvision's weights load into this ResNet-34.
"""

from __future__ import annotations

from torch import Tensor, nn

from models import _library


class BasicBlock(nn.Module):
    """A residual block of two 3×3 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """ResNet of four stages of basic blocks. Its modules have the names that torchvision gives them."""

    def __init__(
        self, depths: tuple[int, ...], *, num_classes: int, in_channels: int, image_size: int, width: int
    ) -> None:
        super().__init__()
        # A 7×7 stem of stride 2 and a pool would leave too few pixels of a small image.
        small = image_size < 64
        self.conv1 = nn.Conv2d(in_channels, width, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(depths[0], width, width, 1)
        self.layer2 = self._stage(depths[1], width, 2 * width, 2)
        self.layer3 = self._stage(depths[2], 2 * width, 4 * width, 2)
        self.layer4 = self._stage(depths[3], 4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(depth: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
        """Build a stage of `depth` blocks, the first of which has the stride."""
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet34(num_classes: int, in_channels: int = 3, image_size: int = 224, width: int = 64) -> ResNet:
    """Build ResNet-34 of depths 3-4-6-3; 21,797,672 parameters at 1,000 classes.

    `width` is the number of channels of the first stage; each further stage has twice as many as the one before it.
    """
    return ResNet((3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)


def resnet50(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build torchvision's ResNet-50; 25,557,032 parameters at 1,000 classes.

    Like ResNet-34, it gets the stem for small images below 64 pixels.
    """
    model = _library.torchvision("resnet50", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return _library.small_stem(model, pool="maxpool") if image_size < 64 else model

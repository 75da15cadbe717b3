"""ConvNeXt (Liu et al. 2022, A ConvNet for the 2020s): torchvision's, and a small one written out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from models import _library


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        x = layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise convolution, then per pixel: normalization, four times as many channels, GELU, back; beside a
    shortcut."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.gelu = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        # without a copy where x is channels-last
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.pointwise(y).permute(0, 3, 1, 2)

    def pointwise(self, y: Tensor) -> Tensor:
        """What is done to each pixel; `models.fuse` has another way to execute it."""
        return self.project(self.gelu(self.expand(self.norm(y))))


class ConvNeXt(nn.Module):
    """Four stages; no layer scale and no normalization after the stem."""

    def __init__(
        self, depths: tuple[int, ...], widths: tuple[int, ...], kernel: int, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 4, 4)
        stages: list[nn.Module] = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index:
                stages += [ChannelNorm(widths[index - 1], eps=1e-6), nn.Conv2d(widths[index - 1], width, 2, 2)]
            stages += [Block(width, kernel) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean((2, 3))))


def convnext_18m(num_classes: int, in_channels: int = 3, image_size: int = 224) -> ConvNeXt:
    """Depths 1-3-9-1, 5×5 kernels; 18,166,472 parameters at 200 classes. Images of 32 pixels or more."""
    if image_size < 32:
        raise ValueError("it takes 32 or more")
    return ConvNeXt((1, 3, 9, 1), (96, 192, 384, 768), 5, num_classes, in_channels)


def convnext_tiny(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ConvNeXt-Tiny of torchvision; 28,589,128 parameters at 1,000 classes. Images of 32 pixels or more."""
    return _library.torchvision(
        "convnext_tiny", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )


def convnext_base(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ConvNeXt-Base of torchvision; 88,591,464 parameters at 1,000 classes. Images of 32 pixels or more."""
    return _library.torchvision(
        "convnext_base", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )

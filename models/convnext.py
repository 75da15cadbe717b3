"""ConvNeXt (Liu et al. 2022, A ConvNet for the 2020s): two sizes of torchvision, and a small one written out here."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from models import _library


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of a tensor (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        x = layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """A residual block of a depthwise convolution and a pointwise part."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.gelu = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        # Where x is stored channels-last, this permutation needs no copy.
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.pointwise(y).permute(0, 3, 1, 2)

    def pointwise(self, y: Tensor) -> Tensor:
        """Normalise each pixel, expand it to four times as many channels, apply GELU, and project it back.

        `models.fuse` replaces this method.
        """
        return self.project(self.gelu(self.expand(self.norm(y))))


class ConvNeXt(nn.Module):
    """ConvNeXt of four stages, without layer scale and without normalization after the stem."""

    def __init__(
        self, depths: tuple[int, ...], widths: tuple[int, ...], *, kernel: int, num_classes: int, in_channels: int
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
    """Build ConvNeXt of depths 1-3-9-1 with 5×5 kernels; 18,166,472 parameters at 200 classes.

    Images must have 32 pixels per side or more.
    """
    if image_size < 32:
        raise ValueError("it takes 32 or more")
    return ConvNeXt((1, 3, 9, 1), (96, 192, 384, 768), kernel=5, num_classes=num_classes, in_channels=in_channels)


def convnext_tiny(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build torchvision's ConvNeXt-Tiny; 28,589,128 parameters at 1,000 classes. Images of 32 pixels or more."""
    return _library.torchvision(
        "convnext_tiny", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )


def convnext_base(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """Build torchvision's ConvNeXt-Base; 88,591,464 parameters at 1,000 classes. Images of 32 pixels or more."""
    return _library.torchvision(
        "convnext_base", num_classes=num_classes, in_channels=in_channels, image_size=image_size
    )

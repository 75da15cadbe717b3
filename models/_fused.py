"""The pointwise part of ConvNeXt's blocks by Triton kernels: the same function of the same weights, executed
otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def pointwise(x: Tensor, norm: nn.LayerNorm, expand: nn.Linear, gelu: nn.GELU, project: nn.Linear) -> Tensor:
    """Normalization, four times as many channels, GELU, back: (batch, height, width, channels) -> the same shape."""
    import torch
    from torch.nn.functional import linear

    from models import _triton

    kind = x.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    y = _triton.layer_norm(x, norm.weight, norm.bias, norm.eps, low)
    y = _triton.bias_gelu(linear(y, expand.weight), expand.bias, gelu.approximate == "tanh")
    return project(y)  # type: ignore[no-any-return]


class _Block:
    """In front of `models.convnext.Block`."""

    def pointwise(self: Any, y: Tensor) -> Tensor:
        return pointwise(y, self.norm, self.expand, self.gelu, self.project)


class _CNBlock:
    """In front of torchvision's CNBlock."""

    def forward(self: Any, input: Tensor) -> Tensor:
        convolution, _, norm, expand, gelu, project, _ = self.block
        y = pointwise(convolution(input).permute(0, 2, 3, 1), norm, expand, gelu, project)
        return self.stochastic_depth(self.layer_scale * y.permute(0, 3, 1, 2)) + input  # type: ignore[no-any-return]


FUSED = {"models.convnext.Block": _Block, "torchvision.models.convnext.CNBlock": _CNBlock}
"""Block, by name as torchvision need not be imported -> what replaces its way to execute."""


def fuse(model: nn.Module) -> int:
    """Let the blocks of a model, in place, run `pointwise`; returns how many. Weights keep their names."""
    fused = 0
    for module in model.modules():
        plain: type = type(module)
        instead = FUSED.get(f"{plain.__module__}.{plain.__qualname__}")
        if instead is not None:
            # A class rather than a bound method: copies of the module are fused too, and torch.compile follows it.
            module.__class__ = type(f"Fused{plain.__name__}", (instead, plain), {})
            fused += 1
    return fused

"""Run the pointwise part of ConvNeXt's blocks as Triton kernels, with the same weights and the same outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def pointwise(x: Tensor, norm: nn.LayerNorm, expand: nn.Linear, gelu: nn.GELU, project: nn.Linear) -> Tensor:
    """Normalise, expand to four times as many channels, apply GELU, and project back to `channels`.

    The input and the output have the shape (batch, height, width, channels).
    """
    import torch
    from torch.nn.functional import linear

    from models import _triton

    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type)
    # The matrix products take their inputs in this precision.
    product_dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
    y = _triton.layer_norm(x, norm.weight, norm.bias, norm.eps, product_dtype)
    y = _triton.bias_gelu(linear(y, expand.weight), expand.bias, gelu.approximate == "tanh")
    return project(y)  # type: ignore[no-any-return]


class _Block:
    """Base class that is put before `models.convnext.Block` and overrides its `pointwise`."""

    def pointwise(self: Any, y: Tensor) -> Tensor:
        return pointwise(y, self.norm, self.expand, self.gelu, self.project)


class _CNBlock:
    """Base class that is put before torchvision's CNBlock and overrides its `forward`."""

    def forward(self: Any, input: Tensor) -> Tensor:
        convolution, _, norm, expand, gelu, project, _ = self.block
        y = pointwise(convolution(input).permute(0, 2, 3, 1), norm, expand, gelu, project)
        return self.stochastic_depth(self.layer_scale * y.permute(0, 3, 1, 2)) + input  # type: ignore[no-any-return]


FUSED = {"models.convnext.Block": _Block, "torchvision.models.convnext.CNBlock": _CNBlock}
"""For each kind of block, by its name, the class that overrides part of it. torchvision need not be imported for it."""


def fuse(model: nn.Module) -> int:
    """Let the ConvNeXt blocks of a model, in place, run `pointwise`, and return how many. Weights keep their names."""
    count = 0
    for module in model.modules():
        block: type = type(module)
        override = FUSED.get(f"{block.__module__}.{block.__qualname__}")
        if override is not None:
            # The class is replaced rather than a method of the instance: then copies of the module are fused too,
            # and torch.compile can trace it.
            module.__class__ = type(f"Fused{block.__name__}", (override, block), {})
            count += 1
    return count

"""Let a model of large images take small ones: it enlarges them on the device, before its first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class Upsample:
    """Enlarges a batch of images bilinearly before a module's forward pass.

    It is a hook and no layer around the model, so that the weights keep their names.
    """

    def __init__(self, size: int) -> None:
        from torch.nn.functional import interpolate

        self.size = size
        self.interpolate = interpolate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return self.interpolate(inputs[0], (self.size, self.size), mode="bilinear", align_corners=False)


def upsampled(model: nn.Module, size: int) -> nn.Module:
    """Let a model, in place, enlarge its images to `size` × `size` pixels, and return it. Exported forms do it too."""
    model.register_forward_pre_hook(Upsample(size))
    return model

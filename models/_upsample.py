"""Small images for a model of larger ones: enlarged on the device, as the first thing that the model does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class Upsample:
    """Bilinear enlargement of a batch before a module's own forward pass; a hook, so that weights keep their names."""

    def __init__(self, size: int) -> None:
        from torch.nn.functional import interpolate

        self.size, self.interpolate = size, interpolate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return self.interpolate(inputs[0], (self.size, self.size), mode="bilinear", align_corners=False)


def upsampled(model: nn.Module, size: int) -> nn.Module:
    """The model, which from now on enlarges its images to `size` × `size` pixels, in whatever form it is exported."""
    model.register_forward_pre_hook(Upsample(size))
    return model

"""The usual ways to prepare images for a classifier, which are tried where nothing states how a model wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.forms._statements import Normalisation

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE: Normalisation = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
"""Caffe's models and those of Keras after them: BGR from 0 to 255, less the mean of ImageNet."""
HALF: Normalisation = ((0.5,), (0.5,))
UNIT: Normalisation = ((0.0,), (1.0,))
BYTES: Normalisation = ((0.0,), (1 / 255,))
USUAL: tuple[Normalisation, ...] = (IMAGENET, HALF, UNIT, BYTES, ((0.498,), (0.502,)), CAFFE)
"""Usual means and stds, the most usual first: ImageNet's; -1 to 1; 0 to 1; 0 to 255; EfficientNet-Lite's; Caffe's."""
USUAL_GREY: tuple[Normalisation, ...] = (UNIT, HALF, BYTES, ((0.1307,), (0.3081,)))
"""The same for models of grey images. The last are MNIST's."""
USUAL_INTEGERS: dict[str, Normalisation] = {"uint8": BYTES, "int8": ((128 / 255,), (1 / 255,))}
"""Type of an input that takes whole numbers -> the only usual mean and std."""
SIZES = (224, 256, 288, 299, 384, 192, 160, 128, 64, 32)
"""Usual sizes of inputs in pixels, the most usual first."""
SCREENED = (224, 64, 32)
"""Sizes that are tried first where a model takes any. Those near the best of them follow."""
CROP = 0.875
"""The usual share of the shorter side that a crop keeps: 224 of 256 pixels."""
SMALL = 128
"""Images for smaller inputs are usually not cropped."""

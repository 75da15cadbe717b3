"""Settings: images and models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from models import check
from tasks.records._base import (
    Channels,
    ColumnName,
    Fraction,
    Images,
    PathText,
    Pixels,
    Record,
    Seed,
    choices,
    known,
    plugins,
    source_settings,
)


class Data(Record):
    """Where images come from and how they are split."""

    kind: Literal["data"] = "data"
    source: Annotated[str, choices("auto", *plugins("datasets"))] = "auto"
    """auto: whatever data.path holds, or digits without a path. Else a file name in tasks/datasets: digits, parquet,
    folder, cifar10, cifar100 or tiny_imagenet."""
    path: PathText = ""
    """Folder of images or zip of it, table of labels beside images, Parquet file or folder, or hub data-set name. Where
    a torchvision set is kept or downloaded to (cifar10, cifar100)."""
    layout: Literal["auto", "classes", "splits"] = "auto"
    """What the folders in data.path are: classes; splits, with the classes inside; auto: told by their names and
    contents, and refused where both are possible."""
    image: ColumnName | None = None
    """Column of the images, or of their file names in a table of labels; none: the only one that can be it."""
    label: ColumnName | None = None
    """Column of the labels; none: `label`, or the only one that can be it."""
    image_size: Pixels | None = None
    """Height and width in pixels to resize and centre-crop to; none: images keep their size and must agree on it."""
    resize: Pixels | None = None
    """The shorter side before the crop (ImageNet's usual 256 for 224); none: image_size itself."""
    mean: tuple[Fraction, ...] | None = None
    """To normalise with, per channel or one for all, of pixels scaled to 0..1 (pretrained weights say theirs); none:
    the training images' own."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1)], ...] | None = None
    """As mean: the standard deviation."""
    train_limit: Images | None = None
    """Keep at most this many training images (stratified, seeded)."""
    test_limit: Images | None = None
    """Keep at most this many test images (stratified, seeded)."""
    validation_fraction: Fraction = 0.1
    """Part of the training images held out to choose by, where the source has no validation split."""
    test_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Part of all images held out for testing, where the source has no test split; 1: all, and nothing is trained."""
    on_bad: Literal["refuse", "drop"] = "refuse"
    """Undecodable images, null images and labels out of range; classes of which no image is used; over 1 % of the
    images not used: refuse the data set, or leave them out and say which."""
    seed: Seed = 0

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return field in ("mean", "std")

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return known(value, ("auto", *plugins("datasets")), "data source")

    @model_validator(mode="after")
    def _read(self) -> Data:
        """Every setting must be one that the source reads."""
        given = [name for name in ("path", "image", "label", "layout") if getattr(self, name) not in ("", None, "auto")]
        if self.source == "auto":
            if given and not self.path:
                raise ValueError(f"data.{given[0]} = {getattr(self, given[0])!r} has no effect without data.path")
            return self
        reads, needs = source_settings(self.source)
        for name in given:
            if name not in reads:
                other = "leave data.source out" if name == "path" else "leave it out"
                raise ValueError(
                    f"source {self.source!r} does not read data.{name} (given {getattr(self, name)!r}); {other}"
                )
        if "path" in needs and not self.path:
            raise ValueError(f"source {self.source!r} needs data.path: a file, a folder or a data-set name")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Data:
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(f"resize ({self.resize}) needs an image_size, and not a larger one")
        return self

    @model_validator(mode="after")
    def _normalisation(self) -> Data:
        given = [len(values) if values is not None else 0 for values in (self.mean, self.std)]
        if given[0] != given[1] or given[0] not in (0, 1, 3):
            raise ValueError(f"mean and std go together, one value each or three; got {given[0]} and {given[1]}")
        if self.test_fraction == 1 and self.mean is None:
            raise ValueError("test_fraction = 1 leaves no training images to take mean and std from; set both")
        return self


class Model(Record):
    """A classifier by name."""

    kind: Literal["model"] = "model"
    name: Annotated[str, Field(max_length=200)] = "lenet5"
    """Name of a function in models/, timm:NAME or torchvision:NAME."""
    width: Channels | None = None
    """Channels of the first stage, where the model can be scaled (resnet34: 64)."""
    upsample: Pixels | None = None
    """Pixels to which the model enlarges its images on the device, in training as in every exported form; none: it
    takes them as they are stored."""
    gelu: Literal["tanh"] | None = None
    """tanh: its GELU layers use the tanh approximation, in training as in every exported form; none: what the model
    has."""
    pretrained: PathText | None = None
    """Weights to start from: hub (torchvision's or timm's own), a file (.safetensors, .pth, .pt, .bin) or
    package:NAME."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        check(value)
        return value

    @model_validator(mode="after")
    def _scaled(self) -> Model:
        check(self.name, self.width)
        return self

    @property
    def label(self) -> str:
        width, upsample = f"-w{self.width}" if self.width else "", f"-{self.upsample}px" if self.upsample else ""
        gelu, pretrained = f"-{self.gelu}" if self.gelu else "", "-pretrained" if self.pretrained else ""
        return f"{self.name}{width}{upsample}{gelu}{pretrained}"

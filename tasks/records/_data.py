"""Settings of a study: the images and the models."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

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

ChannelOrder = Literal["rgb", "bgr", "grey"]
"""Order of the colours in a model's input; grey: it has one channel."""
Layout = Literal["nchw", "nhwc"]
"""Order of the axes of a model's input: images, channels, height and width, or the channels last."""


def _name_of(file: str) -> str:
    """Return what a given model is called: its file's name without suffix, with - for what no name of a variant has."""
    return re.sub(r"[^0-9A-Za-z_.-]+", "-", PurePath(file).stem)[:80].strip("-") or "model"


class Data(Record):
    """Where images come from and how they are split."""

    kind: Literal["data"] = "data"
    source: Annotated[str, choices("auto", *plugins("datasets"))] = "auto"
    """What kind of source the images come from: digits, parquet, folder, cifar10, cifar100 or tiny_imagenet, each a
    file in tasks/datasets. auto: whatever data.path holds, or digits where there is no path."""
    path: PathText = ""
    """A folder of images or a zip of it, a table of labels beside images, a Parquet file or folder of them, or the name
    of a data set on the Hugging Face hub. For cifar10 and cifar100: the folder that torchvision keeps the set in."""
    layout: Literal["auto", "classes", "splits"] = "auto"
    """What the folders in data.path stand for: classes, or splits that hold the classes. auto: decided by their names
    and contents, and refused where both are possible."""
    unlabelled: bool = False
    """Whether the images in data.path have no labels: then whatever folders they are in mean nothing, and agreement
    with the original model counts in place of accuracy. Nothing can be trained with such images."""
    image: ColumnName | None = None
    """Column that holds the images, or in a table of labels their file names. none: the only one that can."""
    label: ColumnName | None = None
    """Column that holds the labels. none: `label`, or the only column that can hold them."""
    image_size: Pixels | None = None
    """Height and width, in pixels, that images are resized and centre-cropped to. none: images keep their size, which
    must be the same for all."""
    resize: Pixels | None = None
    """Length of the shorter side before the centre crop, in pixels (for ImageNet usually 256, with an image_size of
    224). none: image_size itself."""
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    """Mean used for normalisation, of pixels scaled to 0..1: one value per channel, or one for all. Pretrained weights
    state theirs. none: computed from the training images."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1)], ...] | None = None
    """Standard deviation used for normalisation, in the same form as mean."""
    train_limit: Images | None = None
    """Keep at most this many training images, drawn at random (by the seed) with the same share of every class."""
    test_limit: Images | None = None
    """Keep at most this many test images, drawn in the same way as the training images."""
    validation_fraction: Fraction = 0.1
    """Share of the training images that is held out to make choices by, where the source has no validation split."""
    test_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all images that is held out for testing, where the source has no test split. 1: all images are test
    images, and nothing is trained."""
    on_bad: Literal["refuse", "drop"] = "refuse"
    """What is done about images that cannot be decoded or are missing, labels out of range, classes without a usable
    image, and over 1 % of images left unused. refuse: stop. drop: leave them out and say which."""
    seed: Seed = 0
    """Seed of the random choice of splits and of limited images."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return field in ("mean", "std")

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return known(value, ("auto", *plugins("datasets")), "data source")

    @model_validator(mode="after")
    def _read(self) -> Data:
        """Refuse settings that the source does not read, and a source without the settings that it needs."""
        named = [name for name in ("path", "image", "label", "layout") if getattr(self, name) not in ("", None, "auto")]
        if self.unlabelled:
            self._refuse_labels(named)
        if self.source == "auto":
            if named and not self.path:
                raise ValueError(f"data.{named[0]} = {getattr(self, named[0])!r} has no effect without data.path")
            return self
        reads, needs = source_settings(self.source)
        for name in named:
            if name not in reads:
                other = "leave data.source out" if name == "path" else "leave it out"
                raise ValueError(
                    f"source {self.source!r} does not read data.{name} (given {getattr(self, name)!r}); {other}"
                )
        if "path" in needs and not self.path:
            raise ValueError(f"source {self.source!r} needs data.path: a file, a folder or a data-set name")
        return self

    def _refuse_labels(self, named: list[str]) -> None:
        """Refuse what makes no sense for images without labels. `named` are the settings that are set."""
        if not self.path:
            raise ValueError("data.unlabelled needs data.path: a folder of images, or a zip of one")
        if self.source not in ("auto", "folder"):
            raise ValueError(
                f"data.unlabelled takes a folder of images, or a zip of one; {self.path} is of the source {self.source}"
            )
        for name in named:
            if name != "path":
                raise ValueError(f"data.{name} is for images with labels, and data.unlabelled says that there are none")

    @model_validator(mode="after")
    def _sizes(self) -> Data:
        if self.resize is not None and (self.image_size is None or self.resize < self.image_size):
            raise ValueError(f"resize ({self.resize}) needs an image_size, and not a larger one")
        return self

    @model_validator(mode="after")
    def _normalisation(self) -> Data:
        means = len(self.mean or ())
        stds = len(self.std or ())
        if means != stds or means not in (0, 1, 3):
            raise ValueError(f"mean and std go together, one value each or three; got {means} and {stds}")
        if self.test_fraction == 1 and self.mean is None:
            raise ValueError("test_fraction = 1 leaves no training images to take mean and std from; set both")
        return self


class Model(Record):
    """A classifier by name, or one that was trained already and is given as a file."""

    kind: Literal["model"] = "model"
    file: PathText = ""
    """A trained model as an ONNX file, which is neither trained nor changed: it is the reference of its study, and
    forms are made from it. Empty: the model is made by its name."""
    name: Annotated[str, Field(max_length=200)] = "lenet5"
    """The name of a function in models/, or timm:NAME or torchvision:NAME for a model of those libraries. With `file`,
    what the model is called (the file's own name, where nothing is given)."""
    output: Annotated[str, Field(max_length=1_000)] = ""
    """With `file`: name of the output that has one score per class. Empty: the only one that can."""
    order: ChannelOrder | None = None
    """With `file`: order of the channels in its input. none: found out."""
    layout: Layout | None = None
    """With `file`: order of the axes of its input. none: found out."""
    labels: PathText = ""
    """With `file`: a text file with a class name per line, in the order of the model's outputs. Empty: found out."""
    width: Channels | None = None
    """Number of channels of the first stage, for models that can be scaled (for resnet34 usually 64)."""
    upsample: Pixels | None = None
    """Height and width, in pixels, to which the model itself enlarges its images, in training as in every exported
    form. none: it takes them as they are stored."""
    gelu: Literal["tanh"] | None = None
    """tanh: the model's GELU layers use the tanh approximation, in training as in every exported form. none: the layers
    stay as the model has them."""
    pretrained: PathText | None = None
    """Weights that training starts from: hub (those of torchvision or timm), a file (.safetensors, .pth, .pt, .bin), or
    package:NAME for those that a Python package carries. none: random weights."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"file": value} if value.lower().endswith(".onnx") else {"name": value}
        if isinstance(value, dict) and value.get("file") and not value.get("name"):
            value = {**value, "name": _name_of(str(value["file"]))}
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str, info: ValidationInfo) -> str:
        if not info.data.get("file"):
            check(value)
        return value

    @field_validator("pretrained")
    @classmethod
    def _pretrained(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("an empty text names no weights; accepted: hub, a file or package:NAME")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> Model:
        """Refuse settings of a model by name where a file is given, and the other way round."""
        if self.file:
            made = [name for name in ("width", "upsample", "gelu", "pretrained") if getattr(self, name) is not None]
            if made:
                raise ValueError(f"{made[0]} is for models that burnish makes by name; {self.file!r} stays as it is")
            return self
        check(self.name, self.width)
        given = [name for name in ("output", "order", "layout", "labels") if getattr(self, name)]
        if given:
            raise ValueError(f"{given[0]} is for a model that is given as a file; name the file with `file`")
        return self

    @property
    def label(self) -> str:
        """The model's name with whatever differs from the plain model; variants' names begin with it."""
        width = f"-w{self.width}" if self.width else ""
        upsample = f"-{self.upsample}px" if self.upsample else ""
        gelu = f"-{self.gelu}" if self.gelu else ""
        pretrained = "-pretrained" if self.pretrained else ""
        return f"{self.name}{width}{upsample}{gelu}{pretrained}"

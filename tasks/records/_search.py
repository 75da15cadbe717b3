"""Settings of the stages that try several things: tuning, ablation, augmentation, pruning, and the search for forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.records._base import (
    QUANTIZE_SETTINGS,
    Channels,
    Fraction,
    Images,
    Minutes,
    Rate,
    Record,
    Scalar,
    Seed,
    SomeEpochs,
    Times,
    choices,
    known,
)
from tasks.records._data import Model
from tasks.records._train import POLICIES, Train

if TYPE_CHECKING:
    from collections.abc import Collection


class Range(Record):
    """An interval from which the search draws values."""

    FORM_ASKS_KIND: ClassVar[bool] = True
    kind: Literal["range"] = "range"
    low: Annotated[float, Field(ge=-1e12, le=1e12)]
    high: Annotated[float, Field(ge=-1e12, le=1e12)]
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, got {self.low}")
        return self


class Choice(Record):
    """A list from which the search chooses values."""

    FORM_ASKS_KIND: ClassVar[bool] = True
    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=1_000)]


class Search(Record):
    """Search for faster int8 forms of each ONNX file: by which setting, and with which layers in floating point."""

    kind: Literal["search"] = "search"
    trials: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Most trials per ONNX file. 0 leaves the search out."""
    minutes: Minutes | None = None
    """Time that the whole run may take. A trial is begun only if the trial and the measurement at the end fit into it.
    none: no limit."""
    patience: Times = 8
    """The search ends when this many trials in a row have brought no better form."""
    settings: tuple[Annotated[str, choices(*QUANTIZE_SETTINGS)], ...] = ()
    """Int8 settings that are tried beside those of quantize.settings."""
    survivors: Times = 2
    """Number of the search's forms that go on to the benchmark in each runtime, at most."""
    configure: bool = True
    """Whether the fastest form in each runtime is also tried with fewer threads and with options of the runtime."""
    seed: Seed = 0
    """Seed of the sampler that proposes trials (Optuna's TPE)."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, QUANTIZE_SETTINGS, "quantization setting") for v in value)


class Tune(Record):
    """Search for better settings of `train` by Optuna."""

    kind: Literal["tune"] = "tune"
    trials: Annotated[int, Field(ge=0, le=100_000)] = 8
    """Number of settings to try; each is one training. 0 leaves the stage out."""
    epochs: SomeEpochs = 5
    """Number of epochs per trial."""
    train_limit: Images | None = None
    """Each trial trains on at most this many images. The best one is trained again on all of them."""
    space: dict[str, Annotated[Range | Choice, Field(discriminator="kind")]] = {
        "learning_rate": Range(low=0.02, high=0.5, log=True),
        "weight_decay": Range(low=1e-5, high=5e-3, log=True),
        "label_smoothing": Choice(values=(0.0, 0.1)),
    }
    """Field of `train` -> the interval or the list from which its value is drawn."""
    seed: Seed = 0
    """Seed of the search."""

    @field_validator("space")
    @classmethod
    def _space(cls, value: dict[str, Range | Choice]) -> dict[str, Range | Choice]:
        fixed = {
            "kind",
            "epochs",
            "patience",
            "seeds",
            "train_limit",
            "augment",
            "device",
            "loading",
            "workers",
            "pin_memory",
            "processes",
        }
        accepted = tuple(name for name in Train.model_fields if name not in fixed)
        for name, over in value.items():
            known(name, accepted, "Train field to tune")
            for edge in (over.low, over.high) if isinstance(over, Range) else over.values:
                try:
                    Train.model_validate({name: edge})
                except ValueError as error:
                    raise ValueError(f"{name} = {edge!r} is not a value of train.{name}") from error
        return value


class Ablate(Record):
    """Comparison of training techniques: trainings with each technique alone, with all of them, and with none."""

    kind: Literal["ablate"] = "ablate"
    techniques: dict[str, dict[str, Scalar]] = {}
    """Technique -> the fields of `train`, or of the model ("model.gelu"), that it sets. No technique: no stage."""
    plain: dict[str, Scalar] = {}
    """Values of such fields in the trainings whose technique does not set them, e.g. precision = "fp32"."""
    epochs: SomeEpochs = 3
    """Number of epochs per training. The first epoch, in which code may be compiled, is reported apart."""
    train_limit: Images | None = None
    """Each training takes at most this many images."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    """Every technique is trained once per seed."""
    alone: tuple[str, ...] = ()
    """Techniques that the training with all techniques leaves out, because they exclude one of the others."""

    @field_validator("techniques")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        # A technique's name becomes a part of a file name, which may have at most 255 bytes in all.
        for name in value:
            if not name.isprintable() or not 0 < len(name) <= 60 or "/" in name or "\\" in name:
                raise ValueError(
                    f"{name[:60]!r} is no name of a technique; accepted: 1 to 60 printable characters, none of "
                    "them a slash"
                )
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Ablate:
        """Refuse fields that no technique may set, and techniques that could not be switched on together."""
        for field in {*self.plain, *(field for fields in self.techniques.values() for field in fields)}:
            if field.startswith(OF_MODEL) and field.removeprefix(OF_MODEL) not in ("gelu", "upsample"):
                raise ValueError(
                    f"techniques: {field} makes another model; of the model, techniques set model.gelu and "
                    "model.upsample"
                )
        # An empty table of techniques by itself leaves the stage out, whatever stands in `alone`.
        for name in self.alone if self.techniques else ():
            known(name, tuple(self.techniques), "technique to leave alone")
        for name in self.techniques:
            if name in ("none", "all"):
                raise ValueError(
                    f"techniques: {name!r} is the name of the training with {name} of them; choose another"
                )
        self._together()
        return self

    def _together(self) -> None:
        """Refuse techniques that give one field different values, except those that are trained with alone."""
        set_by: dict[str, str] = {}
        for name, fields in self.techniques.items():
            if name in self.alone:
                continue
            for field, value in fields.items():
                other = set_by.setdefault(field, name)
                if self.techniques[other][field] != value:
                    raise ValueError(
                        f"techniques: {other} and {name} set {field} to different values, so they cannot be all "
                        "together; name one of them in alone"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trainings. "all" is left out where it would set the same fields as one of the techniques."""
        together = self.sets("all")
        several = ("all",) if together and together not in self.techniques.values() else ()
        return ("none", *self.techniques, *several) if self.techniques else ()

    def without(self, techniques: Collection[str]) -> Ablate:
        """Return these settings without some of the techniques."""
        remaining = {name: fields for name, fields in self.techniques.items() if name not in techniques}
        alone = tuple(name for name in self.alone if name in remaining)
        return Ablate(**{**dict(self), "techniques": remaining, "alone": alone})

    def sets(self, technique: str) -> dict[str, bool | int | float | str]:
        """Return the fields that a technique sets: those of `train`, and after "model." those of the model."""
        if technique == "all":
            joined = (fields for name, fields in self.techniques.items() if name not in self.alone)
            return {field: value for fields in joined for field, value in fields.items()}
        return self.techniques.get(technique, {})

    def train(self, base: Train, technique: str) -> Train:
        """Return the settings for training with one technique.

        Every technique trains for the same number of epochs, so that their times compare.
        """
        same = {"epochs": self.epochs, "patience": self.epochs, "seeds": self.seeds, "train_limit": self.train_limit}
        fields = {k: v for k, v in self._fields(technique).items() if not k.startswith(OF_MODEL)}
        return Train.model_validate(base.model_dump() | fields | same)

    def model(self, base: Model, technique: str) -> Model:
        """Return the model that is trained with one technique."""
        fields = {k.removeprefix(OF_MODEL): v for k, v in self._fields(technique).items() if k.startswith(OF_MODEL)}
        return Model.model_validate(base.model_dump() | fields)

    def _fields(self, technique: str) -> dict[str, bool | int | float | str]:
        return self.plain | self.sets(technique)


OF_MODEL = "model."
"""Among the fields that a technique sets, those of the model begin with this."""


class Augment(Record):
    """Comparison of augmentation policies, each trained with the tuned settings."""

    kind: Literal["augment"] = "augment"
    policies: tuple[Annotated[str, choices(*POLICIES)], ...] = ("none", "crop_flip", "trivialaugment")
    """Policies to try. An empty list leaves the stage out."""
    epochs: SomeEpochs | None = None
    """Number of epochs per policy. none: as train. With fewer than train, the best policy is then trained again for
    train's epochs; with more, the tuned training is repeated with as many, so that all compare."""
    train_limit: Images | None = None
    """Each policy trains on at most this many images. The best one is then trained again on all of them."""

    @field_validator("policies")
    @classmethod
    def _policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, POLICIES, "augmentation policy") for v in value)


class Prune(Record):
    """Structured channel pruning and fine-tuning."""

    kind: Literal["prune"] = "prune"
    ratios: Annotated[tuple[Fraction, ...], Field(max_length=100)] = (0.25,)
    """Shares of channels to remove from each layer, one variant per share. An empty list leaves the stage out."""
    epochs: SomeEpochs = 5
    """Number of epochs of fine-tuning after pruning."""
    learning_rate: Rate = 0.02
    """Peak learning rate of the fine-tuning."""
    round_to: Channels = 8
    """The number of channels stays a multiple of this. Other numbers make the pruned model slower."""

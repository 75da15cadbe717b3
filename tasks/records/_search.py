"""Settings of what trains again and again: tuning, ablation, augmentation, pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.records._base import Channels, Fraction, Images, Rate, Record, Scalar, Seed, SomeEpochs, choices, known
from tasks.records._data import Model
from tasks.records._train import POLICIES, Train

if TYPE_CHECKING:
    from collections.abc import Collection


class Range(Record):
    """An interval to tune over."""

    FORM_ASKS_KIND: ClassVar[bool] = True
    kind: Literal["range"] = "range"
    low: Annotated[float, Field(ge=-1e12, le=1e12)]
    high: Annotated[float, Field(ge=-1e12, le=1e12)]
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, got {self.low}")
        return self


class Choice(Record):
    """A list of values to tune over."""

    FORM_ASKS_KIND: ClassVar[bool] = True
    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=1_000)]


class Tune(Record):
    """Hyper-parameter search over `Train` fields by Optuna."""

    kind: Literal["tune"] = "tune"
    trials: Annotated[int, Field(ge=0, le=100_000)] = 8
    """0 leaves the stage out."""
    epochs: SomeEpochs = 5
    train_limit: Images | None = None
    """Images a trial trains on; the best trial is retrained on all."""
    space: dict[str, Annotated[Range | Choice, Field(discriminator="kind")]] = {
        "learning_rate": Range(low=0.02, high=0.5, log=True),
        "weight_decay": Range(low=1e-5, high=5e-3, log=True),
        "label_smoothing": Choice(values=(0.0, 0.1)),
    }
    """Train field -> what it is chosen from."""
    seed: Seed = 0

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
    """Training techniques, each trained with alone, with all of them, and with none."""

    kind: Literal["ablate"] = "ablate"
    techniques: dict[str, dict[str, Scalar]] = {}
    """Name -> the fields of `train` that it sets, or of the model ("model.gelu"); none at all leaves the stage out."""
    plain: dict[str, Scalar] = {}
    """Such fields where no technique sets them, e.g. precision = "fp32"."""
    epochs: SomeEpochs = 3
    """Of each training; the first one's time, in which what compiles does so, is told apart."""
    train_limit: Images | None = None
    """Images of each training."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    alone: tuple[str, ...] = ()
    """Techniques that are not part of all together, for one of the others excludes them."""

    @field_validator("techniques")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        # it becomes part of a file's name, of at most 255 bytes, together with others
        for name in value:
            if not name.isprintable() or not 0 < len(name) <= 60 or "/" in name or "\\" in name:
                raise ValueError(
                    f"{name[:60]!r} is no name of a technique; accepted: 1 to 60 printable characters, none of "
                    "them a slash"
                )
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Ablate:
        set_by: dict[str, str] = {}
        for field in {*self.plain, *(field for fields in self.techniques.values() for field in fields)}:
            if field.startswith(OF_MODEL) and field.removeprefix(OF_MODEL) not in ("gelu", "upsample"):
                raise ValueError(
                    f"techniques: {field} makes another model; of the model, techniques set model.gelu and "
                    "model.upsample"
                )
        # techniques={} alone leaves the stage out
        for name in self.alone if self.techniques else ():
            known(name, tuple(self.techniques), "technique to leave alone")
        for name, fields in self.techniques.items():
            if name in ("none", "all"):
                raise ValueError(f"techniques: {name!r} is the name of what is trained beside them")
            for field, value in fields.items() if name not in self.alone else ():
                other = set_by.setdefault(field, name)
                if self.techniques[other][field] != value:
                    raise ValueError(
                        f"techniques: {other} and {name} set {field} to different values, so they cannot be all "
                        "together; name one of them in alone"
                    )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What is trained; "all" is not where it would be one of the techniques again."""
        together = self.sets("all")
        several = ("all",) if together and together not in self.techniques.values() else ()
        return ("none", *self.techniques, *several) if self.techniques else ()

    def without(self, techniques: Collection[str]) -> Ablate:
        """The same without some techniques."""
        kept = {name: fields for name, fields in self.techniques.items() if name not in techniques}
        return Ablate(**{**dict(self), "techniques": kept, "alone": tuple(name for name in self.alone if name in kept)})

    def sets(self, technique: str) -> dict[str, bool | int | float | str]:
        """Fields of `train`, and with "model." before them of the model, that a technique sets."""
        if technique == "all":
            joined = (fields for name, fields in self.techniques.items() if name not in self.alone)
            return {field: value for fields in joined for field, value in fields.items()}
        return self.techniques.get(technique, {})

    def train(self, base: Train, technique: str) -> Train:
        """How it is trained: for all epochs, as the others."""
        same = {"epochs": self.epochs, "patience": self.epochs, "seeds": self.seeds, "train_limit": self.train_limit}
        fields = {k: v for k, v in self._fields(technique).items() if not k.startswith(OF_MODEL)}
        return Train.model_validate(base.model_dump() | fields | same)

    def model(self, base: Model, technique: str) -> Model:
        """What is trained."""
        fields = {k.removeprefix(OF_MODEL): v for k, v in self._fields(technique).items() if k.startswith(OF_MODEL)}
        return Model.model_validate(base.model_dump() | fields)

    def _fields(self, technique: str) -> dict[str, bool | int | float | str]:
        return self.plain | self.sets(technique)


OF_MODEL = "model."
"""What the name of a field of the model starts with among a technique's."""


class Augment(Record):
    """Augmentation policies to try with the tuned settings."""

    kind: Literal["augment"] = "augment"
    policies: tuple[Annotated[str, choices(*POLICIES)], ...] = ("none", "crop_flip", "trivialaugment")
    """Empty leaves the stage out."""
    epochs: SomeEpochs | None = None
    """Epochs a policy; none: as train. With fewer, policies are tried in short and the best is retrained as train says;
    with more, every policy is trained so long, and so is the tuned training again."""
    train_limit: Images | None = None
    """Images a policy is tried on; the best one is retrained on all."""

    @field_validator("policies")
    @classmethod
    def _policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, POLICIES, "augmentation policy") for v in value)


class Prune(Record):
    """Structured channel pruning and fine-tuning."""

    kind: Literal["prune"] = "prune"
    ratios: Annotated[tuple[Fraction, ...], Field(max_length=100)] = (0.25,)
    """Part of the channels taken out of each layer, a variant a ratio; empty leaves the stage out."""
    epochs: SomeEpochs = 5
    """Fine-tuning epochs."""
    learning_rate: Rate = 0.02
    round_to: Channels = 8
    """Channels stay a multiple of this; otherwise the result gets slower."""

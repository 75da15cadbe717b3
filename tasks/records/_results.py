"""What stages return: files and rows by name, never arrays or live models."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tasks.records._base import Precision, Record, StageName, Status
from tasks.records._train import Train


class Artifact(Record):
    """A content-addressed file, or folder of files, in the store."""

    kind: Literal["artifact"] = "artifact"
    path: str
    """Relative to the store."""
    sha256: str
    size_bytes: int
    format: str
    """parquet, npy, json, safetensors, onnx, torchscript, engine, html, csv, folder."""
    precision: str = ""


class Output(Record):
    """What every stage returns at least: its rows, one Parquet fragment per table."""

    # A stage writes its rows for the end of the study; no later stage reads them from its result.
    UNCOUNTED = frozenset({"tables"})
    tables: dict[str, Artifact] = {}
    passing: tuple[str, ...] = ()
    """Failures among its rows that say nothing of what was asked for, as of a process that was killed: this run takes
    such a result, and the next one computes the stage again."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True


class Prepared(Output):
    """Decoded images: arrays of one row an image, in one order."""

    # The benchmark alone reads the names of images; its own key counts them.
    UNCOUNTED = frozenset({"tables", "names"})
    kind: Literal["prepared"] = "prepared"
    images: Artifact
    """npy, uint8, (rows, height, width, channels)."""
    labels: Artifact
    """npy, int64, (rows,)."""
    splits: Artifact
    """npy, uint8, (rows,): 0 train, 1 validation, 2 test."""
    names: Artifact | None = None
    """json, a list: the file of each row, relative to data.path; None: the source has no files."""
    classes: tuple[str, ...]
    image_size: int
    """Height = width, pixels."""
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1: of the training part, or as the settings say."""
    std: tuple[float, ...]
    train_rows: int
    validation_rows: int
    test_rows: int


class Variant(Record):
    """One form of a model: where it came from and the file that holds it."""

    kind: Literal["variant"] = "variant"
    name: str
    """Unique in a study, e.g. resnet34-w16/prune-0.25/onnx/u8s8."""
    model: str
    """Label of the model."""
    stage: str
    parent: str | None = None
    """Name of the variant that it was made from."""
    format: str
    precision: Precision = "fp32"
    setting: str = ""
    """What distinguishes it from its siblings: the policy, the ratio, the int8 setting."""
    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulates of one image."""
    artifact: Artifact | None = None
    """None exactly where status is not ok."""
    status: Status = "ok"
    error: str | None = None
    benchmark: bool = False
    """Whether it goes on to the benchmark."""

    @model_validator(mode="after")
    def _whole(self) -> Variant:
        if (self.status == "ok") != (self.artifact is not None) or (self.status == "ok") != (self.error is None):
            raise ValueError(f"{self.name}: an artifact exactly where ok, an error exactly where not")
        return self


class Trained(Output):
    """Weights and how they were reached. `variant.artifact` is a safetensors file that models.load() opens."""

    UNCOUNTED = frozenset({"tables", "base"})
    kind: Literal["trained"] = "trained"
    variant: Variant
    train: Train
    """The settings that gave these weights."""
    validation_macro_f1: float | None
    """None where there are no validation images."""
    base: tuple[Variant, ...] = ()
    """Variants on the way that are recorded and not carried on (e.g. policies that lost)."""


class Forms(Output):
    """Variants made from one or more parents (export, quantize, build)."""

    kind: Literal["forms"] = "forms"
    variants: tuple[Variant, ...]


class Measured(Output):
    """The benchmark's rows."""

    kind: Literal["measured"] = "measured"


class Result(Output):
    """The end of a study: tables checked, winner, report."""

    kind: Literal["result"] = "result"
    winner: str | None
    """variant × runtime × device × batch size in words; None if no row qualifies."""
    reason: str
    """Sentences: `cautions` first, then the winner and why it is that one."""
    cautions: tuple[str, ...] = ()
    """Why the accuracy rule is met vacuously; the beginning of `reason`."""
    sentences: tuple[str, ...] = ()
    """The rest of `reason`, a few sentences each."""
    files: dict[str, Artifact] = {}
    """File or folder name in the run's folder -> artifact."""
    failures: tuple[str, ...] = ()
    """Expectations that were not met, with their rows; `tables` holds the tables that met all of theirs."""


class Context(Record):
    """Where a run leaves things; never part of a cache key."""

    kind: Literal["context"] = "context"
    out: str
    """The artifacts folder."""
    run: str
    """The run's name."""
    again: tuple[StageName, ...] = ()
    """Stages whose stored results are not taken."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True

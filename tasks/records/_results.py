"""The results that stages return: they name files and tables, and never hold arrays or live models."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tasks.records._base import Pixels, Precision, Record, StageName, Status
from tasks.records._data import ChannelOrder, Layout
from tasks.records._train import Train


class Artifact(Record):
    """A content-addressed file, or folder of files, in the store."""

    kind: Literal["artifact"] = "artifact"
    path: str
    """Path of the file, relative to the store's folder."""
    sha256: str
    size_bytes: int
    format: str
    """One of parquet, npy, json, safetensors, onnx, openvino, torchscript, engine, html, csv, folder."""
    precision: str = ""


class Output(Record):
    """What every stage returns at least: the rows that it wrote, as one Parquet fragment per table."""

    # A stage writes its rows for the last stage, which joins them; no stage in between reads them from its result.
    UNCOUNTED = frozenset({"tables"})
    tables: dict[str, Artifact] = {}
    """Table -> the fragment with this stage's rows."""
    passing: tuple[str, ...] = ()
    """Failures among the rows that may not happen again, such as a process that was killed. This run uses a result with
    such failures, and the next run computes the stage again."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True


class Preparation(Record):
    """How an image becomes the input of a given model, and which of the model's outputs stands for which class."""

    UNCOUNTED = frozenset({"told_by"})
    kind: Literal["preparation"] = "preparation"
    image_size: Pixels
    """Height and width, in pixels, of the model's input."""
    resize: Pixels | None = None
    """Length of the shorter side before the centre crop, in pixels. None: `image_size` itself."""
    order: ChannelOrder = "rgb"
    """Order of the channels in the model's input."""
    layout: Layout = "nchw"
    """Order of the axes of the model's input."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted from pixels scaled to 0..1: one value per channel in RGB order, or one for all."""
    std: tuple[float, ...] = (1.0,)
    """What the difference is divided by, in the same form as `mean`. 1/255 gives a model its pixels from 0 to 255."""
    output: str = ""
    """Name of the output that has a score per class. Empty: the model's only output."""
    outputs_of_classes: tuple[int, ...] | None = None
    """For each class of the data, the number of the model's output that stands for it. None: the same order."""
    told_by: dict[str, str] = {}
    """Field of this record -> where its value comes from, in words, such as "the file's metadata"."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True


class Inspected(Output):
    """What was found out about a given model before its images are prepared."""

    kind: Literal["inspected"] = "inspected"
    preparation: Preparation
    classes: tuple[str, ...] = ()
    """Where the images have no labels: the names of the model's classes, in the order of its outputs."""


class Labelled(Output):
    """What the original model makes of images without labels, in the place of labels."""

    kind: Literal["labelled"] = "labelled"
    labels: Artifact
    """npy, int64, (rows,): the class of each row of the source."""
    classes: tuple[str, ...]
    model: str
    """Label of the model (`Model.label`)."""


class Prepared(Output):
    """Decoded images: arrays with one row per image, all in the same order."""

    # The benchmark alone reads the names of images; its own key counts them.
    UNCOUNTED = frozenset({"tables", "names"})
    kind: Literal["prepared"] = "prepared"
    images: Artifact
    """npy, uint8, (rows, height, width, channels)."""
    labels: Artifact
    """npy, int64, (rows,)."""
    splits: Artifact
    """npy, uint8, (rows,): 0 train, 1 validation, 2 test (`tasks/datasets/_arrays.py` gives these names)."""
    names: Artifact | None = None
    """json, a list with the file name of each row, relative to data.path. None: the source has no file per image."""
    classes: tuple[str, ...]
    image_size: int
    """Height and width, in pixels."""
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    """Mean used for normalisation, per channel, of pixels scaled to 0..1: from the train split or from the settings."""
    std: tuple[float, ...]
    """Standard deviation used for normalisation, in the same form as `mean`."""
    train_rows: int
    validation_rows: int
    test_rows: int
    labelled_by: str | None = None
    """Label of the model whose predictions stand for labels. None: the images have labels of their own."""


class Variant(Record):
    """One model file with its lineage: weights, or a form made from weights."""

    kind: Literal["variant"] = "variant"
    name: str
    """Name, unique in a study, e.g. resnet34-w16/prune-0.25/onnx/u8s8."""
    model: str
    """Label of the model (`Model.label`)."""
    stage: str
    """The stage that made this variant."""
    parent: str | None = None
    """Name of the variant that it was made from."""
    format: str
    precision: Precision = "fp32"
    setting: str = ""
    """What tells this variant from others of the same parent and stage: the policy, the ratio or the int8 setting."""
    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulate operations for one image."""
    artifact: Artifact | None = None
    """The model file. None exactly where `status` is not "ok"."""
    status: Status = "ok"
    error: str | None = None
    """Why there is no model file. None exactly where `status` is "ok"."""
    benchmark: bool = False
    """Whether the benchmark measures this variant."""
    left_out_of: tuple[str, ...] = ()
    """Runtimes in which the benchmark does not measure it, because another form was chosen for them."""
    threads: int | None = None
    """Threads with which it is opened on a CPU. None: as many as the study has for each model."""
    options: tuple[str, ...] = ()
    """Options of its runtime with which it is opened, by the names in the runtime's file."""

    @model_validator(mode="after")
    def _whole(self) -> Variant:
        ok = self.status == "ok"
        if ok != (self.artifact is not None) or ok != (self.error is None):
            raise ValueError(f"{self.name}: an artifact exactly where ok, an error exactly where not")
        return self


class Trained(Output):
    """Trained weights, and how they were reached. `variant.artifact` is a safetensors file that models.load() opens."""

    UNCOUNTED = frozenset({"tables", "base"})
    kind: Literal["trained"] = "trained"
    variant: Variant
    train: Train
    """The settings that gave these weights."""
    validation_macro_f1: float | None
    """Macro F1 on the validation split. None where there are no validation images."""
    base: tuple[Variant, ...] = ()
    """Variants that were also trained and are recorded, but that no later stage uses, such as policies that lost."""


class Forms(Output):
    """Variants made from one or more parents (export, quantize, build)."""

    kind: Literal["forms"] = "forms"
    variants: tuple[Variant, ...]


class Scored(Record):
    """An int8 form as the search compares it with others."""

    kind: Literal["scored"] = "scored"
    setting: str
    look: float
    """Kullback-Leibler divergence from the fp32 parent on the few images of the first look, in nats."""
    divergence: float | None = None
    """The same on all validation images. None: it was not scored on them."""
    drop: float | None = None
    """How much validation top-1 it is taken to lose (tasks/forms/int8.py). None as for `divergence`."""
    latencies: dict[str, float] = {}
    """Runtime -> median latency of one image in milliseconds: its ratio to the fp32 parent, both measured by turns,
    times the parent's latency of `Quantized.fp32_latencies`."""


class Quantized(Forms):
    """Int8 forms of an fp32 ONNX form, with what the search compares its trials with."""

    kind: Literal["quantized"] = "quantized"  # type: ignore[assignment]
    scored: tuple[Scored, ...] = ()
    """The forms that were made, in the order of their settings."""
    fp32_latencies: dict[str, float] = {}
    """Runtime -> median latency of the fp32 form for one image, in milliseconds."""
    fp32_logits: Artifact | None = None
    """npy, float32, (validation images, classes)."""


class RankedBlock(Record):
    """A block of layers that may stay in floating point."""

    kind: Literal["ranked-block"] = "ranked-block"
    name: str
    nodes: tuple[str, ...]
    """Names of its nodes in the fp32 ONNX graph."""


class Ranked(Output):
    """The blocks of a model, the first being the one that gains most from floating point in a runtime."""

    kind: Literal["ranked"] = "ranked"
    runtime: str
    blocks: tuple[RankedBlock, ...]


class Tried(Output):
    """One trial of the search for forms."""

    kind: Literal["tried"] = "tried"
    number: int
    setting: str = ""
    """The int8 setting."""
    runtime: str = ""
    """The runtime by whose ranking blocks stay in floating point."""
    kept: int = 0
    """How many blocks stay in floating point."""
    ended: Literal["done", "worse", "slower", "failed", "nothing left"]
    """How it ended. worse: on a few images another form is more faithful and faster. slower: it is slower than fp32 in
    its runtime. nothing left: everything was tried before."""
    scored: Scored | None = None
    """None where it failed, or nothing was left to try."""
    variant: Variant | None = None
    """The form. None where it did not come to its scores on all validation images."""


class Measured(Output):
    """The result of the benchmark, which is its rows alone."""

    kind: Literal["measured"] = "measured"


class Result(Output):
    """The end of a study: the checked tables, and the winner with the reason."""

    kind: Literal["result"] = "result"
    winner: str | None
    """The winner's variant, runtime, device and batch size in words. None if no row qualifies."""
    reason: str
    """The sentences of `cautions`, then which candidate is the winner and why."""
    cautions: tuple[str, ...] = ()
    """The beginning of `reason`: why the accuracy rule says little in this study, one reason per entry."""
    sentences: tuple[str, ...] = ()
    """The rest of `reason`, a few sentences per entry."""
    files: dict[str, Artifact] = {}
    """Name of a file or folder in the run's folder -> artifact."""
    failures: tuple[str, ...] = ()
    """Expectations that were not met, with the rows concerned. `tables` holds the tables that met all of theirs."""


class Context(Record):
    """Where a run writes its files. It is never part of a cache key."""

    kind: Literal["context"] = "context"
    out: str
    """The artifacts folder."""
    run: str
    """The run's name."""
    again: tuple[StageName, ...] = ()
    """Stages that are computed again although their results are stored."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True

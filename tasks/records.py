"""The frozen records that cross task boundaries.

Two kinds: *settings* (`Study` and its parts: what a preset, a TOML file, the command line and the Prefect UI write) and
*results* (`Prepared`, `Trained`, `Variant`, ...: what a stage returns). Results name files by `Artifact`, never hold rows,
arrays or live models. Every record carries `kind`, so that two different steps with equal fields do not hash alike.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models import check

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Status = Literal["ok", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@cache
def plugins(folder: str) -> tuple[str, ...]:
    """Names of the plug-in files in `tasks/<folder>`: discovery is by file name, nothing is imported."""
    return tuple(sorted(p.stem for p in (Path(__file__).parent / folder).glob("*.py") if not p.stem.startswith("_")))


@cache
def formats(runtime: str) -> tuple[str, ...]:
    """Formats that a runtime executes: `FORMATS` of its file, read without importing it."""
    for node in ast.parse((Path(__file__).parent / "runtimes" / f"{runtime}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FORMATS":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError(f"tasks/runtimes/{runtime}.py has no FORMATS = (...)")


MAKES = {
    "onnx": "export.formats must contain 'onnx'",
    "torchscript": "export.formats must contain 'torchscript'",
    "engine": "build.precisions must not be empty",
}
"""What a study must have so that a format is made."""


def _known(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise ValueError(f"unknown {what} {value!r}; accepted: {', '.join(accepted)}")
    return value


class Record(BaseModel):
    """Base of all records: frozen, JSON in and out, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------------------------------- settings


class Data(Record):
    """Where images come from and how they are split."""

    kind: Literal["data"] = "data"
    source: str = "digits"
    """File name in tasks/datasets: digits, parquet, folder, cifar10, cifar100 or tiny_imagenet."""
    path: str = ""
    """File, folder, or hub data-set name (parquet). Where a torchvision set or zip is kept (cifar10, tiny_imagenet)."""
    image_size: Positive | None = None
    """Height and width in pixels to resize and centre-crop to; none: images keep their size and must agree on it."""
    resize: Positive | None = None
    """The shorter side before the crop (ImageNet's usual 256 for 224); none: image_size itself."""
    mean: tuple[Fraction, ...] | None = None
    """To normalise with, per channel or one for all, of pixels scaled to 0..1 (pretrained weights say theirs); none: the
    training images' own."""
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """As mean: the standard deviation."""
    train_limit: Positive | None = None
    """Keep at most this many training images (stratified, seeded)."""
    test_limit: Positive | None = None
    """Keep at most this many test images (stratified, seeded)."""
    validation_fraction: Fraction = 0.1
    """Part of the training images held out to choose by, where the source has no validation split."""
    test_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Part of all images held out for testing, where the source has no test split; 1: all, and nothing is trained."""
    on_bad: Literal["refuse", "drop"] = "refuse"
    """Undecodable images, null images and labels out of range: refuse the data set, or drop the rows and say which."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return _known(value, plugins("datasets"), "data source")

    @model_validator(mode="after")
    def _path(self) -> Data:
        if self.source in ("parquet", "folder", "tiny_imagenet") and not self.path:
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
    name: str = "lenet5"
    """Name of a function in models/, timm:NAME or torchvision:NAME."""
    width: Positive | None = None
    """Channels of the first stage, where the model can be scaled (resnet34: 64)."""
    upsample: Positive | None = None
    """Pixels to which the model enlarges its images on the device, in training as in every exported form; none: it takes
    them as they are stored."""
    pretrained: str | None = None
    """Weights to start from: hub (torchvision's or timm's own), a file (.safetensors, .pth, .pt, .bin) or package:NAME."""

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
        return f"{self.name}{width}{upsample}{'-pretrained' if self.pretrained else ''}"


class Train(Record):
    """How weights are trained."""

    kind: Literal["train"] = "train"
    epochs: Annotated[int, Field(ge=0)] = 30
    """Most epochs; training ends earlier when validation macro F1 has not risen for `patience` epochs. 0: pretrained
    weights go on as they are."""
    patience: Positive = 8
    batch_size: int | Literal["auto"] = 128
    """Images of a batch, over all processes; auto: the largest power of two that fits the GPU's memory, on a CPU the one
    after which images a second no longer rise."""
    accumulate: Positive = 1
    """Batches whose gradients are added up before a step."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd: with Nesterov momentum 0.9. muon: for convolutions and linear layers but the last one, the rest by adamw; its
    learning rate and weight decay are scaled to suit where adamw's do."""
    fused: bool = True
    """One kernel for the steps of all weights (sgd and adamw)."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Peak learning rate of the schedule."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps in which the learning rate rises from 0; none: 0.25 one_cycle, 0.05 cosine, 0 constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    ema: Fraction | None = None
    """Decay a step of the moving average of the weights, which is then what is evaluated and kept; none: no average."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """auto: bf16 where the device has instructions for it, else fp32; which one is recorded in `epochs`."""
    channels_last: bool = True
    compile: bool = False
    """torch.compile the model and the augmentation."""
    checkpointing: bool = False
    """Compute the activations of each block again in the backward pass: less memory, a third more work."""
    loading: Literal["auto", "device", "workers"] = "auto"
    """device: training images live on the device as uint8; workers: they are read batch by batch from the memory-mapped
    file, as are those of randaugment and trivialaugment in any case; auto: device where a quarter of its free memory holds
    them."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read batches; 0: the training process. none: 0 on a CPU, but for randaugment and trivialaugment;
    else all cores but one, at most 8, shared by `processes`."""
    pin_memory: bool = True
    """Batches for a GPU wait in page-locked memory, where they are read by workers."""
    processes: Positive = 1
    """Processes on this machine that train together through torchrun, each on its part of every batch and on its own GPU;
    on CPUs BatchNorm sees a process's part alone."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """One training per seed; the one best on validation goes on, all are recorded."""
    train_limit: Positive | None = None
    """Train on at most this many images."""
    augment: str = "none"
    """Augmentation policy; the augment stage sets it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu or cuda:N."""

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch_size(cls, value: object) -> object:
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
        if value == "auto" or (whole and value >= 1):  # type: ignore[operator]
            return value
        raise ValueError("expected auto or a whole number from 1")

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: str) -> str:
        return _known(value, POLICIES, "augmentation policy")

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        return _device_name(value, auto=True)

    @model_validator(mode="after")
    def _together(self) -> Train:
        if self.processes > 1 and self.device not in ("auto", "cpu"):
            raise ValueError(
                f"{self.processes} processes take a GPU each; device must be auto or cpu, not {self.device}"
            )
        if self.batch_size != "auto" and self.batch_size < self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is less than an image for each of {self.processes} processes"
            )
        if self.compile and self.checkpointing:
            raise ValueError("compile chooses itself what to compute again; set checkpointing or compile to false")
        return self


POLICIES = ("none", "crop_flip", "crop", "erasing", "randaugment", "trivialaugment", "mixup", "cutmix")


def _device_name(value: str, auto: bool = False) -> str:
    head, _, index = value.partition(":")
    if value == "cpu" or (auto and value == "auto") or (head == "cuda" and index.isdigit()):
        return value
    raise ValueError(f"unknown device {value!r}; accepted: {'auto, ' if auto else ''}cpu, cuda:0, cuda:1, ...")


class Range(Record):
    """An interval to tune over."""

    kind: Literal["range"] = "range"
    low: float
    high: float
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

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]


class Tune(Record):
    """Hyper-parameter search over `Train` fields by Optuna."""

    kind: Literal["tune"] = "tune"
    trials: Annotated[int, Field(ge=0)] = 8
    """0 leaves the stage out."""
    epochs: Positive = 5
    train_limit: Positive | None = None
    """Images a trial trains on; the best trial is retrained on all."""
    space: dict[str, Annotated[Range | Choice, Field(discriminator="kind")]] = {
        "learning_rate": Range(low=0.02, high=0.5, log=True),
        "weight_decay": Range(low=1e-5, high=5e-3, log=True),
        "label_smoothing": Choice(values=(0.0, 0.1)),
    }
    """Train field -> what it is chosen from."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("space")
    @classmethod
    def _space(cls, value: dict[str, Range | Choice]) -> dict[str, Range | Choice]:
        fixed = {"kind", "epochs", "patience", "seeds", "train_limit", "augment", "device", "loading", "workers",
                 "pin_memory", "processes"}  # fmt: skip
        accepted = tuple(name for name in Train.model_fields if name not in fixed)
        for name, over in value.items():
            _known(name, accepted, "Train field to tune")
            for edge in (over.low, over.high) if isinstance(over, Range) else over.values:
                try:
                    Train.model_validate({name: edge})
                except ValueError as error:
                    raise ValueError(f"{name} = {edge!r} is not a value of train.{name}") from error
        return value


class Ablate(Record):
    """Training techniques, each trained with alone, with all of them, and with none."""

    kind: Literal["ablate"] = "ablate"
    techniques: dict[str, dict[str, bool | int | float | str]] = {}
    """Name -> the fields of `train` that it sets; none at all leaves the stage out."""
    plain: dict[str, bool | int | float | str] = {}
    """Fields of `train` where no technique sets them, e.g. precision = "fp32"."""
    epochs: Positive = 3
    """Of each training; the first one's time, in which what compiles does so, is told apart."""
    train_limit: Positive | None = None
    """Images of each training."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _distinct(self) -> Ablate:
        set_by: dict[str, str] = {}
        for name, fields in self.techniques.items():
            if name in ("none", "all"):
                raise ValueError(f"techniques: {name!r} is the name of what is trained beside them")
            for field, value in fields.items():
                other = set_by.setdefault(field, name)
                if self.techniques[other][field] != value:
                    raise ValueError(f"techniques: {other} and {name} set {field} to different values, so they cannot be all "
                                     "together")  # fmt: skip
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What is trained; with a single technique it is all."""
        several = ("all",) if len(self.techniques) > 1 else ()
        return ("none", *self.techniques, *several) if self.techniques else ()

    def sets(self, technique: str) -> dict[str, bool | int | float | str]:
        """Fields of `train` that a technique sets."""
        if technique == "all":
            return {field: value for fields in self.techniques.values() for field, value in fields.items()}
        return self.techniques.get(technique, {})

    def train(self, base: Train, technique: str) -> Train:
        """How it is trained: for all epochs, as the others."""
        same = {"epochs": self.epochs, "patience": self.epochs, "seeds": self.seeds, "train_limit": self.train_limit}
        return Train.model_validate(base.model_dump() | self.plain | self.sets(technique) | same)


class Augment(Record):
    """Augmentation policies to try with the tuned settings."""

    kind: Literal["augment"] = "augment"
    policies: tuple[str, ...] = ("none", "crop_flip", "trivialaugment")
    """Empty leaves the stage out."""
    epochs: Positive | None = None
    """Epochs a policy; none: as train."""
    train_limit: Positive | None = None
    """Images a policy is tried on; the best one is retrained on all."""

    @field_validator("policies")
    @classmethod
    def _policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_known(v, POLICIES, "augmentation policy") for v in value))


class Prune(Record):
    """Structured channel pruning and fine-tuning."""

    kind: Literal["prune"] = "prune"
    ratios: tuple[Fraction, ...] = (0.25,)
    """Part of the channels taken out of each layer, a variant a ratio; empty leaves the stage out."""
    epochs: Positive = 5
    """Fine-tuning epochs."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    round_to: Positive = 8
    """Channels stay a multiple of this; otherwise the result gets slower."""


class Export(Record):
    """Portable forms of each trained model."""

    kind: Literal["export"] = "export"
    formats: Annotated[tuple[Literal["onnx", "torchscript"], ...], Field(min_length=1)] = ("onnx", "torchscript")
    opset: Annotated[int, Field(ge=18, le=24)] = 20
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest accepted difference of a logit from the PyTorch parent's, relative to the largest logit."""
    images: Positive = 64
    """Real images compared."""


class Quantize(Record):
    """Int8 forms of each ONNX file."""

    kind: Literal["quantize"] = "quantize"
    settings: tuple[str, ...] = ("u8s8-reduced", "u8s8", "s8s8")
    """Static int8 settings tried (tasks/quantize.py says what each is); empty and dynamic false leave the stage out."""
    dynamic: bool = True
    """Also the dynamic int8 form."""
    calibration_images: Positive = 256
    """Training images that the activations' ranges are taken from."""
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A setting may lose this much validation top-1; the fastest such one goes on to the benchmark."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_known(v, QUANTIZE_SETTINGS, "quantization setting") for v in value))


QUANTIZE_SETTINGS = ("u8s8", "u8s8-reduced", "u8s8-core", "u8s8-percentile", "s8s8")


class Build(Record):
    """TensorRT engines."""

    kind: Literal["build"] = "build"
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32", "fp16", "int8")
    """Empty leaves the stage out."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 8, 128)
    """The optimisation profile: engines take 1 to the largest of these images, and are optimised for the middle one."""
    workspace_mb: Positive = 1024


class Benchmark(Record):
    """What is measured and for how long."""

    kind: Literal["benchmark"] = "benchmark"
    runtimes: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "eager", "torchscript", "onnxruntime", "openvino", "tensorrt",
    )  # fmt: skip
    """File names in tasks/runtimes."""
    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    """cpu, cuda:N; auto: cpu and the first GPU if there is one."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4, 8, 16, 32)
    throughput: bool = True
    """Beside latency (one query in flight), also throughput: queries back to back, one in flight a core (a GPU: two)."""
    rounds: Positive = 3
    """Every candidate is visited once a round."""
    processes: Positive | None = None
    """Fresh processes a candidate, which its rounds are spread over; none: one a round."""
    warmup_seconds: Annotated[float, Field(ge=0.1)] = 0.5
    """Least warm-up; it goes on until two windows agree."""
    min_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Least time a visit measures."""
    min_queries: Positive = 64
    """Least queries a visit measures."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Time that all visits together may take; where it is short, each measures fewer queries."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads on a CPU, over all queries in flight; 0: one a core."""
    evaluation_batch: Positive = 100
    """Batch size of the accuracy measurement."""

    @field_validator("runtimes")
    @classmethod
    def _runtimes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_known(v, plugins("runtimes"), "runtime") for v in value))

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_device_name(v, auto=True) for v in value))

    @field_validator("batch_sizes")
    @classmethod
    def _batches(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))


class Serve(Record):
    """Scenarios of MLPerf's LoadGen for the winner: single stream, offline and server."""

    kind: Literal["serve"] = "serve"
    seconds: Annotated[float, Field(ge=0)] = 2.0
    """Least time a scenario, and each rate tried in the server scenario, lasts; 0 leaves the stage out."""
    limit_ms: Annotated[float, Field(gt=0)] | None = None
    """Server: latency that p99 must keep; none: ten times the median of the single stream."""
    trials: Positive = 6
    """Server: rates tried."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the arrivals."""


class Select(Record):
    """The rule by which the winner is found."""

    kind: Literal["select"] = "select"
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A winner may lose this much of the reference's accuracy (0.01: one point)."""
    metric: Literal["top1", "macro_f1"] = "top1"
    batch_size: Positive | None = None
    """Batch size that is compared; none: the smallest measured."""


class Study(Record):
    """One whole study: the preset, the TOML file, the command line's options and the Prefect form are this record."""

    kind: Literal["study"] = "study"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")] = "study"
    published: str = ""
    """Published study (file name in tasks/published) whose own table is shown with this one's figures beside it."""
    data: Data = Data()
    models: Annotated[tuple[Model, ...], Field(min_length=1)] = (Model(),)
    train: Train = Train()
    tune: Tune = Tune()
    ablate: Ablate = Ablate()
    augment: Augment = Augment()
    prune: Prune = Prune()
    export: Export = Export()
    quantize: Quantize = Quantize()
    build: Build = Build()
    benchmark: Benchmark = Benchmark()
    serve: Serve = Serve()
    select: Select = Select()

    @field_validator("published")
    @classmethod
    def _published(cls, value: str) -> str:
        return _known(value, ("", *plugins("published")), "published study")

    @model_validator(mode="after")
    def _chain(self) -> Study:
        labels = [m.label for m in self.models]
        if len(set(labels)) < len(labels):
            raise ValueError(f"models: each may stand once, got {', '.join(labels)}")
        for name in self.ablate.names:
            try:
                self.ablate.train(self.train, name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(("ablate", *(("techniques", name) if name not in ("none", "all") else ("plain",)),
                                  *map(str, first["loc"])))  # fmt: skip
                raise ValueError(f"{where}: {first['msg']}") from error
        if "eager" not in self.benchmark.runtimes:
            raise ValueError("benchmark.runtimes: must contain 'eager', which the reference is measured with")
        made = {"safetensors", *self.export.formats, *(("engine",) if self.build.precisions else ())}
        for runtime in self.benchmark.runtimes:
            if not made & set(formats(runtime)):
                form = formats(runtime)[0]
                raise ValueError(
                    f"benchmark.runtimes: {runtime} executes {form}; {MAKES.get(form, 'no stage makes it')}"
                )
        largest = max(*self.benchmark.batch_sizes, self.benchmark.evaluation_batch)
        engines = [name for name in self.benchmark.runtimes if "engine" in formats(name)]
        if engines and largest > max(self.build.batch_sizes):
            raise ValueError(f"build.batch_sizes: the largest is {max(self.build.batch_sizes)}, the benchmark asks engines "
                             f"for {largest} images (benchmark.batch_sizes, benchmark.evaluation_batch)")  # fmt: skip
        self._untrained()
        if "onnx" not in self.export.formats:
            if self.quantize.settings or self.quantize.dynamic:
                raise ValueError("quantize: int8 is made from ONNX; export.formats must contain 'onnx', or set "
                                 "quantize.settings = [] and quantize.dynamic = false")  # fmt: skip
            if self.build.precisions:
                raise ValueError("build: engines are made from ONNX; export.formats must contain 'onnx', or set "
                                 "build.precisions = []")  # fmt: skip
        if self.select.batch_size is not None and self.select.batch_size not in self.benchmark.batch_sizes:
            raise ValueError(f"select.batch_size: {self.select.batch_size} is not measured; benchmark.batch_sizes has "
                             f"{', '.join(map(str, self.benchmark.batch_sizes))}")  # fmt: skip
        return self

    def _untrained(self) -> None:
        """What cannot be where nothing is trained, or where no images are left to train with."""
        if self.train.epochs == 0:
            scratch = [m.label for m in self.models if m.pretrained is None]
            if scratch:
                raise ValueError(f"train.epochs: 0 is for pretrained models; {', '.join(scratch)} would stay untrained")
            if self.tune.trials or self.augment.policies:
                raise ValueError("train.epochs: 0 trains nothing; set tune.trials = 0 and augment.policies = []")
        if self.data.test_fraction == 1:
            if self.train.epochs or self.prune.ratios:
                raise ValueError("data.test_fraction: 1 leaves nothing to train with; set train.epochs = 0 and "
                                 "prune.ratios = []")  # fmt: skip
            if self.quantize.settings or self.quantize.dynamic:
                raise ValueError("data.test_fraction: 1 leaves nothing to calibrate int8 with or to choose it by; set "
                                 "quantize.settings = [] and quantize.dynamic = false")  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- results


class Artifact(Record):
    """A content-addressed file, or folder of files, in the store."""

    kind: Literal["artifact"] = "artifact"
    path: str
    """Relative to the store."""
    sha256: str
    size_bytes: int
    format: str
    """parquet, npy, safetensors, onnx, torchscript, engine, html, csv, folder."""
    precision: str = ""


class Output(Record):
    """What every stage returns at least: its rows, a Parquet fragment a table."""

    tables: dict[str, Artifact] = {}


class Prepared(Output):
    """Decoded images: arrays of one row an image, in one order."""

    kind: Literal["prepared"] = "prepared"
    images: Artifact
    """npy, uint8, (rows, height, width, channels)."""
    labels: Artifact
    """npy, int64, (rows,)."""
    splits: Artifact
    """npy, uint8, (rows,): 0 train, 1 validation, 2 test."""
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

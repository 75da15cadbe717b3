"""Settings of what is made of trained weights and measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tasks.records._base import (
    AUTO,
    MAKES,
    Batch,
    Batches,
    Difference,
    Epochs,
    Images,
    Mebibytes,
    Milliseconds,
    Minutes,
    Queries,
    Rate,
    Record,
    Seconds,
    Seed,
    SomeSeconds,
    Threads,
    Times,
    choices,
    formats,
    known,
    plugins,
)
from tasks.records._train import device_name

QUANTIZE_SETTINGS = ("u8s8", "u8s8-reduced", "u8s8-core", "u8s8-percentile", "s8s8")
QAT_SETTINGS = ("u8s8", "u8s8-reduced", "s8s8")
OF_A_STUDY = tuple(name for name in plugins("runtimes") if {"safetensors", *MAKES} & set(formats(name)))
"""Runtimes of which a study makes the files; others are for `burnish bench`."""


class Export(Record):
    """Portable forms of each trained model."""

    kind: Literal["export"] = "export"
    formats: Annotated[tuple[Literal["onnx", "torchscript"], ...], Field(min_length=1)] = ("onnx", "torchscript")
    opset: Annotated[int, Field(ge=18, le=24)] = 20
    tolerance: Difference = 1e-3
    """Largest accepted difference of a logit from the PyTorch parent's, relative to the largest logit."""
    images: Images = 64
    """Real images compared."""


class Quantize(Record):
    """Int8 forms of each ONNX file."""

    kind: Literal["quantize"] = "quantize"
    settings: tuple[Annotated[str, choices(*QUANTIZE_SETTINGS)], ...] = ("u8s8-reduced", "u8s8", "s8s8")
    """Static int8 settings tried (tasks/quantize.py says what each is); empty and dynamic false leave the stage out."""
    dynamic: bool = True
    """Also the dynamic int8 form."""
    calibration_images: Images = 256
    """Training images that the activations' ranges are taken from."""
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A setting may lose this much validation top-1; the fastest such one goes on to the benchmark."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, QUANTIZE_SETTINGS, "quantization setting") for v in value)


class Qat(Record):
    """Quantization-aware training: an int8 form of each model's weights, fine-tuned with the rounding in place."""

    kind: Literal["qat"] = "qat"
    epochs: Epochs = 0
    """Fine-tuning epochs, the best one on validation goes on; 0 leaves the stage out."""
    settings: Annotated[tuple[Annotated[str, choices(*QAT_SETTINGS)], ...], Field(min_length=1)] = ("u8s8-reduced",)
    """A training and a form each: u8s8-reduced (7-bit weights) for ONNX Runtime on any CPU, u8s8 for CPUs with VNNI or
    AMX, s8s8 (symmetric) for TensorRT, of which an engine is made too where build.precisions has int8."""
    learning_rate: Rate = 0.002
    """Peak learning rate, of SGD with Nesterov momentum; images, augmentation and all else as in training."""
    tolerance: Difference = 0.1
    """Largest accepted difference of a logit from the fake-quantized PyTorch parent's, relative to the largest
    logit."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, QAT_SETTINGS, "setting of quantization-aware training") for v in value)


class Build(Record):
    """TensorRT engines."""

    kind: Literal["build"] = "build"
    precisions: tuple[Literal["auto", "fp32", "fp16", "int8"], ...] = ("auto",)
    """An engine each. auto: all three where benchmark.runtimes has a runtime that executes engines (as its own auto has
    where there is a GPU), else none. Empty leaves the stage out."""
    batch_sizes: Batches = (1, 8, 128)
    """The optimisation profile: engines take 1 to the largest of these images, and are optimised for the middle one."""
    workspace_mb: Mebibytes | None = None
    """Memory that a layer may take to work in; unset: TensorRT's own, all there is (as trtexec)."""


class Benchmark(Record):
    """What is measured and for how long."""

    kind: Literal["benchmark"] = "benchmark"
    runtimes: Annotated[tuple[Annotated[str, choices(AUTO, *OF_A_STUDY)], ...], Field(min_length=1)] = (AUTO,)
    """File names in tasks/runtimes. auto: eager, torchscript, onnxruntime and openvino; where there is a GPU also
    tensorrt; where the CPU has bf16 instructions also torch_compile and openvino_bf16. The log and environment.json say
    which."""
    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    """cpu, cuda:N; auto: cpu and the first GPU if there is one."""
    batch_sizes: Batches = (1, 4, 8, 16, 32)
    throughput: bool = True
    """Beside latency (one query in flight), also throughput: queries back to back, one in flight a core (a GPU:
    two)."""
    rounds: Times = 3
    """Every candidate is visited once a round."""
    processes: Times | None = None
    """Fresh processes a candidate, which its rounds are spread over; none: one a round."""
    warmup_seconds: Annotated[float, Field(ge=0.1, le=604_800)] = 0.5
    """Least warm-up; it goes on until two windows agree."""
    min_seconds: SomeSeconds = 1.0
    """Least time a visit measures."""
    min_queries: Queries = 64
    """Least queries a visit measures."""
    minutes: Minutes | None = None
    """Time that all visits together may take; where it is short, each measures fewer queries."""
    threads: Threads = 0
    """Threads on a CPU, over all queries in flight; 0: one per core, within the affinity and a container's quota."""
    evaluation_batch: Batch = 100
    """Batch size of the accuracy measurement."""

    @field_validator("runtimes")
    @classmethod
    def _runtimes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, (AUTO, *plugins("runtimes")), "runtime") for v in value)

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(device_name(v, auto=True) for v in value)

    @field_validator("batch_sizes")
    @classmethod
    def _batches(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(value))


class Serve(Record):
    """Scenarios of MLPerf's LoadGen for the winner: single stream, offline and server."""

    kind: Literal["serve"] = "serve"
    seconds: Seconds = 2.0
    """Least time a scenario, and each rate tried in the server scenario, lasts; 0 leaves the stage out."""
    limit_ms: Milliseconds | None = None
    """Server: latency that p99 must keep; none: ten times the median of the single stream."""
    trials: Times = 6
    """Server: rates tried."""
    seed: Seed = 0
    """Of the arrivals."""


class Select(Record):
    """The rule by which the winner is found."""

    kind: Literal["select"] = "select"
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A winner may lose this much of the reference's accuracy (0.01: one point)."""
    metric: Literal["top1", "macro_f1"] = "top1"
    batch_size: Batch | None = None
    """Batch size that is compared; none: the smallest measured."""

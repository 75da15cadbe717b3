"""Settings of the forms that are made from trained weights, of their measurement, and of the winner."""

from __future__ import annotations

import logging
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


def _is_of_a_study(runtime: str) -> bool:
    """Return whether a study makes files that the runtime executes. A file that is no runtime is left out, and said."""
    try:
        return not {"safetensors", *MAKES}.isdisjoint(formats(runtime))
    except ValueError as error:
        logging.getLogger("burnish").warning("left out: %s", error)
        return False


OF_A_STUDY = tuple(name for name in plugins("runtimes") if _is_of_a_study(name))
"""Runtimes for which a study makes model files. The others are for `burnish bench` alone."""


class Export(Record):
    """Portable forms of each trained model."""

    kind: Literal["export"] = "export"
    formats: Annotated[tuple[Literal["onnx", "torchscript"], ...], Field(min_length=1)] = ("onnx", "torchscript")
    opset: Annotated[int, Field(ge=18, le=24)] = 20
    """Version of the ONNX operator set that files are written in."""
    tolerance: Difference = 1e-3
    """Largest accepted difference between a form's logits and those of its PyTorch parent, relative to the largest
    logit."""
    images: Images = 64
    """Number of validation images whose logits are compared (test images, where there are no others)."""


class Quantize(Record):
    """Int8 forms of each ONNX file."""

    kind: Literal["quantize"] = "quantize"
    settings: tuple[Annotated[str, choices(*QUANTIZE_SETTINGS)], ...] = ("u8s8-reduced", "u8s8", "s8s8")
    """Static int8 settings to try; tasks/quantize.py says what each one means. With an empty list and dynamic = false
    the stage is left out."""
    dynamic: bool = True
    """Whether to also make the dynamic int8 form, which computes the ranges of activations during each query."""
    calibration_images: Images = 256
    """Number of training images from which the ranges of activations are taken."""
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How much validation top-1 an int8 form may lose. The fastest form within this goes on to the benchmark."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, QUANTIZE_SETTINGS, "quantization setting") for v in value)


class Qat(Record):
    """Quantization-aware training: an int8 form of each model's weights, fine-tuned with the rounding in place."""

    kind: Literal["qat"] = "qat"
    epochs: Epochs = 0
    """Number of fine-tuning epochs, of which the best on validation is kept. 0 leaves the stage out."""
    settings: Annotated[tuple[Annotated[str, choices(*QAT_SETTINGS)], ...], Field(min_length=1)] = ("u8s8-reduced",)
    """One training and one int8 form per setting: u8s8-reduced (7-bit weights) for ONNX Runtime on any CPU, u8s8 for
    CPUs with VNNI or AMX, s8s8 (symmetric) for TensorRT, from which an engine is built where build.precisions has
    int8."""
    learning_rate: Rate = 0.002
    """Peak learning rate of SGD with Nesterov momentum. Everything else is as in training."""
    tolerance: Difference = 0.1
    """Largest accepted difference between a form's logits and those of its fake-quantized PyTorch parent, relative to
    the largest logit."""

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(v, QAT_SETTINGS, "setting of quantization-aware training") for v in value)


class Build(Record):
    """TensorRT engines."""

    kind: Literal["build"] = "build"
    precisions: tuple[Literal["auto", "fp32", "fp16", "int8"], ...] = ("auto",)
    """One engine per precision. auto: all three where benchmark.runtimes has a runtime that executes engines (its own
    auto has one where there is a GPU), else none. An empty list leaves the stage out."""
    batch_sizes: Batches = (1, 8, 128)
    """The optimisation profile: an engine takes any batch up to the largest of these sizes and is optimised for the
    middle one."""
    workspace_mb: Mebibytes | None = None
    """Memory in MiB that one layer may use as workspace. none: all the memory there is, as with trtexec."""


class Benchmark(Record):
    """What the benchmark measures, and for how long."""

    kind: Literal["benchmark"] = "benchmark"
    runtimes: Annotated[tuple[Annotated[str, choices(AUTO, *OF_A_STUDY)], ...], Field(min_length=1)] = (AUTO,)
    """Runtimes to measure in, each a file in tasks/runtimes. auto: eager, torchscript, onnxruntime and openvino, with
    tensorrt where there is a GPU, and torch_compile and openvino_bf16 where the CPU has bf16 instructions."""
    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    """Devices to measure on: cpu or cuda:N. auto: the CPU, and the first GPU where there is one."""
    batch_sizes: Batches = (1, 4, 8, 16, 32)
    """Batch sizes, in images per query, at which every candidate is measured."""
    throughput: bool = True
    """Whether to measure throughput beside latency: queries back to back, one in flight per core, or two on a GPU.
    Latency always has one query in flight."""
    rounds: Times = 3
    """Number of rounds. In each, every candidate is measured once per batch size."""
    processes: Times | None = None
    """Number of fresh processes per candidate, over which its rounds are spread. none: one process per round."""
    warmup_seconds: Annotated[float, Field(ge=0.1, le=604_800)] = 0.5
    """Shortest warm-up before a measurement. It goes on until the medians of two consecutive windows agree."""
    min_seconds: SomeSeconds = 1.0
    """Shortest time for which a candidate is measured per round and batch size."""
    min_queries: Queries = 64
    """Fewest queries for which a candidate is measured per round and batch size."""
    minutes: Minutes | None = None
    """Time that all measurements together may take. Where it is short, each has fewer queries. none: no limit."""
    threads: Threads = 0
    """Threads on a CPU, for all queries in flight together. 0: one per core that this process may use."""
    evaluation_batch: Batch = 100
    """Batch size with which the accuracy of each candidate is measured."""

    @field_validator("runtimes")
    @classmethod
    def _runtimes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # `burnish bench` takes all, and so does this record. What is said to be accepted is what a study takes.
        return tuple(v if v in plugins("runtimes") else known(v, (AUTO, *OF_A_STUDY), "runtime") for v in value)

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
    """Shortest time of each scenario, and of each rate that the server scenario tries. 0 leaves the stage out."""
    limit_ms: Milliseconds | None = None
    """Latency that 99 % of the server scenario's queries must keep. none: ten times the single stream's median."""
    trials: Times = 6
    """Number of rates that the server scenario tries."""
    seed: Seed = 0
    """Seed of the times at which the server scenario's queries arrive."""


class Select(Record):
    """The rule by which the winner is found."""

    kind: Literal["select"] = "select"
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How much less accurate than the reference the winner may be (0.01: one percentage point)."""
    metric: Literal["top1", "macro_f1"] = "top1"
    """Which measure of accuracy the rule compares."""
    batch_size: Batch | None = None
    """Batch size whose latencies are compared. none: the smallest one that is measured."""

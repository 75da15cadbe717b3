"""Int8 forms of an ONNX file by onnxruntime.quantization: each setting's arguments, writing a form, and scoring it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.datasets._pixels import normalise
from tasks.machine import cores
from tasks.measure import metrics
from tasks.records import Prepared
from tasks.runtimes import onnxruntime as runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.datasets._arrays import Arrays, Split
    from tasks.runtimes import Session


BATCH = 32
"""Images per batch in calibration and scoring."""
VALIDATION_IMAGES = 2000
"""Validation images at most that a form is scored on."""
LINEAR = ["MatMul", "Gemm"]
"""ONNX's operators of matrix products."""
DYNAMIC = ("dynamic", "dynamic-linear")
"""Settings of dynamic quantization: the ranges of activations are those of each batch at run time."""


def static_arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_static` for one of records.QUANTIZE_SETTINGS.

    All settings write quantize-dequantize (Q/DQ) operators, with int8 weights per channel.

    - u8s8: uint8 activations, with ranges from their smallest to their largest value, in every operator that has an
      int8 form. BatchNorm that could not be folded into a convolution (DenseNet's) has no such form, and stays fp32:
      quantized weights would only make it less accurate.
    - u8s8-reduced: 7-bit weights, because without VNNI the sums of 8-bit products saturate at 16 bits.
    - u8s8-core: only convolutions and matrix products.
    - u8s8-percentile: ranges that hold 99.99 % of the values (Wu et al. 2020, Integer quantization for deep learning).
    - s8s8: symmetric int8 activations and no quantized bias, which is the form that TensorRT parses.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    operators = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"BatchNormalization"})
    by_setting: dict[str, dict[str, Any]] = {
        "u8s8": {},
        "u8s8-reduced": {"reduce_range": True},
        "u8s8-core": {"op_types_to_quantize": ["Conv", *LINEAR]},
        "u8s8-percentile": {
            "calibrate_method": CalibrationMethod.Percentile,
            "extra_options": {"CalibPercentile": 99.99},
        },
        "s8s8": {
            "activation_type": QuantType.QInt8,
            "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        },
    }
    common = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": operators,
    }
    return common | by_setting[setting]


def dynamic_arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_dynamic`. The setting dynamic-linear leaves convolutions in fp32.

    ONNX Runtime's integer convolution is about three times as fast with unsigned weights as with signed ones.
    """
    from onnxruntime.quantization import QuantType

    return {
        "dynamic": {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["Conv", *LINEAR]},
        "dynamic-linear": {"weight_type": QuantType.QInt8, "reduce_range": True, "op_types_to_quantize": LINEAR},
    }[setting]


class Batches:
    """Normalised images of some rows, one batch at a time in memory.

    It has the methods of onnxruntime.quantization's CalibrationDataReader.
    """

    def __init__(self, data: Prepared, images: np.ndarray, rows: np.ndarray) -> None:
        self.data = data
        self.images = images
        self.rows = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        """The row numbers of each batch."""
        self.unread = iter(self.rows)
        """The batches that `get_next` has yet to return."""

    def __len__(self) -> int:
        return len(self.rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Make `get_next` return the batches of these numbers, without the last."""
        self.unread = iter(self.rows[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch under the name of the model's input, or None after the last one."""
        rows = next(self.unread, None)
        return None if rows is None else {"input": self.read(rows)}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised images of some rows: float32, (rows, channels, height, width)."""
        return normalise(self.images[rows], self.data.mean, self.data.std)


def sample(arrays: Arrays, split: Split, count: int) -> np.ndarray:
    """Return at most `count` row numbers of a split, ascending.

    Each class has a share of them in proportion to its rows, evenly spread over these.
    """
    rows = arrays.rows_of(split)
    by_class = rows[np.argsort(arrays.labels[rows], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)])


def _never(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization, which prints, and logs through the root logger.

    The root logger gets a handler for that time, because Python's logging gives it a lasting one where it has none.
    """
    from onnxruntime.quantization import calibrate

    root = logging.getLogger()
    nowhere = logging.NullHandler()
    root.addHandler(nowhere)
    # The filter drops only what is logged through the root logger itself, for which Prefect has a handler, too.
    root.addFilter(_never)
    # The name in the module is found before Python's built-in `print`.
    calibrate.print = lambda *words: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del calibrate.print  # type: ignore[attr-defined]
        root.removeHandler(nowhere)
        root.removeFilter(_never)


def write_int8(setting: str, fp32: Path, folder: Path, calibration: Batches) -> Path:
    """Write the int8 form of a file in one setting. `folder` is for all settings of that file.

    Raises
    ------
    ValueError
        If the graph has nothing that the setting quantizes.
    Exception
        Whatever onnxruntime.quantization raises.
    """
    from onnxruntime import quantization

    path = folder / f"{setting}.onnx"
    with _quiet():
        source = _preprocessed(fp32, folder)
        if setting in DYNAMIC:
            quantization.quantize_dynamic(source, path, **dynamic_arguments(setting))
        else:
            arguments = static_arguments(setting)
            # With a stride of one, ranges are merged batch by batch; by default, percentiles keep the activations of
            # all batches in memory.
            arguments["extra_options"] = {**arguments.get("extra_options", {}), "CalibStridedMinMax": 1}
            quantization.quantize_static(source, path, calibration, **arguments)
        _describe(path, fp32)
    return path


def _preprocessed(fp32: Path, folder: Path) -> Path:
    """Return the file as onnxruntime.quantization wants it, which the first setting writes."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "preprocessed.onnx"
    if path.exists():
        return path
    # Given a path, it would not find external weights. The exporter has inferred the shapes already. Symbolic inference
    # leaves a file in the current folder if it fails.
    quant_pre_process(onnx.load(fp32), path, skip_symbolic_shape=True)
    model = onnx.load(path)
    # The exporter also lists the shapes of weights, which are wrong once quantize_dynamic has transposed one.
    weights = {tensor.name for tensor in model.graph.initializer}
    activations = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(activations)
    onnx.save(model, path)
    return path


def _describe(path: Path, fp32: Path) -> None:
    """Copy the metadata of the fp32 file about classes and images into an int8 form, which must be quantized."""
    import onnx

    model = onnx.load(path)
    if not any("QuantizeLinear" in node.op_type for node in model.graph.node):
        raise ValueError("nothing was quantized: the graph has no operator that the setting quantizes")
    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | about)
    onnx.save(model, path)


@dataclass
class Form:
    """An int8 form, or its fp32 parent, as the CPU runs it."""

    setting: str
    """The name of the int8 setting, or fp32."""
    session: Session
    logits: np.ndarray
    """float32, (validation images, classes)."""
    top1: float
    """Share of the validation images, 0 to 1."""
    macro_f1: float
    latency_ms: float = 0.0
    """Latency of one image, which the search measures later."""


def score(setting: str, path: Path, batches: Batches, labels: np.ndarray) -> Form:
    """Open a form on the CPU and score it on labelled images; its session stays open."""
    session = runtime.open(path, "cpu", BATCH, cores())
    logits = np.concatenate([session.run(batches.read(rows)) for rows in batches.rows])
    predicted = metrics.predictions(logits)
    return Form(setting, session, logits, metrics.top1(logits, labels), metrics.macro_f1(labels, predicted))

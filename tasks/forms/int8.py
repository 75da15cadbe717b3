"""Int8 forms of an ONNX file by onnxruntime.quantization: what a setting passes to it, and the accuracy of a form."""

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
VALIDATION_IMAGES = 2000
"""Most validation images that a form is scored on."""
LINEAR = ["MatMul", "Gemm"]


def static_arguments(setting: str) -> dict[str, Any]:
    """Arguments of `quantize_static` for one of records.QUANTIZE_SETTINGS: Q/DQ, int8 weights per channel, and

    - u8s8: uint8 activations, ranges from smallest and largest value, every operator that has an int8 form; a batch
    norm
      that could not be folded into a convolution (DenseNet) has none, its weights would only lose accuracy
    - u8s8-reduced: 7-bit weights; without VNNI the sums of 8-bit products saturate at 16 bits
    - u8s8-core: convolutions and matrix products alone
    - u8s8-percentile: ranges that hold 99.99 % of the values (Wu et al. 2020, Integer quantization for deep learning)
    - s8s8: symmetric int8 activations and no quantized bias, the form that TensorRT parses
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    operators = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"BatchNormalization"})
    own: dict[str, dict[str, Any]] = {
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
    return common | own[setting]


def dynamic_arguments(setting: str) -> dict[str, Any]:
    """Arguments of `quantize_dynamic`: dynamic (convolutions too) or dynamic-linear (matrix products alone).

    ONNX Runtime's integer convolution is about three times as fast with unsigned weights as with signed ones.
    """
    from onnxruntime.quantization import QuantType

    return {
        "dynamic": {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["Conv", *LINEAR]},
        "dynamic-linear": {"weight_type": QuantType.QInt8, "reduce_range": True, "op_types_to_quantize": LINEAR},
    }[setting]


DYNAMIC = ("dynamic", "dynamic-linear")


class Batches:
    """Normalised images of some rows, one batch in memory; also a CalibrationDataReader of onnxruntime.quantization."""

    def __init__(self, data: Prepared, images: np.ndarray, rows: np.ndarray) -> None:
        self.data, self.images = data, images
        self.rows = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        self.waiting = iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let `get_next` give the batches of these numbers."""
        self.waiting = iter(self.rows[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Input name -> the next batch, or None."""
        return next(({"input": self.read(rows)} for rows in self.waiting), None)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width)."""
        return normalise(self.images[rows], self.data.mean, self.data.std)


def sample(arrays: Arrays, split: Split, count: int) -> np.ndarray:
    """Return at most `count` row numbers of a split, ascending.

    Each class has its share of them, evenly spread over the rows of the class.
    """
    rows = arrays.rows_of(split)
    by_class = rows[np.argsort(arrays.labels[rows], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)])


def _never(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization: it prints, and logs through the root logger, which gets a handler by that."""
    from onnxruntime.quantization import calibrate

    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    # of what is logged through it itself; Prefect gives it a handler, too
    root.addFilter(_never)
    calibrate.print = lambda *words: None  # type: ignore[attr-defined]  # a module's own `print` goes before the built-in
    try:
        yield
    finally:
        del calibrate.print  # type: ignore[attr-defined]
        root.removeHandler(nowhere)
        root.removeFilter(_never)


def _make(setting: str, fp32: Path, folder: Path, calibration: Batches) -> Path:
    """Write one int8 form of the pre-processed file in `folder` (made from `fp32` when it is first asked for)."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, path = folder / "preprocessed.onnx", folder / f"{setting}.onnx"
    if not source.exists():
        # The exporter has inferred the shapes; symbolic inference leaves a file in the current folder where it fails.
        quant_pre_process(fp32, source, skip_symbolic_shape=True)
        model = onnx.load(source)
        # The exporter also lists the shapes of weights; they are stale when quantize_dynamic has transposed one.
        weights = {tensor.name for tensor in model.graph.initializer}
        activations = [info for info in model.graph.value_info if info.name not in weights]
        del model.graph.value_info[:]
        model.graph.value_info.extend(activations)
        onnx.save(model, source)
    if setting in DYNAMIC:
        quantization.quantize_dynamic(source, path, **dynamic_arguments(setting))
    else:
        arguments = static_arguments(setting)
        # A stride of one: ranges are merged batch by batch. By default percentiles keep the activations of all batches.
        arguments["extra_options"] = {**arguments.get("extra_options", {}), "CalibStridedMinMax": 1}
        quantization.quantize_static(source, path, calibration, **arguments)
    model = onnx.load(path)
    if not any("QuantizeLinear" in node.op_type for node in model.graph.node):
        raise ValueError("nothing was quantized: the graph has no operator that the setting quantizes")
    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | about)
    onnx.save(model, path)
    return path


@dataclass
class Form:
    """A candidate of the search: the parent or an int8 form."""

    setting: str
    session: Session
    logits: np.ndarray
    top1: float
    macro_f1: float
    latency_ms: float = 0.0


def scored(setting: str, path: Path, batches: Batches, labels: np.ndarray) -> Form:
    """Open a form on the CPU and score it."""
    session = runtime.open(path, "cpu", BATCH, cores())
    logits = np.concatenate([session.run(batches.read(rows)) for rows in batches.rows])
    predicted = metrics.predictions(logits)
    return Form(setting, session, logits, metrics.top1(logits, labels), metrics.macro_f1(labels, predicted))

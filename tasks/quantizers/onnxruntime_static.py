"""Static int8 by ONNX Runtime: quantize-dequantize (Q/DQ) operators with ranges that are taken from training images.

Measured on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of the
latency of fp32: the u8s8 settings 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7. At 8×8, none is faster than fp32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tasks.quantizers import _onnxruntime
from tasks.quantizers._onnx import describe

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tasks.quantizers import Calibration

SETTINGS = ("u8s8", "u8s8-reduced", "u8s8-core", "u8s8-percentile", "s8s8")
FORMAT = "onnx"
DYNAMIC = False
LIBRARIES = ("onnx", "onnxruntime", "numpy")
BATCH = 32
"""Images per batch of the calibration."""
unavailable = _onnxruntime.unavailable


def arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_static` for one of `SETTINGS`.

    All settings have int8 weights per channel.

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
        "u8s8-core": {"op_types_to_quantize": ["Conv", *_onnxruntime.LINEAR]},
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


class Reader:
    """Batches of calibration images, with the methods of onnxruntime.quantization's CalibrationDataReader."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.unread = iter(range(len(self)))
        """Numbers of the batches that `get_next` has yet to return."""

    def __len__(self) -> int:
        return math.ceil(len(self.calibration) / BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Make `get_next` return the batches of these numbers, without the last."""
        self.unread = iter(range(start_index, min(end_index, len(self))))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch under the name of the model's input, or None after the last one."""
        number = next(self.unread, None)
        if number is None:
            return None
        return {"input": self.calibration.read(number * BATCH, min((number + 1) * BATCH, len(self.calibration)))}


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the static int8 form of a file; see `tasks.quantizers.Quantizer.quantize`."""
    from onnxruntime import quantization

    path = folder / f"{setting}.onnx"
    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(fp32, folder)
        options = arguments(setting)
        # With a stride of one, ranges are merged batch by batch; by default, percentiles keep the activations of all
        # batches in memory.
        options["extra_options"] = {**options.get("extra_options", {}), "CalibStridedMinMax": 1}
        quantization.quantize_static(source, path, Reader(calibration), **options)
    describe(path, fp32)
    return path

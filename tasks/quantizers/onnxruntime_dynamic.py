"""Dynamic int8 by ONNX Runtime: the ranges of activations are those of each batch at run time.

It needs no images to calibrate with. Measured on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34
at 32×32, batch 1), as multiples of the latency of fp32: dynamic int8 of convolutions 1.4 to 1.7 with unsigned weights
and 4 to 5 with signed ones, dynamic int8 of matrix products alone 1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.quantizers import _onnxruntime
from tasks.quantizers._onnx import describe

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.quantizers import Calibration

SETTINGS = ("dynamic", "dynamic-linear")
FORMAT = "onnx"
DYNAMIC = True
LIBRARIES = ("onnx", "onnxruntime", "numpy")
unavailable = _onnxruntime.unavailable


def arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_dynamic`. The setting dynamic-linear leaves convolutions in fp32.

    ONNX Runtime's integer convolution is about three times as fast with unsigned weights as with signed ones.
    """
    from onnxruntime.quantization import QuantType

    linear = _onnxruntime.LINEAR
    return {
        "dynamic": {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["Conv", *linear]},
        "dynamic-linear": {"weight_type": QuantType.QInt8, "reduce_range": True, "op_types_to_quantize": linear},
    }[setting]


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the dynamic int8 form of a file; see `tasks.quantizers.Quantizer.quantize`."""
    from onnxruntime import quantization

    path = folder / f"{setting}.onnx"
    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(fp32, folder)
        quantization.quantize_dynamic(source, path, **arguments(setting))
    describe(path, fp32)
    return path

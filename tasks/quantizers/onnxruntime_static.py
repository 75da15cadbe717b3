"""Static int8 by ONNX Runtime: quantize-dequantize (Q/DQ) operators with ranges that are taken from training images.

Measured on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of the
latency of fp32: the u8s8 settings 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7. At 8×8, none is faster than fp32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.quantizers import _bias, _equalise, _onnxruntime, _ranges, _sequential, _smooth
from tasks.quantizers._onnx import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from tasks.quantizers import Calibration

SETTINGS = (
    "u8s8",
    "u8s8-reduced",
    "u8s8-core",
    "u8s8-percentile",
    "u8s8-entropy",
    "u8s8-mse",
    "u8s8-mse-reduced",
    "u8s8-corrected",
    "u8s8-corrected-reduced",
    "u8s8-mse-corrected",
    "u8s8-mse-corrected-reduced",
    "u8s8-sequential",
    "u8s8-sequential-reduced",
    "u8s8-equalised",
    "u8s8-equalised-reduced",
    "u8s8-equalised-corrected",
    "u8s8-equalised-corrected-reduced",
    "u8s8-smooth15",
    "u8s8-smooth50",
    "u8s8-smooth95",
    "u8s8-smooth15-reduced",
    "u8s8-smooth50-reduced",
    "u8s8-smooth95-reduced",
    "u8s8-smooth50-corrected",
    "u8s8-smooth50-corrected-reduced",
    "s8s8",
    "s8s8-corrected",
)
FORMAT = "onnx"
DYNAMIC = False
LIBRARIES = ("onnx", "onnxruntime", "numpy")
unavailable = _onnxruntime.unavailable


def arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_static` for one of `SETTINGS`, whose name consists of words that - joins.

    All settings have int8 weights per channel.

    - u8s8: uint8 activations, with ranges from their smallest to their largest value, in every operator that has an
      int8 form. BatchNorm that could not be folded into a convolution (DenseNet's) has no such form, and stays fp32:
      quantized weights would only make it less accurate.
    - s8s8: symmetric int8 activations and no quantized bias, which is the form that TensorRT parses.
    - reduced: 7-bit weights, because without VNNI the sums of 8-bit products saturate at 16 bits.
    - core: only convolutions and matrix products.

    How ranges are found (`ranges_of`) and what is repaired is no argument of `quantize_static`:

    - percentile, entropy, mse: ranges that cut values off (_thresholds.py).
    - smooth15, smooth50, smooth95: outliers of a transformer's activations are moved into weights, with this alpha in
      percent (_smooth.py). equalised: the channels between convolutions are scaled to equal ranges (_equalise.py).
    - corrected, sequential: biases are corrected, each layer by itself (_bias.py) or one after the other
      (_sequential.py).
    """
    from onnxruntime.quantization import QuantType

    words = setting.split("-")
    options: dict[str, Any] = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": _core() if "core" in words else _operators(),
        "reduce_range": "reduced" in words,
    }
    if "s8s8" in words:
        options["activation_type"] = QuantType.QInt8
        options["extra_options"] = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    return options


def _core() -> list[str]:
    return ["Conv", *_onnxruntime.LINEAR]


def _operators() -> list[str]:
    """Return the types of the operators that have an int8 form."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry} - {"BatchNormalization"})


def ranges_of(setting: str) -> str | None:
    """Return how a setting's ranges are found: one of `_ranges.METHODS`, or None for the smallest and largest value."""
    return next((word for word in setting.split("-") if word in _ranges.METHODS), None)


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the static int8 form of a file; see `tasks.quantizers.Quantizer.quantize`."""
    from onnxruntime import quantization

    path = folder / f"{setting}.onnx"
    with _onnxruntime.quiet():
        source = _rewritten(setting, _onnxruntime.preprocessed(fp32, folder), calibration)
        ranges = _ranges.write_ranges(source, _operators(), calibration, ranges_of(setting))
        quantization.quantize_static(source, path, calibration_cache_path=ranges, **arguments(setting))
        _correct(setting, source, path, calibration)
    describe(path, fp32)
    return path


def _rewritten(setting: str, source: Path, calibration: Calibration) -> Path:
    """Return the fp32 graph as the setting rewrites it. It stands in a folder of its own, for all settings that do."""
    import onnx

    rewrites: dict[str, Callable[[ModelProto, ModelProto, Calibration], None]] = {"equalised": _equalise.equalise}
    for word, alpha in _smooth.ALPHAS.items():
        rewrites[word] = partial(_smooth.smooth, alpha=alpha)
    for word in (word for word in rewrites if word in setting.split("-")):
        path = source.parent / word / source.name
        if not path.exists():
            model = onnx.load(source)
            rewrites[word](model, onnx.load(source), calibration)
            path.parent.mkdir(exist_ok=True)
            onnx.save(model, path)
        source = path
    return source


def _correct(setting: str, source: Path, form: Path, calibration: Calibration) -> None:
    """Correct the biases of a form, where the setting says so."""
    import onnx

    words = setting.split("-")
    corrections = {"corrected": _bias.correct, "sequential": _sequential.correct}
    for word in corrections.keys() & set(words):
        model = onnx.load(form)
        corrections[word](onnx.load(source), model, calibration)
        onnx.save(model, form)

"""Static int8 by ONNX Runtime: quantize-dequantize (Q/DQ) operators with ranges that are taken from training images.

Measured on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of the
latency of fp32: the u8s8 settings 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7. At 8×8, none is faster than fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
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
REWRITES: dict[str, Callable[[ModelProto, ModelProto, Calibration], None]] = {
    "equalised": _equalise.equalise,
    **{word: partial(_smooth.smooth, alpha=alpha) for word, alpha in _smooth.ALPHAS.items()},
}
"""Word -> function that rewrites the fp32 graph, its first argument."""
CORRECTIONS: dict[str, Callable[[ModelProto, ModelProto, Calibration], None]] = {
    "corrected": _bias.correct,
    "sequential": _sequential.correct,
}
"""Word -> function that corrects the int8 form, its second argument."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a setting's name says."""

    base: str
    """u8s8 or s8s8."""
    ranges: str | None
    """How ranges are cut, one of `_ranges.METHODS`. None: they go from the smallest to the largest value."""
    rewrites: tuple[str, ...]
    """How the fp32 graph is rewritten before, of `REWRITES`."""
    correction: str | None
    """How biases are corrected, one of `CORRECTIONS`."""
    core: bool
    reduced: bool


def parse(setting: str) -> Words:
    """Return what a setting's name says: a base, and words behind it in any order, which - joins.

    All settings have int8 weights per channel.

    - u8s8: uint8 activations, in every operator that has an int8 form. BatchNorm that could not be folded into a layer
      (DenseNet's) has no such form, and stays fp32: quantized weights would only make it less accurate.
    - s8s8: symmetric int8 activations and no quantized bias, which is the form that TensorRT parses.
    - percentile, entropy, mse: ranges that cut values off (_thresholds.py).
    - equalised: the channels between convolutions are scaled to equal ranges (_equalise.py).
    - smooth15, smooth50, smooth95: outliers of a transformer's activations are moved into weights, with this alpha in
      percent (_smooth.py).
    - corrected, sequential: biases are corrected, each layer by itself (_bias.py) or one after the other
      (_sequential.py).
    - core: only convolutions and matrix products are quantized.
    - reduced: 7-bit weights, because without VNNI the sums of 8-bit products saturate at 16 bits.
    """
    base, *words = setting.split("-")
    known = {*_ranges.METHODS, *REWRITES, *CORRECTIONS, "core", "reduced"}
    if base not in ("u8s8", "s8s8") or not known.issuperset(words):
        raise ValueError(f"no setting is called {setting}: behind u8s8 or s8s8 stand {', '.join(sorted(known))}")
    return Words(
        base=base,
        ranges=next((word for word in words if word in _ranges.METHODS), None),
        rewrites=tuple(word for word in REWRITES if word in words),
        correction=next((word for word in words if word in CORRECTIONS), None),
        core="core" in words,
        reduced="reduced" in words,
    )


def arguments(setting: str) -> dict[str, Any]:
    """Return the arguments of `quantize_static` for a setting, without its ranges."""
    from onnxruntime.quantization import QuantType

    words = parse(setting)
    options: dict[str, Any] = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": _core() if words.core else _operators(),
        "reduce_range": words.reduced,
    }
    if words.base == "s8s8":
        options["activation_type"] = QuantType.QInt8
        options["extra_options"] = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    return options


def _core() -> list[str]:
    return ["Conv", *_onnxruntime.LINEAR]


def _operators() -> list[str]:
    """Return the types of the operators that have an int8 form."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry} - {"BatchNormalization"})


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the static int8 form of a file; see `tasks.quantizers.Quantizer.quantize`."""
    import onnx
    from onnxruntime import quantization

    words = parse(setting)
    path = folder / f"{setting}.onnx"
    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(fp32, folder)
        for word in words.rewrites:
            source = _rewritten(word, source, calibration)
        ranges = _ranges.write_ranges(source, _operators(), calibration, words.ranges)
        quantization.quantize_static(source, path, calibration_cache_path=ranges, **arguments(setting))
    if words.correction is not None:
        form = onnx.load(path)
        CORRECTIONS[words.correction](onnx.load(source), form, calibration)
        onnx.save(form, path)
    describe(path, fp32)
    return path


def _rewritten(word: str, source: Path, calibration: Calibration) -> Path:
    """Return the fp32 graph as a word rewrites it. It stands in a folder of its own, for all settings with the word."""
    import onnx

    path = source.parent / word / source.name
    if not path.exists():
        model = onnx.load(source)
        REWRITES[word](model, onnx.load(source), calibration)
        path.parent.mkdir(exist_ok=True)
        onnx.save(model, path)
    return path

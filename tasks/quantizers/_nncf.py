"""Shared by the quantizers on NNCF (Neural Network Compression Framework): its settings, and its silent import."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.quantizers import Calibration

LIBRARIES = ("nncf", "onnx", "onnxruntime", "openvino", "numpy")


def unavailable() -> str | None:
    """Return why NNCF cannot quantize here, or None where it can."""
    for module, name in (("nncf", "NNCF"), ("openvino", "OpenVINO")):
        if importlib.util.find_spec(module) is None:
            return f"{name} is not installed"
    return None


def library() -> Any:
    """Import NNCF without its telemetry, its messages and its progress bars, and return it."""
    # None in this place makes the import of the telemetry fail, and NNCF then has a stub instead. The variable does the
    # same where another library has imported the telemetry before.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("NNCF_CI", "1")
    logger_class = logging.getLoggerClass()
    # NNCF imports it with PyTorch, where it warns of a CUDA toolkit without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf
    from nncf.common.logging import track_progress

    # NNCF (3.4) makes its own class that of all later loggers.
    logging.setLoggerClass(logger_class)
    # NNCF (3.4) gives the level to the handlers of its logger, which are those of the root logger, too.
    levels = {handler: handler.level for handler in logging.getLogger().handlers}
    nncf.set_log_level(logging.ERROR)
    for handler, handler_level in levels.items():
        handler.setLevel(handler_level)
    for name in ("Progress", "WeightedProgress"):
        setattr(track_progress, name, _invisible(getattr(track_progress, name)))
    return nncf


def _invisible(progress: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a progress bar which nobody sees."""
    return lambda *columns, **options: progress(*columns, **{**options, "disable": True})


def arguments(setting: str, fp32: Path, calibration: Calibration, item: Callable[[int], Any]) -> dict[str, Any]:
    """Return the arguments of `nncf.quantize` for a setting, whose name consists of words that - joins.

    - mixed: activations have a zero point where their values have both signs. performance: they never have one.
    - sequential: the shift that quantizing causes is measured and corrected layer by layer, in the model that is
      quantized up to there. Otherwise each layer is corrected by itself, which is fast.

    A graph with attention is quantized as NNCF recommends for transformers: SmoothQuant moves outliers of activations
    into weights, and some operators stay in floating point.

    Parameters
    ----------
    item
        Number of a calibration image -> the input of the model that it makes, as the back end wants it. NNCF takes a
        range per item, so that an item is one image.
    """
    nncf = library()
    words = setting.split("-")
    preset = nncf.QuantizationPreset.PERFORMANCE if "performance" in words else nncf.QuantizationPreset.MIXED
    return {
        "calibration_dataset": nncf.Dataset(range(len(calibration)), item),
        "preset": preset,
        "subset_size": len(calibration),
        "fast_bias_correction": "sequential" not in words,
        "model_type": nncf.ModelType.TRANSFORMER if has_attention(fp32) else None,
    }


def has_attention(fp32: Path) -> bool:
    """Return whether an ONNX graph has attention: an operator of that name, or a product with a Softmax as its first
    factor."""
    import onnx

    nodes = onnx.load(fp32, load_external_data=False).graph.node
    weights = {node.output[0] for node in nodes if node.op_type == "Softmax"}
    return any(
        node.op_type.endswith("Attention") or (node.op_type == "MatMul" and node.input[0] in weights) for node in nodes
    )

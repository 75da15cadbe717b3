"""Static int8 by NNCF on an ONNX graph: quantize-dequantize (Q/DQ) operators, with corrected biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.quantizers import _nncf
from tasks.quantizers._onnx import describe

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tasks.quantizers import Calibration

SETTINGS = ("nncf-mixed", "nncf-mixed-sequential", "nncf-performance", "nncf-performance-sequential")
FORMAT = "onnx"
DYNAMIC = False
LIBRARIES = _nncf.LIBRARIES
unavailable = _nncf.unavailable


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the int8 form of a file; see `tasks.quantizers.Quantizer.quantize` and `_nncf.arguments`.

    Raises
    ------
    ValueError
        If a sequential setting meets a graph whose input several operators read, as in a transformer with a free batch
        size. NNCF (3.4) then cuts out models that have this input twice, which ONNX Runtime does not open.
    """
    import onnx

    model = onnx.load(fp32)
    if setting.endswith("-sequential") and sum("input" in node.input for node in model.graph.node) > 1:
        raise ValueError(
            "NNCF cannot correct biases layer by layer in an ONNX graph whose input several operators read; try "
            f"{setting.replace('nncf-', 'nncf-openvino-')}"
        )

    def item(number: int) -> dict[str, np.ndarray]:
        return {"input": calibration.read(number, number + 1)}

    arguments = _nncf.arguments(setting, fp32, calibration, item)
    path = folder / f"{setting}.onnx"
    onnx.save(_nncf.library().quantize(model, **arguments), path)
    describe(path, fp32)
    return path

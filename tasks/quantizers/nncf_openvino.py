"""Static int8 by NNCF on OpenVINO's graph, which only OpenVINO executes: a folder with model.xml and model.bin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.quantizers import _nncf
from tasks.quantizers._onnx import NOTHING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tasks.quantizers import Calibration

SETTINGS = (
    "nncf-openvino-mixed",
    "nncf-openvino-mixed-sequential",
    "nncf-openvino-performance",
    "nncf-openvino-performance-sequential",
)
FORMAT = "openvino"
DYNAMIC = False
LIBRARIES = _nncf.LIBRARIES
unavailable = _nncf.unavailable


def quantize(setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
    """Write the int8 form of a file; see `tasks.quantizers.Quantizer.quantize` and `_nncf.arguments`."""

    def item(number: int) -> np.ndarray:
        return calibration.read(number, number + 1)

    nncf = _nncf.library()
    import openvino

    arguments = _nncf.arguments(setting, fp32, calibration, item)
    # In a model that `read_model` returns, NNCF (3.4) silently corrects no bias, because it does not see that what is
    # added is constant. `convert_model` folds constants.
    model = nncf.quantize(openvino.convert_model(fp32), **arguments)
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise ValueError(NOTHING)
    path = folder / setting
    path.mkdir()
    # By default, what stays in floating point would be stored in fp16.
    openvino.save_model(model, path / "model.xml", compress_to_fp16=False)
    return path

"""Make all forms of one peer: `python -m compare.quantize PEER MODEL IMAGES FOLDER`, in the peers' environment.

IMAGES is an npy file with the calibration images: float32, (images, channels, height, width). Each form gets a folder
of its own in FOLDER, and FOLDER/forms.json says what became of each. A form that an earlier call has made in FOLDER is
not made again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("nncf", "olive-ai", "onnx", "onnxruntime", "openvino", "torch", "numpy")


def main(peer: str, model: Path, images: np.ndarray, folder: Path) -> None:
    """Quantize the model in every way of the peer. A form that fails is an entry with its error."""
    # None in this place makes the import of OpenVINO's telemetry fail, with which OpenVINO and NNCF cope.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    forms = importlib.import_module(f"compare.peers.{peer}").FORMS
    made = [_make(name, quantize, model, images, folder / name) for name, quantize in forms.items()]
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    (folder / "forms.json").write_text(json.dumps({"forms": made, "versions": versions}), encoding="utf-8")


def _make(name: str, quantize: Any, model: Path, images: np.ndarray, folder: Path) -> dict[str, Any]:
    """Make one form, or find it made; return its name, its settings in words, and its file or the error."""
    record = folder / "form.json"
    if record.exists():
        form: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return form
    # What an interrupted call has left is of no use.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    started = time.perf_counter()
    path, error = None, None
    try:
        path = str(quantize(model, images, folder))
    except Exception as failure:
        # A quantizer raises whatever it likes. The others are still tried, and the table says what went wrong.
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    seconds = time.perf_counter() - started
    form = {"name": name, "settings": quantize.__doc__, "path": path, "error": error, "seconds": seconds}
    # A form that failed is tried again by the next call, because the reason may have passed.
    if error is None:
        unfinished = folder / "form.json.new"
        unfinished.write_text(json.dumps(form), encoding="utf-8")
        unfinished.replace(record)
    return form


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3]), Path(sys.argv[4]))

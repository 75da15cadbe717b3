"""Shared by the quantizers that use onnxruntime.quantization: its preparation of a file, and its silence."""

from __future__ import annotations

import importlib.util
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINEAR = ["MatMul", "Gemm"]
"""ONNX's operators of matrix products."""


def unavailable() -> str | None:
    """Return why ONNX Runtime cannot quantize here, or None where it can."""
    return None if importlib.util.find_spec("onnxruntime") else "ONNX Runtime is not installed"


def _never(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def quiet() -> Iterator[None]:
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


def preprocessed(fp32: Path, folder: Path) -> Path:
    """Return the file as onnxruntime.quantization wants it, which the first setting writes into the shared folder."""
    import onnx
    from onnx import external_data_helper
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "preprocessed.onnx"
    if path.exists():
        return path
    model = onnx.load(fp32, load_external_data=False)
    if any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        # It would look for external weights in a folder of its own.
        whole = folder / "whole.onnx"
        onnx.save(onnx.load(fp32), whole)
        fp32 = whole
    # The exporter has inferred the shapes already. Symbolic inference leaves a file in the current folder if it fails.
    quant_pre_process(fp32, path, skip_symbolic_shape=True)
    model = onnx.load(path)
    # The exporter also lists the shapes of weights, which are wrong once quantize_dynamic has transposed one.
    weights = {tensor.name for tensor in model.graph.initializer}
    activations = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(activations)
    onnx.save(model, path)
    return path

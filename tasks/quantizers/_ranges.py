"""Shared by the quantizers on ONNX Runtime: the ranges of a graph's tensors on the calibration images.

The smallest and largest values are found in one pass over the images, histograms in a second one, and both are kept in
files beside the graph. So every setting that needs them again has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers import _thresholds
from tasks.quantizers._activations import Reduction, batches, open_session, reduce

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from tasks.quantizers import Calibration

METHODS = {
    "percentile": _thresholds.percentile,
    "entropy": _thresholds.entropy,
    "mse": _thresholds.squared_error,
}
"""Word of a setting's name -> function that finds the threshold of a histogram."""
HISTOGRAM_BATCH = 4
"""Images per query while histograms are made. All activations of one query are in memory together."""
LARGE = 2**17
"""Tensors with more values than this per image are large: some of their values are enough for a histogram."""
STEP = 11
"""Of a large tensor each eleventh value is counted. Heights and widths are rarely multiples of eleven, so that these
values come from everywhere in an image."""
Ranges = dict[str, tuple[np.float32, np.float32]]
"""Tensor -> its smallest and its largest value."""


def write_ranges(graph: Path, operators: list[str], calibration: Calibration, method: str | None) -> Path:
    """Write the ranges of the tensors around some operators, and return the file.

    It is the cache that `onnxruntime.quantization.quantize_static` reads in place of calibrating. Where it exists, it
    is not written again.

    Parameters
    ----------
    graph : an ONNX file; what is found out about it is kept in files beside it
    operators : types of operators, whose inputs and outputs have ranges
    method : one of `METHODS`; None takes ranges from the smallest to the largest value
    """
    from onnxruntime.quantization import calibrate

    path = graph.with_name(f"ranges-{method or 'minmax'}.json")
    if path.exists():
        return path
    ranges = smallest_and_largest(graph, operators, calibration)
    if method is not None:
        ranges = _cut(ranges, histograms(graph, ranges, calibration), method)
    data = {
        name: calibrate.TensorData(lowest=np.asarray(low, np.float32), highest=np.asarray(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data), path)
    return path


def smallest_and_largest(graph: Path, operators: list[str], calibration: Calibration) -> Ranges:
    """Return the smallest and the largest value of each tensor around some operators."""
    import onnx

    path = graph.with_name("smallest-and-largest.npz")
    if not path.exists():
        model = onnx.load(graph)
        tensors = activations(model, operators)
        if not tensors:
            return {}
        reductions = [Reduction(operator, name) for name in tensors for operator in ("ReduceMin", "ReduceMax")]
        values = [[found[key] for key in reductions] for _, found in reduce(model, reductions, calibration)]
        lowest = np.fmin.reduce(np.array(values)[:, ::2])
        highest = np.fmax.reduce(np.array(values)[:, 1::2])
        np.savez(path, names=np.array(tensors, np.str_), lowest=lowest, highest=highest)
    with np.load(path) as kept:
        return dict(zip(kept["names"].tolist(), zip(kept["lowest"], kept["highest"], strict=True), strict=True))


def activations(model: ModelProto, operators: list[str]) -> list[str]:
    """Return the tensors of floating-point numbers that some operators read and make, constants left out."""
    import onnx

    graph = model.graph
    infos = (*graph.value_info, *graph.input, *graph.output)
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    floats -= {tensor.name for tensor in graph.initializer}
    around = [name for node in graph.node if node.op_type in operators for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(around) if name in floats]


def histograms(graph: Path, ranges: Ranges, calibration: Calibration) -> dict[str, np.ndarray]:
    """Return the histogram of each tensor whose own range ONNX Runtime uses: int64, (2 * BINS,).

    It spans as much on either side of zero as the largest absolute value.
    """
    import onnx

    path = graph.with_name("histograms.npz")
    if not path.exists():
        model = onnx.load(graph)
        limits = {name: float(max(abs(low), abs(high))) for name, (low, high) in ranges.items()}
        names = [name for name in ranges if limits[name] > 0 and name not in _before_clipping(model)]
        counts = _count(model, {name: limits[name] for name in names}, calibration)
        np.savez(path, names=np.array(names, np.str_), counts=counts)
    with np.load(path) as kept:
        return dict(zip(kept["names"].tolist(), kept["counts"], strict=True))


def _before_clipping(model: ModelProto) -> set[str]:
    """Return the tensors that a ReLU or Clip alone reads. They get the range of its output, and it is left out."""
    readers: dict[str, list[str]] = {output.name: ["output"] for output in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return {name for name, types in readers.items() if types in (["Relu"], ["Clip"])}


def _count(model: ModelProto, limits: dict[str, float], calibration: Calibration) -> np.ndarray:
    """Return the histograms of tensors, whose largest absolute values are given: int64, (tensors, 2 * BINS)."""
    import onnx

    bins = 2 * _thresholds.BINS
    existing = {output.name for output in model.graph.output}
    for name in limits:
        if name not in existing:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(model)
    counts = np.zeros((len(limits), bins), np.int64)
    for images in batches(calibration, HISTOGRAM_BATCH):
        # A model's input cannot be fetched from the session, and asking for nothing fetches all outputs.
        computed = [name for name in limits if name != "input"]
        tensors = {"input": images}
        if computed:
            tensors |= zip(computed, session.run(computed, {"input": images}), strict=True)
        for number, (name, limit) in enumerate(limits.items()):
            values = tensors.pop(name).ravel()
            values = values[:: STEP if len(values) > LARGE * len(images) else 1]
            places = values * np.float32(_thresholds.BINS / limit) + np.float32(_thresholds.BINS)
            counts[number] += np.bincount(np.clip(places, 0, bins - 1).astype(np.intp), minlength=bins)
    return counts


def _cut(ranges: Ranges, counts: dict[str, np.ndarray], method: str) -> Ranges:
    """Return the ranges, each cut at the threshold that a method finds in the histogram of the tensor's values."""
    cut = dict(ranges)
    for name, histogram in counts.items():
        low, high = ranges[name]
        threshold = METHODS[method](histogram) / _thresholds.BINS * max(abs(low), abs(high))
        cut[name] = (np.float32(max(low, -threshold)), np.float32(min(high, threshold)))
    return cut

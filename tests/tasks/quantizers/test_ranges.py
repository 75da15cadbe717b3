"""Ranges of activations: one pass over the images serves all settings, and the forms equal `quantize_static`'s."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from tasks.quantizers import _activations, _onnxruntime, _ranges, _thresholds, onnxruntime_static
from tests.tasks.quantizers.graphs import Images, model_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.quantizers.conftest import Original


class Reader:
    """All calibration images as one batch, as onnxruntime.quantization wants them."""

    def __init__(self, original: Original) -> None:
        self.batches = iter([{"input": original.training.read(0, len(original.training))}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantized_by_library(setting: str, original: Original, folder: Path) -> onnx.ModelProto:
    """Return what `quantize_static` writes when it calibrates by itself."""
    from onnxruntime import quantization

    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(original.file, folder)
        arguments = onnxruntime_static.arguments(setting)
        quantization.quantize_static(source, folder / "library.onnx", Reader(original), **arguments)
    return onnx.load(folder / "library.onnx")


def nodes(model: onnx.ModelProto) -> list[tuple]:
    """Return what each node is and what it is connected with, in the order of the graph."""
    return [(node.op_type, node.name, tuple(node.input), tuple(node.output)) for node in model.graph.node]


@pytest.mark.parametrize("setting", ["u8s8", "u8s8-reduced", "u8s8-core", "s8s8"])
def test_a_form_has_the_nodes_and_the_scales_of_the_one_that_the_library_calibrates_itself(
    setting: str, original: Original, tmp_path: Path
) -> None:
    (tmp_path / "library").mkdir()
    expected = quantized_by_library(setting, original, tmp_path / "library")
    form = onnx.load(onnxruntime_static.quantize(setting, original.file, tmp_path, original.training))
    assert nodes(form) == nodes(expected)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in form.graph.initializer}
    assert len(values) == len(expected.graph.initializer)
    for tensor in expected.graph.initializer:
        np.testing.assert_allclose(values[tensor.name], onnx.numpy_helper.to_array(tensor), rtol=1e-6)


@pytest.mark.parametrize("original", ["convolutional"], indirect=True)
def test_images_are_read_once_for_all_ranges_of_a_method_and_once_more_for_histograms(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    read = type(original.training).read

    def count(self: object, start: int, stop: int) -> np.ndarray:
        batches.append(stop - start)
        return read(original.training, start, stop)

    monkeypatch.setattr(type(original.training), "read", count)
    for setting in ("u8s8", "u8s8-reduced", "u8s8-core", "s8s8"):
        onnxruntime_static.quantize(setting, original.file, tmp_path, original.training)
    assert sum(batches) == len(original.training) and max(batches) <= _activations.BATCH
    batches.clear()
    for setting in ("u8s8-percentile", "u8s8-entropy", "u8s8-mse", "u8s8-mse-reduced"):
        onnxruntime_static.quantize(setting, original.file, tmp_path, original.training)
    assert sum(batches) == len(original.training) and max(batches) <= _ranges.HISTOGRAM_BATCH


@pytest.mark.parametrize("original", ["convolutional"], indirect=True)
def test_histograms_count_each_value_once(original: Original, tmp_path: Path) -> None:
    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(original.file, tmp_path)
    ranges = _ranges.smallest_and_largest(source, ["Conv", "Clip"], original.training)
    counts = _ranges.histograms(source, ranges, original.training)
    images = original.training.read(0, len(original.training))
    assert set(counts) < set(ranges), "what a Clip alone reads gets the range of its output"
    limit = float(max(map(abs, ranges["input"])))
    expected, _ = np.histogram(images, 2 * _thresholds.BINS, (-limit, limit))
    # Values at the very edge of a bin may be counted in the next one.
    assert counts["input"].sum() == images.size and abs(counts["input"] - expected).sum() <= images.size / 1000
    for name in counts:
        assert counts[name].sum() % len(original.training) == 0


def test_a_graph_without_an_operator_that_has_an_int8_form_is_refused(tmp_path: Path) -> None:
    fp32 = model_file(
        "a = Exp (input) logits = ReduceMean <keepdims = 0> (a, axes)", {"axes": np.array([2, 3])}, tmp_path
    )
    with pytest.raises(ValueError, match="nothing was quantized"):
        onnxruntime_static.quantize("u8s8-mse", fp32, tmp_path, Images(np.ones((2, 3, 8, 8), np.float32)))


def test_a_part_of_a_large_tensors_values_gives_nearly_the_same_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = model_file("a = LeakyRelu (input) b = Relu (input) c = Add (a, b) logits = Flatten (c)", {}, tmp_path)
    pixels = np.random.default_rng(0).laplace(size=(1000, 3, 8, 8)).astype(np.float32)
    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(fp32, tmp_path)
    calibration = Images(pixels)
    ranges = _ranges.smallest_and_largest(source, ["Add", "Relu"], calibration)
    whole = _ranges.histograms(source, ranges, calibration)
    (tmp_path / "histograms.npz").unlink()
    monkeypatch.setattr(_ranges, "LARGE", 1)
    part = _ranges.histograms(source, ranges, calibration)
    for name in ("input", "b", "c"):
        assert part[name].sum() < whole[name].sum() / 10
        shares = [_thresholds.squared_error(counts[name]) / _thresholds.BINS for counts in (part, whole)]
        assert abs(shares[0] - shares[1]) < 0.1, f"{name}: {shares}"


def test_ranges_by_percentile_differ_from_the_librarys_by_less_than_a_bin(original: Original, tmp_path: Path) -> None:
    from onnxruntime.quantization import calibrate

    with _onnxruntime.quiet():
        source = _onnxruntime.preprocessed(original.file, tmp_path)
        shutil.copy(source, tmp_path / "library.onnx")
        operators = onnxruntime_static.arguments("u8s8")["op_types_to_quantize"]
        options = {"percentile": _thresholds.PERCENTILE}
        method = calibrate.CalibrationMethod.Percentile
        calibrator = calibrate.create_calibrator(
            tmp_path / "library.onnx", operators, str(tmp_path / "augmented.onnx"), method, extra_options=options
        )
        calibrator.collect_data(Reader(original))
        expected = calibrator.compute_data()
        path = _ranges.write_ranges(source, operators, original.training, "percentile")
    found = calibrate.load_tensors_data(path)
    extremes = _ranges.smallest_and_largest(source, operators, original.training)
    counted = _ranges.histograms(source, extremes, original.training)
    assert counted
    for name in counted:
        bin_width = max(map(abs, extremes[name])) / _thresholds.BINS
        for ours, theirs in zip(found[name].range_value, expected[name].range_value, strict=True):
            assert abs(ours - theirs) <= 2 * bin_width, name


def histogram(values: np.ndarray) -> np.ndarray:
    limit = abs(values).max()
    return np.histogram(values, 2 * _thresholds.BINS, (-limit, limit))[0]


@pytest.mark.parametrize(("method", "most"), [("percentile", 7), ("entropy", 7), ("mse", 45)])
def test_an_outlier_is_cut_off(method: str, most: float) -> None:
    """The squared error of one cut value is large: 38 is the best compromise between rounding and cutting."""
    values = np.random.default_rng(0).normal(size=400_000)
    values[0] = 60
    threshold = _ranges.METHODS[method](histogram(values)) * 60 / _thresholds.BINS
    assert 2.5 < threshold < most, f"{method} cuts at {threshold}"


@pytest.mark.parametrize("method", _ranges.METHODS)
def test_evenly_spread_values_keep_their_range(method: str) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert _ranges.METHODS[method](histogram(values)) >= 0.97 * _thresholds.BINS


def test_the_threshold_by_squared_error_has_the_smallest_one() -> None:
    values = np.random.default_rng(0).laplace(size=200_000)
    limit = abs(values).max()

    def error(threshold: float) -> float:
        step = 2 * threshold / 255
        return float(((np.clip(np.rint(values / step), -128, 127) * step - values) ** 2).mean())

    found = _thresholds.squared_error(histogram(values)) * limit / _thresholds.BINS
    best = min(map(error, np.linspace(0.1, 1, 50) * limit))
    assert error(found) < 1.05 * best < 0.8 * error(limit)

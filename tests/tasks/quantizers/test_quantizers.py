"""The contract of all quantizers: each setting gives an int8 form that its runtimes execute much as the original."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from tasks import quantizers, runtimes
from tasks.forms.int8 import score
from tasks.quantizers import onnxruntime_static
from tasks.records import Quantize, formats, plugins
from tasks.records import quantizers as names_of_quantizers
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.quantizers.conftest import Original

UNFIT = ("nncf-mixed-sequential", "nncf-performance-sequential")
"""Settings that refuse the transformer, because several operators read its input."""
NOTHING_TO_DO = {"equalised": True, "smooth15": False, "smooth50": False, "smooth95": False}
"""Word of a setting that has nothing to repair in the transformer (True) or in the convolutional network (False)."""
TRIED = [name for name in names_of_quantizers() if name == "u8s8-reduced" or not name.endswith("-reduced")]
"""Settings that are tried. The others are one of these with 7-bit weights."""
INT8 = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def runtimes_of(file_format: str) -> list[str]:
    """Return the runtimes that execute a format on this CPU, in fp32 where it is not quantized.

    OpenVINO (2026.4) in bf16 compiles some forms not at all: "No suitable implementations".
    """
    names = [name for name in plugins("runtimes") if file_format in formats(name) and not name.endswith("bf16")]
    return [name for name in names if runtimes.load(name).unavailable("cpu") is None]


def matrices_in_int8(file: Path) -> int:
    """Return how many tensors of weights, biases left out, a file holds in int8."""
    if file.suffix == ".xml":
        constants = [layer.find("data") for layer in ElementTree.parse(file).iter("layer")]
        of_int8 = [data for data in constants if data is not None and data.get("element_type") in ("i8", "u8")]
        return sum((data.get("shape") or "").count(",") > 0 for data in of_int8)
    tensors = onnx.load(file).graph.initializer
    return sum(tensor.data_type in INT8 and len(tensor.dims) > 1 for tensor in tensors)


@pytest.fixture(scope="session")
def folder(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all settings of a classifier share."""
    return tmp_path_factory.mktemp("forms")


@pytest.mark.parametrize("setting", TRIED)
def test_a_form_is_int8_and_classifies_in_each_runtime_as_the_original_does(
    setting: str, original: Original, folder: Path, record_property: pytest.RecordProperty
) -> None:
    quantizer = quantizers.load(names_of_quantizers()[setting])
    if (reason := quantizer.unavailable()) is not None:
        pytest.skip(reason)
    if setting in UNFIT and original.transformer:
        with pytest.raises(ValueError, match=f"try nncf-openvino-{setting.removeprefix('nncf-')}$"):
            quantizer.quantize(setting, original.file, folder, original.training)
        return
    if original.transformer in [NOTHING_TO_DO[word] for word in setting.split("-") if word in NOTHING_TO_DO]:
        with pytest.raises(quantizers.NothingToDoError, match=r"^nothing to (equalise|smooth): "):
            quantizer.quantize(setting, original.file, folder, original.training)
        return
    path = quantizer.quantize(setting, original.file, folder, original.training)
    assert path.parent == folder and path.name.startswith(setting)
    assert matrices_in_int8(model_file(path)) >= 1
    inputs = original.held_out.read(0, len(original.held_out))
    names = runtimes_of(quantizer.FORMAT)
    assert names
    for name in names:
        session = runtimes.load(name).open(path, "cpu", 32, 1)
        logits = np.concatenate([session.run(inputs[start : start + 32]) for start in range(0, len(inputs), 32)])
        session.close()
        scores = score(original.logits, logits, original.labels)
        record_property(f"agreement of {setting} in {name}", scores.agreement)
        assert scores.agreement >= 0.95, f"{name}: {scores}"
        # Logits that equal the original's would show that nothing was quantized.
        assert 1e-6 < scores.parity < 0.3, f"{name}: {scores}"


@pytest.mark.parametrize("setting", sorted(set(names_of_quantizers()) - set(TRIED)))
def test_a_reduced_setting_is_another_one_with_7_bit_weights(setting: str) -> None:
    other = setting.removesuffix("-reduced")
    assert other in TRIED
    reduced = onnxruntime_static.arguments(setting)
    assert reduced == onnxruntime_static.arguments(other) | {"reduce_range": True}


def test_a_settings_name_is_read_word_by_word() -> None:
    words = onnxruntime_static.parse("u8s8-smooth50-reduced-mse-corrected")
    assert (words.base, words.ranges, words.rewrites, words.correction) == ("u8s8", "mse", ("smooth50",), "corrected")
    assert words.reduced and not words.core
    with pytest.raises(ValueError, match="no setting is called u8s8-smooth60: behind u8s8 or s8s8 stand core, "):
        onnxruntime_static.parse("u8s8-smooth60")


def test_every_setting_belongs_to_one_quantizer_and_is_accepted_by_a_study() -> None:
    owners = names_of_quantizers()
    assert set(owners.values()) == set(plugins("quantizers"))
    for name in plugins("quantizers"):
        assert {setting for setting, owner in owners.items() if owner == name} == set(quantizers.load(name).SETTINGS)
    assert Quantize(settings=tuple(owners)).settings == tuple(owners)
    with pytest.raises(ValueError, match=r"unknown quantization setting 'nncf-mixd'; did you mean nncf-mixed"):
        Quantize(settings=("nncf-mixd",))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SETTINGS", ["a"], "SETTINGS must be a tuple of texts"),
        ("FORMAT", "gguf", "FORMAT must be a format that a runtime executes: engine, "),
        ("DYNAMIC", 1, "DYNAMIC must be True or False"),
        ("LIBRARIES", None, "LIBRARIES must be a tuple of texts"),
        ("unavailable", None, r"it must have a function unavailable\(\)"),
        (
            "quantize",
            lambda setting, file: None,
            r"it must have a function quantize\(setting, fp32, folder, calibration\)",
        ),
    ],
)
def test_a_file_that_is_no_quantizer_is_refused_with_what_it_lacks(
    name: str, value: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.quantizers.onnxruntime_dynamic." + name, value)
    with pytest.raises(ValueError, match=rf"tasks/quantizers/onnxruntime_dynamic\.py: {words}"):
        quantizers.load("onnxruntime_dynamic")

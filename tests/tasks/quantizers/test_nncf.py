"""What is special about NNCF: attention, bias correction, its silence, and that it may be missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from tasks.forms.int8 import classify, open_form
from tasks.quantizers import _nncf, nncf_onnx, nncf_openvino
from tests.support.paths import ROOT
from tests.support.programs import command, environment
from tests.tasks.quantizers.conftest import Original

needs_nncf = pytest.mark.skipif(_nncf.unavailable() is not None, reason=str(_nncf.unavailable()))


def test_attention_is_found_in_a_transformer_alone(original: Original) -> None:
    assert _nncf.has_attention(original.file) is original.transformer


def test_attention_is_found_as_an_operator_too(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 23]> g (float[n, 4, 8] q) => (float[n, 4, 8] y)'
        " { y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert _nncf.has_attention(tmp_path / "m.onnx")


def test_without_nncf_there_is_a_reason_and_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    assert nncf_onnx.unavailable() == nncf_openvino.unavailable() == "NNCF is not installed"


@needs_nncf
@pytest.mark.parametrize("original", ["convolutional"], indirect=True)
def test_openvinos_forms_have_corrected_biases(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NNCF corrects no bias of a model that openvino.Core().read_model returns, and does not say so."""
    corrected = logits_of(original, tmp_path / "corrected")
    nncf = _nncf.library()
    quantize = nncf.quantize
    off = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    monkeypatch.setattr(nncf, "quantize", lambda model, **options: quantize(model, **options, advanced_parameters=off))
    assert not np.array_equal(corrected, logits_of(original, tmp_path / "uncorrected"))


def logits_of(original: Original, folder: Path) -> np.ndarray:
    """Return the logits of OpenVINO's form of a classifier, which is made in a new folder."""
    folder.mkdir()
    session = open_form(
        nncf_openvino.quantize("nncf-openvino-mixed", original.file, folder, original.training), "openvino"
    )
    logits = classify(session, original.held_out)
    session.close()
    return logits


@needs_nncf
def test_nncf_says_nothing_writes_nothing_at_home_and_calls_nobody(tmp_path: Path) -> None:
    """This is a process of its own, because NNCF sends no telemetry where pytest is imported."""
    spec = importlib.util.find_spec("nncf")
    assert spec is not None and spec.origin is not None
    home = tmp_path / "home"
    home.mkdir()
    variables = environment(HOME=str(home), PYTHONPATH=os.pathsep.join((str(ROOT), str(Path(spec.origin).parents[1]))))
    for name in ("NNCF_CI", "NNCF_DEV", "CI"):
        variables.pop(name, None)
    (tmp_path / "work").mkdir()
    completed = subprocess.run(
        command("quantize_with_nncf", tmp_path / "work"), env=variables, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout == "quantized\n"
    assert not [path for path in home.rglob("*") if "telemetry" in path.name or "intel" in path.parts]

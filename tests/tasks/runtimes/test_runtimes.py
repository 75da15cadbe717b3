"""The contract of all runtimes: their outputs equal eager PyTorch's, and they say why they cannot run on a device."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import models
from tasks import runtimes
from tasks.caching.work import Work
from tasks.machine import gpu
from tasks.records import Variant, plugins

if TYPE_CHECKING:
    from collections.abc import Callable


TOLERANCE = 1e-3
"""Allowed difference of a logit, as a share of the largest logit."""


COMPILED = {"torch_compile": "resnet34", "torch_compile_max": "lenet5"}
"""The one model per compiling runtime that is tested, because each takes a minute."""


CASES = [
    pytest.param(name, model, marks=[pytest.mark.slow] if name in COMPILED or model != "lenet5" else [])
    for name in plugins("runtimes")
    # The null runtime has no weights, and eager_fused is tested in tests/models/test_fused.py.
    if name not in ("null", "eager_fused")
    for model in ("lenet5", "resnet34")
    if name not in COMPILED or model == COMPILED[name]
]


def _device(name: str) -> str:
    """Return a device of this machine that the runtime executes on, or skip the test with the reasons."""
    runtime = runtimes.load(name)
    reasons = {device: runtime.unavailable(device) for device in ("cpu", "cuda:0")}
    for device, reason in reasons.items():
        if reason is None:
            return device
    pytest.skip("; ".join(map(str, reasons.values())))


@pytest.mark.parametrize(("name", "model"), CASES)
def test_the_outputs_of_a_runtime_equal_eager_pytorchs_also_from_two_threads_at_once(
    name: str, model: str, work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    import torch

    runtime = runtimes.load(name)
    device = _device(name)
    with torch.inference_mode():
        weights = work.store.get(forms(model, "safetensors").artifact)
        expected = models.load(weights)(torch.from_numpy(inputs)).numpy()
    # Equal outputs prove nothing if they are constant.
    assert expected[:8].std(axis=1).min() > 0
    tolerance = (0.05 if name.endswith("bf16") else TOLERANCE) * np.abs(expected).max()
    runtime.load_library(device)
    session = runtime.open(work.store.get(forms(model, runtime.FORMATS[0]).artifact), device, 8, 2, slots=2)
    fork = session.fork()
    try:
        # The last batch is incomplete, as at the end of an evaluation.
        for batch in (8, 5) if name in COMPILED else (1, 8, 5):
            logits = session.run(inputs[:batch])
            assert logits.dtype == np.float32
            assert logits.shape == (batch, 10)
            assert np.abs(logits - expected[:batch]).max() <= tolerance
        assert ("cpu" if device == "cpu" else "cuda") in session.provider.lower()
        assert fork.provider == session.provider
        assert (session.split is None) == (device == "cpu")

        answers: dict[int, list[np.ndarray]] = {0: [], 1: []}

        def run_queries(slot: int) -> None:
            for start in range(0, 40, 5):
                answers[slot].append((session, fork)[slot].run(inputs[start : start + (5, 8)[slot]]))

        threads = [threading.Thread(target=run_queries, args=(slot,)) for slot in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for slot, size in ((0, 5), (1, 8)):
            assert len(answers[slot]) == 8
            # All answers are compared at the end, because a later query might have written into an earlier answer.
            for start, logits in zip(range(0, 40, 5), answers[slot], strict=True):
                assert np.abs(logits - expected[start : start + size]).max() <= tolerance
    finally:
        fork.close()
        session.close()


@pytest.mark.parametrize("name", plugins("runtimes"))
def test_without_a_gpu_a_runtime_gives_a_reason_and_does_not_fall_back_to_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    reason = str(runtimes.load(name).unavailable("cuda:0"))
    if "on cpu only" in reason:
        assert re.search("on cpu only.*, asked for cuda:0", reason)
        with pytest.raises(RuntimeError, match=r"on cpu only.*, asked for cuda:0"):
            runtimes.load(name).open(tmp_path, "cuda:0", 1, 1)
    else:
        assert "no NVIDIA GPU" in reason


@pytest.mark.parametrize("name", ["eager_fused", "onnxruntime_tensorrt", "tensorrt", "tensorrt_graph"])
def test_a_runtime_that_needs_a_gpu_says_so_when_asked_for_the_cpu(name: str) -> None:
    assert "on CUDA devices only, asked for cpu" in str(runtimes.load(name).unavailable("cpu"))


def test_a_gpu_number_that_is_too_high_is_refused_with_the_number_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "A", "driver": "1", "memory_bytes": None},))
    assert gpu.missing_gpu("cuda:0") is None
    assert gpu.missing_gpu("cuda:1") == "cuda:1: this machine has only 1 NVIDIA GPU"


OPTIONS = [(name, option) for name in plugins("runtimes") for option in runtimes.options_of(name)]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_runtime_opened_with_an_option_gives_the_same_outputs(
    name: str, option: str, work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    runtime = runtimes.load(name)
    if reason := runtime.unavailable("cpu"):
        pytest.skip(reason)
    artifact = forms("lenet5", "onnx").artifact
    assert artifact is not None
    runtime.load_library("cpu")
    path = work.store.get(artifact)
    expected, seen = (
        runtimes.open_model(name, path, "cpu", 1, 2, options=options).run(inputs[:1]) for options in ((), (option,))
    )
    np.testing.assert_allclose(seen, expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_the_settings_of_an_option_take_the_place_of_the_usual_ones(name: str, option: str) -> None:
    usual, changed = (runtimes.settings_of(name, 2, options) for options in ((), (option,)))
    assert changed == runtimes.merged(usual, runtimes.options_of(name)[option]) != usual


@pytest.mark.parametrize("path", sorted(Path(runtimes.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_importing_an_adapter_imports_no_runtime_library(path: Path) -> None:
    heavy = {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings", "models", "onnx"}
    body = ast.parse(path.read_text()).body
    imported = {alias.name.split(".")[0] for node in body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).split(".")[0] for node in body if isinstance(node, ast.ImportFrom)}
    assert not imported & heavy

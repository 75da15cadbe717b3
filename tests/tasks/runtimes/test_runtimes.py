"""The contract that every runtime passes with every model: its outputs are eager PyTorch's on the same images."""

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


# of a logit, relative to the largest logit
TOLERANCE = 1e-3


COMPILED = {"torch_compile": "resnet34", "torch_compile_max": "lenet5"}


CASES = [
    pytest.param(name, model, marks=[pytest.mark.slow] if name in COMPILED or model != "lenet5" else [])
    for name in plugins("runtimes")
    # the one has no weights; of the other, tests/models/test_fused.py
    if name not in ("null", "eager_fused")
    for model in ("lenet5", "resnet34")
    # a minute each
    if name not in COMPILED or model == COMPILED[name]
]


def _device(name: str) -> str:
    """A device that the runtime executes on here, or a skip with the reasons."""
    runtime = runtimes.load(name)
    reasons = {device: runtime.unavailable(device) for device in ("cpu", "cuda:0")}
    for device, reason in reasons.items():
        if reason is None:
            return device
    pytest.skip("; ".join(map(str, reasons.values())))


@pytest.mark.parametrize(("name", "model"), CASES)
def test_outputs_equal_eager_pytorchs_on_the_same_images_also_from_two_threads_at_once(
    name: str, model: str, work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    import torch

    runtime, device = runtimes.load(name), _device(name)
    with torch.inference_mode():
        weights = work.store.get(forms(model, "safetensors").artifact)
        expected = models.load(weights)(torch.from_numpy(inputs)).numpy()
    # a constant output would prove nothing
    assert expected[:8].std(axis=1).min() > 0
    tolerance = (0.05 if name.endswith("bf16") else TOLERANCE) * np.abs(expected).max()
    runtime.load_library(device)
    session = runtime.open(work.store.get(forms(model, runtime.FORMATS[0]).artifact), device, 8, 2, slots=2)
    fork = session.fork()
    try:
        # the last as at the end of an evaluation
        for batch in (8, 5) if name in COMPILED else (1, 8, 5):
            logits = session.run(inputs[:batch])
            assert logits.dtype == np.float32
            assert logits.shape == (batch, 10)
            assert np.abs(logits - expected[:batch]).max() <= tolerance
        assert ("cpu" if device == "cpu" else "cuda") in session.provider.lower()
        assert fork.provider == session.provider
        assert (session.split is None) == (device == "cpu")

        found: dict[int, list[np.ndarray]] = {0: [], 1: []}

        def ask(slot: int) -> None:
            for start in range(0, 40, 5):
                found[slot].append((session, fork)[slot].run(inputs[start : start + (5, 8)[slot]]))

        threads = [threading.Thread(target=ask, args=(slot,)) for slot in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for slot, size in ((0, 5), (1, 8)):
            assert len(found[slot]) == 8
            # no later query wrote into an answer
            for start, logits in zip(range(0, 40, 5), found[slot], strict=True):
                assert np.abs(logits - expected[start : start + size]).max() <= tolerance
    finally:
        fork.close()
        session.close()


@pytest.mark.parametrize("name", plugins("runtimes"))
def test_a_gpu_that_is_not_there_is_a_reason_and_no_fallback(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    reason = str(runtimes.load(name).unavailable("cuda:0"))
    if name in ("null", "openvino", "openvino_bf16"):
        assert re.search("on cpu only.*, asked for cuda:0", reason)
        with pytest.raises(RuntimeError, match=r"on cpu only.*, asked for cuda:0"):
            runtimes.load(name).open(tmp_path, "cuda:0", 1, 1)
    else:
        assert "no NVIDIA GPU" in reason


@pytest.mark.parametrize("name", ["eager_fused", "onnxruntime_tensorrt", "tensorrt", "tensorrt_graph"])
def test_what_needs_a_gpu_says_so_of_the_cpu(name: str) -> None:
    assert "on CUDA devices only, asked for cpu" in str(runtimes.load(name).unavailable("cpu"))


def test_a_gpu_beyond_the_last_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "A", "driver": "1", "memory_bytes": None},))
    assert gpu.missing_gpu("cuda:0") is None
    assert gpu.missing_gpu("cuda:1") == "cuda:1: this machine has only 1 NVIDIA GPU"


@pytest.mark.parametrize("path", sorted(Path(runtimes.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_adapter_imports_its_library_before_it_is_told_to(path: Path) -> None:
    heavy = {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings", "models", "onnx"}
    body = ast.parse(path.read_text()).body
    top = {a.name.split(".")[0] for node in body if isinstance(node, ast.Import) for a in node.names}
    top |= {str(node.module).split(".")[0] for node in body if isinstance(node, ast.ImportFrom)}
    assert not top & heavy

"""Runtimes on a GPU: the parts of a query, CUDA graphs, and the provider of every node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks import runtimes
from tasks.caching.work import Work
from tasks.machine import gpu
from tasks.records import Variant, plugins
from tests.support.command import skip_without_engines

if TYPE_CHECKING:
    from collections.abc import Callable


needs_gpu = pytest.mark.skipif(not gpu.gpus(), reason="no NVIDIA GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "name", [name for name in plugins("runtimes") if name not in ("null", "openvino", "openvino_bf16", "eager_fused")]
)
def test_the_parts_of_a_query_are_positive_and_sum_to_its_latency(
    name: str, work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    runtime = runtimes.load(name)
    if runtime.unavailable("cuda:0"):
        pytest.skip(str(runtime.unavailable("cuda:0")))
    if "engine" in runtime.FORMATS:
        skip_without_engines()
    runtime.load_library("cuda:0")
    session = runtime.open(work.store.get(forms("resnet34", runtime.FORMATS[0]).artifact), "cuda:0", 8, 1)
    assert session.split is not None
    batch = np.ascontiguousarray(inputs[:8])
    for _ in range(30):
        session.run(batch)
    latencies_ms = []
    parts = []
    for _ in range(200):
        begin = time.perf_counter_ns()
        session.run(batch)
        latencies_ms.append((time.perf_counter_ns() - begin) / 1e6)
        parts.append(session.split(batch))
    h2d, enqueue, compute, d2h = np.median(parts, axis=0)
    assert min(h2d, enqueue, compute, d2h) > 0
    # `run` also copies to and from pinned memory and wakes up from its wait: some 0.1 ms of the host's time.
    assert 0.5 * np.median(latencies_ms) < h2d + compute + d2h < 1.1 * np.median(latencies_ms) + 0.02
    session.close()


@pytest.mark.gpu
@needs_gpu
def test_an_engine_in_a_cuda_graph_gives_the_answers_of_the_plain_engine(
    work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    skip_without_engines()
    path = work.store.get(forms("resnet34", "engine").artifact)
    plain, graph = (runtimes.load(name).open(path, "cuda:0", 8, 1) for name in ("tensorrt", "tensorrt_graph"))
    assert "CUDA graph" in graph.provider
    for size in (1, 8, 5, 1):
        assert np.abs(plain.run(inputs[:size]) - graph.run(inputs[:size])).max() < 1e-5 * np.abs(inputs).max()
    with pytest.raises(ValueError, match="up to 8 images"):
        graph.run(inputs[:9])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("name", "provider"),
    [("onnxruntime", "CUDAExecutionProvider"), ("onnxruntime_tensorrt", "TensorrtExecutionProvider")],
)
def test_onnx_runtime_executes_every_node_on_the_provider_asked_for(
    name: str, provider: str, work: Work, forms: Callable[[str, str], Variant]
) -> None:
    runtime = runtimes.load(name)
    if runtime.unavailable("cuda:0"):
        pytest.skip(str(runtime.unavailable("cuda:0")))
    session = runtime.open(work.store.get(forms("resnet34", "onnx").artifact), "cuda:0", 8, 1)
    assert session.provider == provider

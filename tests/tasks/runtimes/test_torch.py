"""PyTorch's runtimes: TorchScript files, threads, and compilation."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks import runtimes
from tasks.caching.work import Work
from tasks.machine import gpu
from tasks.records import Variant
from tasks.runtimes import _torch_compile

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_torchscript_file_may_have_several_outputs_of_any_type(tmp_path: Path) -> None:
    import torch

    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (x / 2).to(torch.bfloat16), x

    path = tmp_path / "halves.ts"
    torch.jit.script(Halves()).save(str(path))
    answer = runtimes.load("torchscript").open(path, "cpu", 4, 1).run(np.arange(6).reshape(2, 3))
    assert answer.dtype == np.float32
    assert np.array_equal(answer, np.arange(6).reshape(2, 3) / 2)


def test_a_file_that_is_no_torchscript_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(b"no module")
    with pytest.raises(ValueError, match=r"^a\.ts is not a TorchScript file: [^\n]*$"):
        runtimes.load("torchscript").open(tmp_path / "a.ts", "cpu", 1, 1)


def test_pytorch_divides_its_threads_among_the_slots_in_every_calling_thread(
    work: Work, forms: Callable[[str, str], Variant], inputs: np.ndarray
) -> None:
    import torch

    path = work.store.get(forms("lenet5", "safetensors").artifact)
    for threads, slots, threads_per_slot in ((4, 1, 4), (4, 2, 2), (1, 2, 1)):
        session = runtimes.load("eager").open(path, "cpu", 1, threads, slots)
        thread_counts: list[int] = []
        thread = threading.Thread(
            target=lambda s=session, counts=thread_counts: (
                s.run(np.zeros((1, *inputs.shape[1:]), np.float32)),
                counts.append(torch.get_num_threads()),
            )
        )
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), *thread_counts) == (threads_per_slot, threads_per_slot)


def test_torch_compile_says_which_compiler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtimes.load("torch_compile")
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    assert "no-such-compiler -O3 is not there" in str(runtime.unavailable("cpu"))
    monkeypatch.delenv("CXX")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(_torch_compile.shutil, "which", lambda name: None)
    assert "needs a compiler: g++ is not there" in str(runtime.unavailable("cpu"))
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "A", "driver": "1", "memory_bytes": None},))
    assert "needs a compiler: gcc or clang is not there" in str(runtime.unavailable("cuda:0"))


@pytest.mark.slow
def test_torch_compile_freezes_and_compiles_every_batch_size_and_never_falls_back(
    work: Work, forms: Callable[[str, str], Variant], inputs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    session = runtimes.load("torch_compile").open(work.store.get(forms("lenet5", "safetensors").artifact), "cpu", 10, 1)
    sizes = (1, 2, 5, 10)
    # The default limit, 8, takes half a minute to exceed. monkeypatch would delete the setting for all later tests.
    with torch._dynamo.config.patch(recompile_limit=2):
        for size in (*sizes, *sizes):
            session.run(inputs[:size])
    # The second pass over the batch sizes compiled nothing.
    assert counters["stats"]["unique_graphs"] == len(sizes)
    assert not counters["graph_break"]
    # Inductor packs only weights that are frozen.
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"] > 0
    assert session.provider == "torch.compile (cpu, frozen)"
    monkeypatch.setattr(_torch_compile, "SHAPES", len(sizes))
    with pytest.raises(Exception, match=r"fullgraph=True|recompile_limit"):
        session.run(inputs[:11])

"""torch.compile by Inductor: a program for each input shape, compiled by the first query of that shape.

Weights are frozen on a CPU (constants, folded and packed ahead of time). Nothing runs uncompiled in silence: the model
is one graph (`fullgraph`), and a shape too many is an error. How long compiling takes depends on what PyTorch's caches
on disk hold (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR), which are left to the caller.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.machine import compilation
from tasks.runtimes import _torch

if TYPE_CHECKING:
    import torch

    from tasks.runtimes import Session

# most input shapes a process; PyTorch's own limit, 8, a sweep with its evaluation may exceed
SHAPES = 64


def unavailable(device: str) -> str | None:
    """Why torch.compile cannot run on `device`, or None."""
    reason = _torch.unavailable(device)
    if reason:
        return reason
    # Inductor compiles C++ for a CPU; for a GPU, Triton compiles its launchers, in C.
    asked, found = ("CXX", ("g++",)) if device == "cpu" else ("CC", ("gcc", "clang"))
    compilers = (os.environ[asked],) if os.environ.get(asked) else found
    if not any(shutil.which(name.split()[0]) for name in compilers):
        return f"torch.compile needs a compiler: {' or '.join(compilers)} is not there (its name can be set by {asked})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"torch.compile needs Python's C headers: {header} is not there"
    if device != "cpu" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs Triton on a GPU, which is not installed"
    return None


def load_library(device: str) -> None:
    """Import PyTorch with Inductor and the models' package and, on a GPU, create the CUDA context."""
    import safetensors.torch  # noqa: F401
    import torch._dynamo
    import torch._inductor.compile_fx  # noqa: F401

    import models  # noqa: F401

    _torch.load_library(device)


class Compiled:
    """A module compiled in `mode` (torch.compile's; None is its default) for each input shape that comes."""

    def __init__(self, module: torch.nn.Module, mode: str | None, freezing: bool) -> None:

        self._compiled = compilation.compiled(module, fullgraph=True, dynamic=False, mode=mode)
        self._freezing, self._lock, self._seen = freezing, threading.Lock(), threading.local()

    def __call__(self, inputs: torch.Tensor) -> Any:
        """The module's output; the first call of a shape in a thread compiles, or takes what another thread
        compiled."""
        # this thread's
        seen: set[tuple[Any, ...]] = self._seen.__dict__.setdefault("shapes", set())
        key = inputs.shape, inputs.dtype
        if key in seen:
            return self._compiled(inputs)
        import torch._dynamo
        import torch._inductor

        if inputs.is_cuda:
            _own_graphs()
        # Both are set around the call, not once: settings belong to a thread, and among torch.compile's own options
        # `freezing` has no effect, as it is asked for before those are applied (PyTorch 2.15).
        with (
            self._lock,
            torch._dynamo.config.patch(recompile_limit=SHAPES, fail_on_recompile_limit_hit=True),
            torch._inductor.config.patch(freezing=self._freezing),
        ):
            output = self._compiled(inputs)
        seen.add(key)
        return output


def _own_graphs() -> None:
    """Let this thread have CUDA graphs of its own: PyTorch prepares only the thread that imported it (up to 2.1x)."""
    from torch._inductor import cudagraph_trees

    local: Any = cudagraph_trees.local
    if not hasattr(local, "tree_manager_containers"):
        local.tree_manager_containers, local.tree_manager_locks = {}, defaultdict(threading.Lock)


def open(path: Path, device: str, threads: int, slots: int, mode: str | None) -> Session:
    """Open a file that `models.save` wrote.

    With several queries in flight on a GPU there are no CUDA graphs: a graph has one input in memory, for all threads.
    """
    import models

    if device != "cpu" and slots > 1:
        mode = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}[str(mode)]
    _torch.settle(threads, slots)
    model = models.load(path).to(device).eval()
    compiled = Compiled(model, mode, freezing=device == "cpu")
    how = [str(next(model.parameters()).device), *([mode] if mode else []), *(["frozen"] if device == "cpu" else [])]
    return _torch.session(compiled, device, f"torch.compile ({', '.join(how)})")

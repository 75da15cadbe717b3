"""Shared by the runtimes on torch.compile: the first query of each input shape compiles a program for that shape.

On a CPU weights are frozen: they are constants, which are folded and packed ahead of time. Nothing runs uncompiled
unnoticed, because the model has to be one graph (`fullgraph`) and one shape too many is an error. How long compiling
takes depends on what PyTorch's caches on disk hold (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR), which the caller sets.
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

# A process may have this many input shapes. PyTorch's own limit is 8, which several batch sizes and the evaluation may
# exceed.
SHAPES = 64


def unavailable(device: str) -> str | None:
    """Return why torch.compile cannot run on `device`, or None where it can."""
    reason = _torch.unavailable(device)
    if reason:
        return reason
    # On a CPU Inductor compiles C++. On a GPU Triton compiles its launchers, in C.
    variable, defaults = ("CXX", ("g++",)) if device == "cpu" else ("CC", ("gcc", "clang"))
    compilers = (os.environ[variable],) if os.environ.get(variable) else defaults
    if not any(shutil.which(name.split()[0]) for name in compilers):
        names = " or ".join(compilers)
        return f"torch.compile needs a compiler: {names} is not there (its name can be set by {variable})"
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
    """A module that is compiled for each shape of inputs, in a mode of torch.compile. None is its default mode."""

    def __init__(self, module: torch.nn.Module, mode: str | None, freezing: bool) -> None:
        self._compiled = compilation.compiled(module, fullgraph=True, dynamic=False, mode=mode)
        self._freezing = freezing
        self._lock = threading.Lock()
        self._seen = threading.local()

    def __call__(self, inputs: torch.Tensor) -> Any:
        """Return the module's output.

        The first call of a shape in a thread compiles, or takes what another thread has compiled.
        """
        # Shapes and types that this thread has seen.
        seen: set[tuple[Any, ...]] = self._seen.__dict__.setdefault("shapes", set())
        key = inputs.shape, inputs.dtype
        if key in seen:
            return self._compiled(inputs)
        import torch._dynamo
        import torch._inductor

        if inputs.is_cuda:
            _own_graphs()
        # Both settings are set around each call, because settings belong to a thread. `freezing` cannot be one of
        # torch.compile's own options: PyTorch 2.15 reads it before it applies those.
        with (
            self._lock,
            torch._dynamo.config.patch(recompile_limit=SHAPES, fail_on_recompile_limit_hit=True),
            torch._inductor.config.patch(freezing=self._freezing),
        ):
            output = self._compiled(inputs)
        seen.add(key)
        return output


def _own_graphs() -> None:
    """Give this thread CUDA graphs of its own, which make it up to 2.1 times as fast.

    PyTorch itself prepares only the thread that imported it.
    """
    from torch._inductor import cudagraph_trees

    local: Any = cudagraph_trees.local
    if not hasattr(local, "tree_manager_containers"):
        local.tree_manager_containers = {}
        local.tree_manager_locks = defaultdict(threading.Lock)


def open(path: Path, device: str, threads: int, slots: int, mode: str | None) -> Session:
    """Open a file that `models.save` wrote.

    With several queries in flight on a GPU, no CUDA graphs are used: a graph has one input buffer for all threads.
    """
    import models

    if device != "cpu" and slots > 1:
        mode = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}[str(mode)]
    _torch.settle(threads, slots)
    model = models.load(path).to(device).eval()
    compiled = Compiled(model, mode, freezing=device == "cpu")
    details = [str(next(model.parameters()).device)]
    if mode:
        details.append(mode)
    if device == "cpu":
        details.append("frozen")
    return _torch.session(compiled, device, f"torch.compile ({', '.join(details)})")

"""Shared by the runtimes on ONNX Runtime: sessions on one execution provider, with no silent fallback to another.

Operators run one after the other, with all graph optimizations. ONNX Runtime's threads spin while a query runs, as they
do by default. At the end of the query they stop: by default they would spin for some 20 ms more, which would slow down
the candidate that is measured next.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import TYPE_CHECKING, Any

from tasks.machine.gpu import missing_gpu
from tasks.runtimes import _cuda, merged

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import torch

# Level of ONNX Runtime's log. At a lower one its GPU build warns on every machine without a GPU.
ERROR = 3
CPU = "CPUExecutionProvider"


def unavailable(device: str) -> str | None:
    """Return why ONNX Runtime cannot run on `device`, or None where it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed"
    if device != "cpu" and importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed, which ONNX Runtime's buffers on a GPU come from"
    return missing_gpu(device)


def load_library(device: str) -> None:
    """Import ONNX Runtime and, for a GPU, load the CUDA libraries that are installed as Python packages."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(ERROR)
    if device != "cpu":
        _cuda.create_context(device)
        onnxruntime.preload_dlls()


SETTINGS: dict[str, Any] = {
    "inter_op_num_threads": 1,
    "execution_mode": "ORT_SEQUENTIAL",
    "graph_optimization_level": "ORT_ENABLE_ALL",
    "entries": {"session.force_spinning_stop": "1"},
}
"""Session options that all runtimes on ONNX Runtime have. `burnish deploy` writes them into the server's settings."""
OPTIONS: dict[str, dict[str, Any]] = {
    "no-spinning": {"entries": {"session.intra_op.allow_spinning": "0"}},
    "no-arena": {"enable_cpu_mem_arena": False},
    "extended-graph": {"graph_optimization_level": "ORT_ENABLE_EXTENDED"},
}
"""Name of an option of a session on the CPU -> the settings that it stands for. Threads that go on to spin between
queries are none of them: they would slow down whatever else the machine does, the next candidate among it."""


def with_options(names: Iterable[str]) -> dict[str, Any]:
    """Return `SETTINGS` with those of some options in their place."""
    return merged(SETTINGS, *(OPTIONS[name] for name in names))


def options(threads: int, entries: dict[str, str], chosen: Iterable[str] = ()) -> Any:
    """Return session options with `SETTINGS`, some of `OPTIONS`, and further configuration entries."""
    import onnxruntime

    settings = with_options(chosen)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = settings["inter_op_num_threads"]
    session_options.execution_mode = getattr(onnxruntime.ExecutionMode, settings["execution_mode"])
    session_options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, settings["graph_optimization_level"]
    )
    session_options.enable_cpu_mem_arena = settings.get("enable_cpu_mem_arena", True)
    session_options.log_severity_level = ERROR
    for key, value in (settings["entries"] | entries).items():
        session_options.add_session_config_entry(key, value)
    return session_options


def create(
    path: Path,
    provider: str,
    settings: dict[str, str],
    threads: int,
    entries: dict[str, str],
    chosen: Iterable[str] = (),
) -> Any:
    """Return an InferenceSession on `provider`. `settings` are the provider's, the others as in `options`.

    Raises
    ------
    RuntimeError
        If ONNX Runtime uses another provider.
    """
    import onnxruntime

    # Without `enable_fallback=0` ONNX Runtime takes the next provider where one fails, even in the middle of its work.
    session = onnxruntime.InferenceSession(
        str(path), options(threads, entries, chosen), providers=[(provider, settings)], enable_fallback=0
    )
    used = session.get_providers()[0]
    if used != provider:
        raise RuntimeError(f"asked for {provider}, ONNX Runtime gave {used}")
    return session


class Session:
    """A session on the CPU, which any number of threads may use at the same time.

    The calling threads compute, too. So with n queries in flight, the pool that they share has threads - n workers.
    """

    split = None

    def __init__(self, path: Path, threads: int, slots: int, options: Iterable[str] = ()) -> None:
        self._session = create(path, CPU, {}, max(1, threads - slots + 1), {}, options)
        self.provider = CPU
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Run one query; see `tasks.runtimes.Session.run`."""
        return self._session.run(self._outputs, {self._input: inputs})[0]

    def fork(self) -> Session:
        """Return the session itself, which is safe for several threads."""
        return self

    def close(self) -> None:
        """Release the session. A fork is the same session, and may have released it already."""
        self.__dict__.pop("_session", None)


class Model:
    """A session on a GPU, which works in a given stream and on buffers that are bound to it there.

    An ONNX Runtime session has one stream. So every slot is a session of its own, with its own copy of the weights.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        stream: torch.cuda.Stream,
        provider: str,
        settings: dict[str, str],
        entries: dict[str, str],
    ) -> None:
        import onnxruntime
        import torch

        self._torch = torch
        self._number = int(device.partition(":")[2])
        settings = {"device_id": str(self._number), "user_compute_stream": str(stream.cuda_stream)} | settings
        # One thread suffices, because ONNX Runtime leaves little work to the CPU.
        self._session = create(path, provider, settings, 1, {"session.record_ep_graph_assignment_info": "1"} | entries)
        nodes: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        if not nodes.get(provider):
            raise RuntimeError(f"asked for {provider}, ONNX Runtime gave all {sum(nodes.values())} nodes to {CPU}")
        self.provider = provider + "".join(
            f", {count} of {sum(nodes.values())} nodes on {name}" for name, count in nodes.items() if name != provider
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._enqueue_only = onnxruntime.RunOptions()
        self._enqueue_only.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # (Binding, output buffer) by address, shape and type of the input.
        self._bound: dict[tuple, tuple[Any, torch.Tensor]] = {}

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the model and return its output. The first query of a shape waits, to learn the output's shape."""
        key = inputs.data_ptr(), inputs.shape, inputs.dtype
        if key not in self._bound:
            self._bound[key] = self._bind(inputs)
        binding, output = self._bound[key]
        self._session.run_with_iobinding(binding, self._enqueue_only)
        return output

    def _bind(self, inputs: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Bind buffers on the GPU for inputs of this shape, and return the binding and the output's buffer."""
        element = inputs.new_empty(0, device="cpu").numpy().dtype.type
        binding = self._session.io_binding()
        binding.bind_input(self._input, "cuda", self._number, element, tuple(inputs.shape), inputs.data_ptr())
        # The shape of the output is not known yet, so that ONNX Runtime puts it into host memory of its own choice.
        binding.bind_output(self._output)
        self._session.run_with_iobinding(binding)
        answer = binding.copy_outputs_to_cpu()[0]
        output = self._torch.empty_like(self._torch.from_numpy(answer), device=inputs.device)
        binding.clear_binding_outputs()
        binding.bind_output(
            self._output, "cuda", self._number, answer.dtype.type, tuple(output.shape), output.data_ptr()
        )
        return binding, output

"""What the runtimes on ONNX Runtime share: sessions on one execution provider, and no other in silence.

Operators run one after the other, with all graph optimizations. Its threads spin while a query runs, as by default, and
stop with its end: by default they go on for some 20 ms, which on a machine with other candidates waiting is the other's
time.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from tasks.machine.gpu import missing_gpu
from tasks.runtimes import _cuda

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch

# log level: its GPU build warns of every missing GPU
ERROR = 3
CPU = "CPUExecutionProvider"


def unavailable(device: str) -> str | None:
    """Why ONNX Runtime cannot run on `device`, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed"
    if device != "cpu" and importlib.util.find_spec("torch") is None:
        return "ONNX Runtime's buffers on a GPU are PyTorch's, which is not installed"
    return missing_gpu(device)


def load_library(device: str) -> None:
    """Import ONNX Runtime and, for a GPU, load the CUDA libraries that wheels of the environment carry."""
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
"""Session options as every runtime on ONNX Runtime has them; `burnish deploy` writes them down for the server."""


def options(threads: int, entries: dict[str, str]) -> Any:
    """Session options of `SETTINGS`, with further configuration entries."""
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = SETTINGS["inter_op_num_threads"]
    made.execution_mode = getattr(onnxruntime.ExecutionMode, SETTINGS["execution_mode"])
    made.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, SETTINGS["graph_optimization_level"])
    made.log_severity_level = ERROR
    for key, value in (SETTINGS["entries"] | entries).items():
        made.add_session_config_entry(key, value)
    return made


def create(path: Path, provider: str, settings: dict[str, str], threads: int, entries: dict[str, str]) -> Any:
    """An InferenceSession on `provider`.

    Raises
    ------
    RuntimeError
        If ONNX Runtime gives another provider.
    """
    import onnxruntime

    # Without `enable_fallback=0` it takes the next provider where one fails, also in the middle of its work.
    session = onnxruntime.InferenceSession(
        str(path), options(threads, entries), providers=[(provider, settings)], enable_fallback=0
    )
    given = session.get_providers()[0]
    if given != provider:
        raise RuntimeError(f"asked for {provider}, ONNX Runtime gave {given}")
    return session


class Session:
    """A session on the CPU; ONNX Runtime lets any number of threads use it.

    The calling thread works too. So with n queries in flight the pool that they share has threads - n workers.
    """

    split = None

    def __init__(self, path: Path, threads: int, slots: int) -> None:
        self._session = create(path, CPU, {}, max(1, threads - slots + 1), {})
        self.provider = CPU
        self._input, self._outputs = self._session.get_inputs()[0].name, [self._session.get_outputs()[0].name]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Answer one query; see `tasks.runtimes.Session.run`."""
        return self._session.run(self._outputs, {self._input: inputs})[0]

    def fork(self) -> Session:
        """The session itself."""
        return self

    def close(self) -> None:
        """Let go of the session; a fork, being the same one, may have done so."""
        self.__dict__.pop("_session", None)


class Model:
    """A session on a GPU that works in a given stream, on buffers bound to it there.

    ONNX Runtime has one stream a session, so that every slot is a session with its own copy of the weights.
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

        self._torch, self._number = torch, int(device.partition(":")[2])
        settings = {"device_id": str(self._number), "user_compute_stream": str(stream.cuda_stream)} | settings
        # 1 thread: what ONNX Runtime leaves to the CPU is small.
        self._session = create(path, provider, settings, 1, {"session.record_ep_graph_assignment_info": "1"} | entries)
        nodes = {part.ep_name: 0 for part in self._session.get_provider_graph_assignment_info()}
        for part in self._session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        if not nodes.get(provider):
            raise RuntimeError(f"asked for {provider}, ONNX Runtime gave all {sum(nodes.values())} nodes to {CPU}")
        self.provider = provider + "".join(
            f", {count} of {sum(nodes.values())} nodes on {name}" for name, count in nodes.items() if name != provider
        )
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self._enqueue_only = onnxruntime.RunOptions()
        self._enqueue_only.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._bound: dict[tuple, tuple[Any, torch.Tensor]] = {}

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the model; the first query of a shape also finds out the output's, and waits."""
        key = inputs.data_ptr(), inputs.shape, inputs.dtype
        if key not in self._bound:
            self._bound[key] = self._bind(inputs)
        binding, output = self._bound[key]
        self._session.run_with_iobinding(binding, self._enqueue_only)
        return output

    def _bind(self, inputs: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Bind buffers on the GPU for inputs of this shape."""
        element = inputs.new_empty(0, device="cpu").numpy().dtype.type
        binding = self._session.io_binding()
        binding.bind_input(self._input, "cuda", self._number, element, tuple(inputs.shape), inputs.data_ptr())
        # to the host, in memory of its choice: its shape is not known before
        binding.bind_output(self._output)
        self._session.run_with_iobinding(binding)
        answer = binding.copy_outputs_to_cpu()[0]
        output = self._torch.empty_like(self._torch.from_numpy(answer), device=inputs.device)
        binding.clear_binding_outputs()
        binding.bind_output(
            self._output, "cuda", self._number, answer.dtype.type, tuple(output.shape), output.data_ptr()
        )
        return binding, output

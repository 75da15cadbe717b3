"""TensorRT, or TensorRT for RTX: serialized engines on an NVIDIA GPU.

Which of the two made an engine, its first bytes tell; the other one cannot open it. A query holds the copy to the GPU,
the engine and the copy back, in one CUDA stream, from and to pinned host memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from tasks.machine import missing_gpu

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

    import numpy as np

FORMATS = ("engine",)
TENSORRT, RTX = "tensorrt", "tensorrt_rtx_bindings"
PRODUCTS = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
RTX_MAGIC = b"vtrt"  # TensorRT's own engines begin with "ftrt"
LOG = logging.getLogger("burnish.tensorrt")


def unavailable(device: str) -> str | None:
    """Why TensorRT cannot run on `device`, or None."""
    if device == "cpu":
        return "TensorRT executes on CUDA devices only, asked for cpu"
    if not any(importlib.util.find_spec(name) for name in PRODUCTS):
        return f"TensorRT is not installed (neither {' nor '.join(PRODUCTS)})"
    return missing_gpu(device)


def backend(names: Iterable[str] = PRODUCTS) -> tuple[ModuleType, str]:
    """The first of `names` that can be imported, and what to call it, with its version.

    Raises
    ------
    RuntimeError
        If none can, with the reason of each.
    """
    reasons = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: the package is there, its shared libraries are not
            reasons.append(f"{PRODUCTS[name]} cannot be imported: {error}")
        else:
            return module, f"{PRODUCTS[name]} {module.__version__}"
    raise RuntimeError("; ".join(reasons))


def recorder(library: Any, log: logging.Logger) -> Any:
    """A TensorRT logger that writes to `log` at debug level and keeps what went wrong in `.errors`."""

    class Recorder(library.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self.errors.append(message)
            if severity <= library.ILogger.INFO:  # below it, thousands of lines an engine
                log.debug("%s: %s", severity.name, message)

    return Recorder()


def load_library(device: str) -> None:
    """Import TensorRT and create the CUDA context."""
    import torch

    backend()
    torch.zeros(1, device=device)


class Session:
    """An engine with its execution context, and buffers for `batch_size` images on the host and on the GPU.

    Raises
    ------
    RuntimeError
        If the engine cannot be opened here (another version, an unsupported GPU, a damaged file), with the reason.
    ValueError
        If it takes fewer images than `batch_size`, or its inputs and outputs are not one float32 tensor each.
    """

    def __init__(self, path: Path, device: str, batch_size: int) -> None:
        import torch

        plan = path.read_bytes()
        library, name = backend((RTX if plan.startswith(RTX_MAGIC) else TENSORRT,))
        torch.cuda.set_device(device)  # TensorRT takes the current device
        self._log = recorder(library, LOG)
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"{name} cannot run this engine on {torch.cuda.get_device_name()}: {self._reason()}")
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == library.TensorIOMode.INPUT]
        if len(names) != 2 or len(inputs) != 1 or {engine.get_tensor_dtype(n) for n in names} != {library.float32}:
            raise ValueError(
                f"{path.name}: expected one float32 input and one float32 output, found {', '.join(names)}"
            )
        self._input = inputs[0]
        largest = engine.get_tensor_profile_shape(self._input, 0)[2][0]
        if batch_size > largest:
            raise ValueError(f"{path.name} was built for up to {largest} images a query, asked for {batch_size}")
        self._torch, self._batch_size = torch, batch_size
        self._shape: tuple[int, ...] = ()
        self._stream = torch.cuda.Stream()
        self._host: dict[str, torch.Tensor] = {}
        self._device: dict[str, torch.Tensor] = {}
        for n in names:
            shape = (batch_size, *tuple(engine.get_tensor_shape(n))[1:])
            self._host[n] = torch.empty(shape, dtype=torch.float32, pin_memory=True)
            self._device[n] = torch.empty(shape, dtype=torch.float32, device=device)
            if not self._context.set_tensor_address(n, self._device[n].data_ptr()):
                raise RuntimeError(f"{name}: {self._reason()}")
        self._output = next(n for n in names if n != self._input)
        self.provider = f"{name} ({device})"

    def _reason(self) -> str:
        return self._log.errors[0].splitlines()[0] if self._log.errors else "no reason given"

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width) -> logits float32 (batch, classes)."""
        count = len(inputs)
        if count > self._batch_size:
            raise ValueError(f"opened for up to {self._batch_size} images a query, got {count}")
        if inputs.shape != self._shape:
            if not self._context.set_input_shape(self._input, inputs.shape):
                raise ValueError(f"the engine refuses inputs of shape {inputs.shape}: {self._reason()}")
            self._shape = inputs.shape
        host_in, host_out = self._host[self._input][:count], self._host[self._output][:count]
        host_in.copy_(self._torch.from_numpy(inputs))
        with self._torch.cuda.stream(self._stream):
            self._device[self._input][:count].copy_(host_in, non_blocking=True)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError(f"the engine failed: {self._reason()}")
            host_out.copy_(self._device[self._output][:count], non_blocking=True)
        self._stream.synchronize()
        return host_out.numpy().copy()

    def close(self) -> None:
        """Let go of the engine and the buffers; the context goes before the engine, the engine before the runtime."""
        self._host.clear()
        self._device.clear()
        del self._context, self._engine, self._runtime


def open(path: Path, device: str, batch_size: int, threads: int) -> Session:
    """Open a serialized engine; `threads` is for CPUs."""
    return Session(path, device, batch_size)

"""What the runtimes on TensorRT share: TensorRT, or TensorRT for RTX, and their serialized engines on an NVIDIA GPU.

Which of the two made an engine, its first bytes tell; the other one cannot open it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from tasks.machine.gpu import missing_gpu
from tasks.runtimes import _cuda

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

    import torch

TENSORRT, RTX = "tensorrt", "tensorrt_rtx_bindings"
PRODUCTS = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
# TensorRT's own engines begin with "ftrt"
RTX_MAGIC = b"vtrt"
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
        except (ImportError, OSError) as error:
            # OSError: the package is there, its shared libraries are not
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
            # below it, thousands of lines an engine
            if severity <= library.ILogger.INFO:
                log.debug("%s: %s", severity.name, message)

    return Recorder()


def load_library(device: str) -> None:
    """Import TensorRT and create the CUDA context."""
    backend()
    _cuda.create_context(device)


class Engine:
    """A deserialized engine, which execution contexts share.

    Raises
    ------
    RuntimeError
        If it cannot be opened here (another version, an unsupported GPU, a damaged file), with the reason.
    ValueError
        If it takes fewer images than `batch_size`, or has not exactly one input.
    """

    def __init__(self, path: Path, device: str, batch_size: int) -> None:
        import torch

        plan = path.read_bytes()
        self.library, self.name = backend((RTX if plan.startswith(RTX_MAGIC) else TENSORRT,))
        self.device = device
        # TensorRT takes the current device
        torch.cuda.set_device(device)
        self._log = recorder(self.library, LOG)
        runtime = self.library.Runtime(self._log)
        self.engine = runtime.deserialize_cuda_engine(plan)
        # after the engine, which goes before it
        self._runtime = runtime
        if self.engine is None:
            raise RuntimeError(f"{self.name} cannot run this engine on {torch.cuda.get_device_name()}: {self.reason()}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == self.library.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) < 2:
            raise ValueError(f"{path.name}: expected one input and an output, found {', '.join(names)}")
        self.input, self.outputs = inputs[0], [n for n in names if n != inputs[0]]
        self.largest = tuple(self.engine.get_tensor_profile_shape(self.input, 0)[2])
        if self.largest and batch_size > self.largest[0]:
            raise ValueError(
                f"{path.name} was built for up to {self.largest[0]} images a query, asked for {batch_size}"
            )

    def reason(self) -> str:
        """The first error that TensorRT reported."""
        return self._log.errors[0].splitlines()[0] if self._log.errors else "no reason given"

    def type_of(self, tensor: str) -> torch.dtype:
        """PyTorch's name of a tensor's type.

        Raises
        ------
        ValueError
            If PyTorch has no such type.
        """
        import torch

        name = self.engine.get_tensor_dtype(tensor).name.lower()
        names = {"float": "float32", "half": "float16", "bf16": "bfloat16"}
        found = getattr(torch, names.get(name, name), None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{tensor} has type {name}, which PyTorch has not")
        return found

    def context(self) -> Any:
        """A new execution context.

        TensorRT for RTX would compile kernels for an input shape in the background, while queries already run on slower
        ones; it is told to do so before the first query.
        """
        if self.library.__name__ == RTX:
            settings = self.engine.create_runtime_config()
            settings.dynamic_shapes_kernel_specialization_strategy = (
                self.library.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            made = self.engine.create_execution_context(settings)
        else:
            made = self.engine.create_execution_context()
        if made is None:
            raise RuntimeError(f"{self.name} cannot run this engine on {self.device}: {self.reason()}")
        return made


def describe(path: Path, device: str) -> dict[str, Any]:
    """What `tasks.forms.modelfile.ModelFile` says of an engine's input: batch, shape of an image, type; None:
    dynamic."""
    engine = Engine(path, device, 1)
    batch, *shape = (length if length >= 0 else None for length in engine.engine.get_tensor_shape(engine.input))
    return {"batch": batch, "shape": tuple(shape), "dtype": str(engine.type_of(engine.input)).removeprefix("torch.")}


class Bound:
    """An execution context with one input shape and its buffers."""

    def __init__(self, engine: Engine, context: Any, inputs: torch.Tensor) -> None:
        import torch

        self._engine, self._context, self._inputs = engine, context, inputs
        wanted = engine.type_of(engine.input)
        if inputs.dtype != wanted:
            raise ValueError(f"the engine takes inputs of type {wanted}, got {inputs.dtype}")
        if not context.set_input_shape(engine.input, tuple(inputs.shape)):
            largest = f"it was built for up to {engine.largest[0]} images a query; " if engine.largest else ""
            raise ValueError(f"the engine refuses inputs of shape {tuple(inputs.shape)}: {largest}{engine.reason()}")
        shapes = [tuple(context.get_tensor_shape(name)) for name in engine.outputs]
        if any(length < 0 for shape in shapes for length in shape):
            raise ValueError("the shape of an output depends on the input's values, which is not supported")
        self.outputs = [
            torch.empty(shape, dtype=engine.type_of(name), device=engine.device)
            for name, shape in zip(engine.outputs, shapes, strict=True)
        ]
        self.bind()

    def bind(self) -> None:
        """Give the context this shape and these buffers."""
        engine, context = self._engine, self._context
        context.set_input_shape(engine.input, tuple(self._inputs.shape))
        for name, buffer in zip((engine.input, *engine.outputs), (self._inputs, *self.outputs), strict=True):
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise RuntimeError(f"{engine.name}: {engine.reason()}")

    def enqueue(self, stream: torch.cuda.Stream) -> None:
        """Enqueue the engine in `stream`."""
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"the engine failed: {self._engine.reason()}")


def answer(bound: Bound) -> torch.Tensor:
    """The first output; bf16 becomes float32, as NumPy has no bf16."""
    import torch

    first = bound.outputs[0]
    return first.float() if first.dtype == torch.bfloat16 else first

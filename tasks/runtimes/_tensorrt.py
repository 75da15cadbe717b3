"""Shared by the runtimes on TensorRT: the libraries TensorRT and TensorRT for RTX, and their engines on an NVIDIA GPU.

The first bytes of a serialized engine tell which of the two libraries built it. The other one cannot open it.
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

# Names of the two libraries' modules.
TENSORRT = "tensorrt"
RTX = "tensorrt_rtx_bindings"
PRODUCTS = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
# Engines of TensorRT for RTX begin with this, those of TensorRT with "ftrt".
RTX_MAGIC = b"vtrt"
LOG = logging.getLogger("burnish.tensorrt")


def unavailable(device: str) -> str | None:
    """Return why TensorRT cannot run on `device`, or None where it can."""
    if device == "cpu":
        return "TensorRT executes on CUDA devices only, asked for cpu"
    if not any(importlib.util.find_spec(name) for name in PRODUCTS):
        return f"TensorRT is not installed (neither {' nor '.join(PRODUCTS)})"
    return missing_gpu(device)


def backend(names: Iterable[str] = PRODUCTS) -> tuple[ModuleType, str]:
    """Return the first of the modules `names` that can be imported, and its product's name with the version.

    Raises
    ------
    RuntimeError
        If none can be imported. The message has the reason for each.
    """
    reasons = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            # OSError means that the package is installed and its shared libraries are not.
            reasons.append(f"{PRODUCTS[name]} cannot be imported: {error}")
        else:
            return module, f"{PRODUCTS[name]} {module.__version__}"
    raise RuntimeError("; ".join(reasons))


def recorder(library: Any, log: logging.Logger) -> Any:
    """Return a TensorRT logger that writes to `log` at debug level and keeps the errors in its attribute `errors`."""

    class Recorder(library.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self.errors.append(message)
            # Less severe messages are thousands of lines per engine.
            if severity <= library.ILogger.INFO:
                log.debug("%s: %s", severity.name, message)

    return Recorder()


def load_library(device: str) -> None:
    """Import TensorRT and create the CUDA context."""
    backend()
    _cuda.create_context(device)


class Engine:
    """An opened engine, which execution contexts share.

    Raises
    ------
    RuntimeError
        If this machine cannot open it (another version, an unsupported GPU, a damaged file). The message says why.
    ValueError
        If it takes fewer images per query than `batch_size`, or does not have exactly one input.
    """

    def __init__(self, path: Path, device: str, batch_size: int) -> None:
        import torch

        plan = path.read_bytes()
        self.library, self.name = backend((RTX if plan.startswith(RTX_MAGIC) else TENSORRT,))
        self.device = device
        # TensorRT works on the current device.
        torch.cuda.set_device(device)
        self._log = recorder(self.library, LOG)
        runtime = self.library.Runtime(self._log)
        self.engine = runtime.deserialize_cuda_engine(plan)
        # Attributes are released in the order in which they were set, and the engine has to go before its runtime.
        self._runtime = runtime
        if self.engine is None:
            raise RuntimeError(f"{self.name} cannot run this engine on {torch.cuda.get_device_name()}: {self.reason()}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        is_input = self.library.TensorIOMode.INPUT
        inputs = [name for name in names if self.engine.get_tensor_mode(name) == is_input]
        if len(inputs) != 1 or len(names) < 2:
            raise ValueError(f"{path.name}: expected one input and an output, found {', '.join(names)}")
        self.input = inputs[0]
        self.outputs = [name for name in names if name != inputs[0]]
        # The largest shape of inputs that it takes. Empty where it has no optimization profile.
        self.largest = tuple(self.engine.get_tensor_profile_shape(self.input, 0)[2])
        if self.largest and batch_size > self.largest[0]:
            raise ValueError(
                f"{path.name} was built for up to {self.largest[0]} images per query, asked for {batch_size}"
            )

    def reason(self) -> str:
        """Return the first error that TensorRT reported."""
        return self._log.errors[0].splitlines()[0] if self._log.errors else "no reason given"

    def type_of(self, tensor: str) -> torch.dtype:
        """Return the type of one of the engine's tensors, as PyTorch's type.

        Raises
        ------
        ValueError
            If PyTorch has no such type.
        """
        import torch

        name = self.engine.get_tensor_dtype(tensor).name.lower()
        names = {"float": "float32", "half": "float16", "bf16": "bfloat16"}
        dtype = getattr(torch, names.get(name, name), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{tensor} has type {name}, which PyTorch does not have")
        return dtype

    def context(self) -> Any:
        """Return a new execution context.

        By default TensorRT for RTX compiles kernels for an input shape in the background, while queries already run on
        slower ones. Here it compiles them before the first query.
        """
        if self.library.__name__ == RTX:
            settings = self.engine.create_runtime_config()
            settings.dynamic_shapes_kernel_specialization_strategy = (
                self.library.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            context = self.engine.create_execution_context(settings)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"{self.name} cannot run this engine on {self.device}: {self.reason()}")
        return context


def describe(path: Path, device: str) -> dict[str, Any]:
    """Return the fields of `tasks.forms.modelfile.ModelFile` that are about an engine's input.

    They are its batch size, the shape of one image and the type. A dynamic length is None.
    """
    engine = Engine(path, device, 1)
    batch, *shape = (length if length >= 0 else None for length in engine.engine.get_tensor_shape(engine.input))
    return {"batch": batch, "shape": tuple(shape), "dtype": str(engine.type_of(engine.input)).removeprefix("torch.")}


class Bound:
    """An execution context that is bound to one shape of inputs, with the buffers for it."""

    def __init__(self, engine: Engine, context: Any, inputs: torch.Tensor) -> None:
        import torch

        self._engine = engine
        self._context = context
        self._inputs = inputs
        wanted = engine.type_of(engine.input)
        if inputs.dtype != wanted:
            raise ValueError(f"the engine takes inputs of type {wanted}, got {inputs.dtype}")
        if not context.set_input_shape(engine.input, tuple(inputs.shape)):
            largest = f"it was built for up to {engine.largest[0]} images per query; " if engine.largest else ""
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
        """Set the context to this shape and these buffers. It may have been set to others meanwhile."""
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
    """Return the first output. bf16 becomes float32, because NumPy has no bf16."""
    import torch

    first = bound.outputs[0]
    return first.float() if first.dtype == torch.bfloat16 else first

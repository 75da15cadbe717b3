"""PyTorch: torch.profiler around the runtime's own session, for eager, TorchScript and torch.compile.

An operator is what a module calls (`aten::conv2d` of `layer1.0.conv1`), together with all that it calls in turn. Its
implementation is the one of these that takes most time itself. In eager, hooks around each module's forward tell which
module runs; elsewhere the calls of a query are numbered. The time of Python, of dispatching and of the hooks is no
operator's. On CUDA the times are those of kernels. Source: https://docs.pytorch.org/docs/stable/profiler.html
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tasks.profilers import WARMUP, Convolution, Measured, Operator, Request, Stacks
from tasks.profilers._common import calm
from tasks.runtimes import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.runtimes import Session

RUNTIMES = ("eager", "torchscript", "torch_compile", "torch_compile_max")
# What the names of events begin with: a module's forward (recorded by the hooks in this file), and a step of the
# profiler, which is a query.
MODULE = "module "
STEP = "ProfilerStep"
# Kernels that torch.compile wrote.
GENERATED = ("graph_", "cpp_fused", "triton_")
AS_WRITTEN = "PyTorch executes the modules as they are written"
PRECISIONS = {"float": "fp32", "c10::Half": "fp16", "c10::BFloat16": "bf16"}


def measure(request: Request) -> Measured:
    """Profile a model in PyTorch.

    The request's folder also gets the log that TensorBoard shows where torch-tb-profiler is installed.
    """
    import torch
    from torch import profiler

    if request.runtime.startswith("torch_compile"):
        import torch._inductor.config as inductor

        # Without this its CPU kernels are not in the profile.
        inductor.cpp.enable_kernel_profile = True
    adapter = load(request.runtime)
    adapter.load_library(request.device)
    session = adapter.open(request.path, request.device, len(request.inputs), request.threads)
    # The first query may compile, which is done before the hooks are there.
    session.run(request.inputs)
    log = request.folder / "tensorboard"
    write_log = profiler.tensorboard_trace_handler(str(log), worker_name=request.runtime)
    convolutions: dict[str, Convolution] = {}
    hooks = _modules(convolutions) if request.runtime == "eager" else nullcontext()
    with warnings.catch_warnings(), hooks:
        warnings.simplefilter("ignore")
        steps = _record(session, request, write_log)
    session.close()
    shutil.copyfile(next(log.glob("*.pt.trace.json")), request.folder / "trace.json")
    if request.runtime == "torchscript":
        convolutions = _in_script(torch, request.path)
    tree = _Tree(request.device)
    calm_steps = [steps[number] for number in calm([step.cpu_time_total for step in steps])]
    for step in calm_steps:
        tree.add_query(step)
    operators = tree.operators()
    quantized = any("quantized::" in operator.type or "fake_quant" in operator.type for operator in operators)
    normalisations = [operator.name for operator in operators if operator.type == "aten::batch_norm"]
    return Measured(
        queries=len(calm_steps),
        operators=operators,
        stacks={stack: ms / len(calm_steps) for stack, ms in tree.stacks.items()},
        convolutions=[*convolutions.values()],
        quantized=quantized,
        normalisations=dict.fromkeys(normalisations, AS_WRITTEN),
    )


def _record(session: Session, request: Request, write_log: Callable[[Any], None]) -> list[Any]:
    """Run queries under the profiler, and return one event per recorded query. `write_log` gets the profiler."""
    import torch
    from torch import profiler

    activities = [profiler.ProfilerActivity.CPU]
    if request.device != "cpu":
        activities.append(profiler.ProfilerActivity.CUDA)
    with profiler.profile(
        activities=activities,
        record_shapes=True,
        schedule=profiler.schedule(wait=0, warmup=WARMUP, active=request.queries, repeat=1),
        on_trace_ready=write_log,
    ) as recorded:
        for _ in range(WARMUP):
            session.run(request.inputs)
            recorded.step()
        with request.watch:
            for _ in range(request.queries):
                session.run(request.inputs)
                recorded.step()
    # On CUDA a step is also among the GPU's events, where it is left out.
    cpu = torch.autograd.DeviceType.CPU
    return [event for event in recorded.events() if event.name.startswith(STEP) and event.device_type == cpu]


@contextmanager
def _modules(convolutions: dict[str, Convolution]) -> Iterator[None]:
    """Record each module's forward under its name, and put the convolutions into `convolutions`, by their path."""
    import torch
    from torch.nn.modules import module as hooks

    names: dict[int, str] = {}
    running: list[Any] = []

    def before(module: torch.nn.Module, inputs: Any) -> None:
        if not running:
            names.update({id(child): name.replace(".", "/") for name, child in module.named_modules()})
        path = names.get(id(module), type(module).__name__)
        if isinstance(module, torch.nn.Conv2d):
            convolutions[path] = Convolution(
                name=path.replace("/", "."), path=path, in_channels=module.in_channels, out_channels=module.out_channels
            )
        running.append(torch.profiler.record_function(MODULE + path))
        running[-1].__enter__()

    def after(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        running.pop().__exit__(None, None, None)

    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_script(torch: Any, path: Path) -> dict[str, Convolution]:
    """Return the convolutions of a frozen TorchScript graph, which are known by their weights."""
    convolutions = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.load(str(path), map_location="cpu").inlined_graph
    for kind in ("aten::_convolution", "aten::conv2d"):
        for node in graph.findAllNodes(kind):
            weight, groups = list(node.inputs())[1].toIValue(), node.namedInput("groups").toIValue()
            if isinstance(weight, torch.Tensor):
                name = node.output().debugName()
                convolutions[name] = Convolution(
                    name=f"%{name}", path="", in_channels=weight.shape[1] * groups, out_channels=weight.shape[0]
                )
    return convolutions


class _Tree:
    """Sums up the nested events of queries, as operators and as stacks."""

    def __init__(self, device: str) -> None:
        self.clock = "cpu" if device == "cpu" else "device"
        self.stacks: Stacks = {}
        # [Calls, milliseconds, an event] by module, type of the operator, and number of the call in its query. Calls
        # are numbered only where no module is known; else the number is 0.
        self.rows: dict[tuple[str, str, int], list[Any]] = {}
        # How often an operator of each type was called in the query that is being added.
        self.calls: Counter[str] = Counter()

    def _ms(self, event: Any, own: bool = False) -> float:
        """Return the time of an event in milliseconds: `own` leaves out what it calls."""
        microseconds = getattr(event, f"{'self_' if own else ''}{self.clock}_time_total")
        return microseconds / 1000

    def add_query(self, step: Any) -> None:
        """Add the events of one recorded query."""
        self.calls.clear()
        self._add_children(step, (), ())

    def _add_children(self, event: Any, module: tuple[str, ...], stack: tuple[str, ...]) -> None:
        """Add the operators below an event, which belongs to a module and has this stack."""
        for child in event.cpu_children:
            if child.name.startswith(MODULE):
                # The time of the event itself is that of Python and of the hooks, and is left out.
                inner = tuple(filter(None, child.name.removeprefix(MODULE).split("/")))
                self._add_children(child, inner, inner)
            elif "::" in child.name or child.name.startswith(GENERATED):
                self._add_to_row(module, child, self._ms(child))
                self._add_stacks(child, stack)
            else:
                inner = (*stack, child.name.strip("# "))
                # The kernels of a CUDA graph belong to no operator.
                for kernel in child.kernels if self.clock == "device" else ():
                    self._add_to_row(module, child, kernel.duration / 1000, kernel.name)
                    self._add_to_stack((*inner, kernel.name), kernel.duration / 1000)
                if self.clock == "cpu":
                    self._add_to_row(module, child, self._ms(child, own=True))
                    self._add_to_stack(inner, self._ms(child, own=True))
                self._add_children(child, module, inner)

    def _add_stacks(self, event: Any, stack: tuple[str, ...]) -> None:
        """Add an operator and all that it calls to the stacks."""
        stack = (*stack, event.name)
        self._add_to_stack(stack, self._ms(event, own=True))
        for child in event.cpu_children:
            self._add_stacks(child, stack)

    def _add_to_stack(self, stack: tuple[str, ...], ms: float) -> None:
        self.stacks[stack] = self.stacks.get(stack, 0.0) + ms

    def _add_to_row(self, module: tuple[str, ...], event: Any, ms: float, type: str = "") -> None:
        """Add one call of an operator. `type` is that of a kernel; else it is the event's name."""
        type = type or event.name.strip("# ")
        number = 0
        if not module:
            self.calls[type] += 1
            number = self.calls[type]
        row = self.rows.setdefault(("/".join(module), type, number), [0, 0.0, event])
        row[0] += 1
        row[1] += ms

    def operators(self) -> list[Operator]:
        """Return one operator per module and type, without those that took no time."""
        operators = []
        for (path, type, number), (calls, ms, event) in self.rows.items():
            if ms <= 0:
                continue
            numbered = f"{type} #{number}" if self.calls[type] > 1 else type
            is_operator = "::" in type
            operators.append(
                Operator(
                    name=path.replace("/", ".") or numbered,
                    path=path,
                    type=type,
                    calls=calls,
                    total_ms=ms,
                    precision=_precision(event) if is_operator else None,
                    provider=self._implementation(type, event),
                )
            )
        return operators

    def _implementation(self, type: str, event: Any) -> str:
        """Return what took most of an operator's time: on CUDA a kernel, else one of the operators that it calls."""
        if "::" not in type:
            return "generated" if type.startswith(GENERATED) else "PyTorch"
        below = []
        waiting = [event]
        while waiting:
            below.append(waiting.pop())
            waiting += below[-1].cpu_children
        kernels = [kernel for part in below for kernel in part.kernels]
        if self.clock == "device" and kernels:
            return max(kernels, key=lambda kernel: kernel.duration).name
        return max(below, key=lambda part: self._ms(part, own=True)).name


def _precision(event: Any) -> str | None:
    """Return the type that an operator computes in: that of its first input in floating point."""
    types = getattr(event, "input_dtypes", None) or ()
    return next((PRECISIONS[name] for name in types if name in PRECISIONS), None)

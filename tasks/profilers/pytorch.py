"""PyTorch: torch.profiler around the runtime's own session; eager, TorchScript and torch.compile.

A row is an operator that a module calls (`aten::conv2d` of `layer1.0.conv1`) with all that it calls in turn; the
implementation is the one of these with the most time of its own. Modules are told by hooks around each one's forward
(eager alone; elsewhere the calls of a query are numbered); what Python, dispatching and the hooks take is no
operator's. On CUDA the times are those of kernels. Source: https://docs.pytorch.org/docs/stable/profiler.html
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.profilers import UNWATCHED, WARMUP, Convolution, Measured, Operator, Stacks, Watching
from tasks.profilers._common import calm
from tasks.runtimes import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

RUNTIMES = ("eager", "torchscript", "torch_compile", "torch_compile_max")
MODULE, STEP = "module ", "ProfilerStep"
# kernels that torch.compile wrote
GENERATED = ("graph_", "cpp_fused", "triton_")
AS_WRITTEN = "PyTorch executes the modules as they are written"
PRECISIONS = {"float": "fp32", "c10::Half": "fp16", "c10::BFloat16": "bf16"}


def measure(
    path: Path,
    runtime: str,
    device: str,
    threads: int,
    inputs: np.ndarray,
    queries: int,
    folder: Path,
    watch: Watching = UNWATCHED,
) -> Measured:
    """Profile a model in PyTorch; `folder` also gets the log that TensorBoard shows where torch-tb-profiler is
    installed."""
    import torch
    from torch import profiler

    if runtime.startswith("torch_compile"):
        import torch._inductor.config as inductor

        # its CPU kernels do not show otherwise
        inductor.cpp.enable_kernel_profile = True
    adapter = load(runtime)
    adapter.load_library(device)
    session = adapter.open(path, device, len(inputs), threads)
    # compiles, outside the hooks
    session.run(inputs)
    activities = [profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(profiler.ProfilerActivity.CUDA)
    log = folder / "tensorboard"
    convolutions: dict[str, Convolution] = {}
    with warnings.catch_warnings(), _modules(convolutions) if runtime == "eager" else warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profiler.profile(
            activities=activities,
            record_shapes=True,
            schedule=profiler.schedule(wait=0, warmup=WARMUP, active=queries, repeat=1),
            on_trace_ready=profiler.tensorboard_trace_handler(str(log), worker_name=runtime),
        ) as recorded:
            for _ in range(WARMUP):
                session.run(inputs)
                recorded.step()
            with watch:
                for _ in range(queries):
                    session.run(inputs)
                    recorded.step()
    session.close()
    shutil.copyfile(next(log.glob("*.pt.trace.json")), folder / "trace.json")
    if runtime == "torchscript":
        convolutions = _in_script(torch, path)
    tree = _Tree(device)
    # On CUDA a step stands among the GPU's events a second time.
    here = torch.autograd.DeviceType.CPU
    steps = [event for event in recorded.events() if event.name.startswith(STEP) and event.device_type == here]
    kept = calm([step.cpu_time_total for step in steps])
    for index in kept:
        tree.query(steps[index])
    operators = tree.operators()
    stacks = {path: ms / len(kept) for path, ms in tree.stacks.items()}
    quantized = any("quantized::" in one.type or "fake_quant" in one.type for one in operators)
    alone = [one.name for one in operators if one.type == "aten::batch_norm"]
    return Measured(
        queries=len(kept),
        operators=operators,
        stacks=stacks,
        convolutions=[*convolutions.values()],
        quantized=quantized,
        normalisations=dict.fromkeys(alone, AS_WRITTEN),
    )


@contextmanager
def _modules(convolutions: dict[str, Convolution]) -> Iterator[None]:
    """Record each module's forward under its name, and the shapes of convolutions."""
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
    """Convolutions of a frozen TorchScript graph, by their weights."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.load(str(path), map_location="cpu").inlined_graph
    for kind in ("aten::_convolution", "aten::conv2d"):
        for node in graph.findAllNodes(kind):
            weight, groups = list(node.inputs())[1].toIValue(), node.namedInput("groups").toIValue()
            if isinstance(weight, torch.Tensor):
                name = node.output().debugName()
                found[name] = Convolution(
                    name=f"%{name}", path="", in_channels=weight.shape[1] * groups, out_channels=weight.shape[0]
                )
    return found


class _Tree:
    """Sums up the nested events of queries."""

    def __init__(self, device: str) -> None:
        self.clock = "cpu" if device == "cpu" else "device"
        self.stacks: Stacks = {}
        self.rows: dict[tuple[str, str, int], list[Any]] = {}
        self.seen: Counter[str] = Counter()

    def _spent(self, event: Any, own: bool = False) -> float:
        # us
        return getattr(event, f"{'self_' if own else ''}{self.clock}_time_total") / 1000

    def query(self, step: Any) -> None:
        """Sum up a recorded query."""
        self.seen.clear()
        self._below(step, (), ())

    def _below(self, event: Any, module: tuple[str, ...], stack: tuple[str, ...]) -> None:
        for child in event.cpu_children:
            # its own time is Python's and the hooks'
            if child.name.startswith(MODULE):
                inner = tuple(filter(None, child.name.removeprefix(MODULE).split("/")))
                self._below(child, inner, inner)
            elif "::" in child.name or child.name.startswith(GENERATED):
                self._row(module, child, self._spent(child))
                self._nested(child, stack)
            else:
                inner = (*stack, child.name.strip("# "))
                # of a CUDA graph: no operator's
                for kernel in child.kernels if self.clock == "device" else ():
                    self._row(module, child, kernel.duration / 1000, kernel.name)
                    self._stack((*inner, kernel.name), kernel.duration / 1000)
                if self.clock == "cpu":
                    self._row(module, child, self._spent(child, own=True))
                    self._stack(inner, self._spent(child, own=True))
                self._below(child, module, inner)

    def _nested(self, event: Any, stack: tuple[str, ...]) -> None:
        stack = (*stack, event.name)
        self._stack(stack, self._spent(event, own=True))
        for child in event.cpu_children:
            self._nested(child, stack)

    def _stack(self, stack: tuple[str, ...], ms: float) -> None:
        self.stacks[stack] = self.stacks.get(stack, 0.0) + ms

    def _row(self, module: tuple[str, ...], event: Any, ms: float, name: str = "") -> None:
        """Without modules, calls are told apart by their number in the query."""
        name, number = name or event.name.strip("# "), 0
        if not module:
            self.seen[name] += 1
            number = self.seen[name]
        row = self.rows.setdefault(("/".join(module), name, number), [0, 0.0, event])
        row[0] += 1
        row[1] += ms

    def operators(self) -> list[Operator]:
        """A row an operator and module, those that took no time left out."""
        return [
            Operator(
                name=path.replace("/", ".") or (f"{kind} #{number}" if self.seen[kind] > 1 else kind),
                path=path,
                type=kind,
                calls=calls,
                total_ms=ms,
                precision=_precision(event) if "::" in kind else None,
                provider=self._heaviest(event)
                if "::" in kind
                else "generated"
                if kind.startswith(GENERATED)
                else "PyTorch",
            )
            for (path, kind, number), (calls, ms, event) in self.rows.items()
            if ms > 0
        ]

    def _heaviest(self, event: Any) -> str:
        """The implementation: what took most of an operator's time; on CUDA the kernel."""
        below, waiting = [], [event]
        while waiting:
            below.append(waiting.pop())
            waiting += below[-1].cpu_children
        kernels = [kernel for one in below for kernel in one.kernels]
        if self.clock == "device" and kernels:
            return max(kernels, key=lambda kernel: kernel.duration).name
        return max(below, key=lambda one: self._spent(one, own=True)).name


def _precision(event: Any) -> str | None:
    types = getattr(event, "input_dtypes", None) or ()
    return next((PRECISIONS[name] for name in types if name in PRECISIONS), None)

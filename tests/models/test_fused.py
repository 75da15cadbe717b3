"""The fused pointwise block: what the plain one gives, forward and backward, within the tolerances stated here.

Kernels run on a GPU, or without one in Triton's interpreter, for which this file runs itself again.
"""

from __future__ import annotations

import copy
import os
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

import polars
import pytest
import torch
from torch import nn

import models
from models.convnext import Block
from tasks import runtimes
from tasks.caching.work import Work
from tasks.machine.devices import Unavailable
from tasks.records import Model, Study, Train
from tasks.training.fit import fit
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.paths import ROOT
from tests.support.trainings import training_of

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of an output or a gradient, relative to its largest value in fp32 by the plain module."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available() and not INTERPRETED:
        pytest.skip("no CUDA device; Triton's interpreter runs it, in a process of its own")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain module's depthwise convolutions, too, are fp32's own."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def ours(channels: int) -> nn.Module:
    return Block(channels, 3)


def torchvisions(channels: int) -> nn.Module:
    from torchvision.models.convnext import CNBlock

    return CNBlock(channels, layer_scale=0.5, stochastic_depth_prob=0.0)


def lively(make: Callable[[int], nn.Module], channels: int, tanh: bool) -> nn.Module:
    """A block whose norms and biases are random, so that they count."""
    torch.manual_seed(channels)
    block = nn.Sequential(make(channels))
    for parameter in block.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.3)
    for module in block.modules():
        if tanh and isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return block


def outcome(block: nn.Module, x: torch.Tensor, grad: torch.Tensor, low: torch.dtype) -> dict[str, torch.Tensor]:
    """The output and every gradient of a block under autocast to `low` (float32: without)."""
    block, x = copy.deepcopy(block), x.detach().requires_grad_()
    with torch.autocast(x.device.type, dtype=low, enabled=low != torch.float32):
        out = block(x)
    out.backward(grad.to(out.dtype))
    named = {name: parameter.grad for name, parameter in block.named_parameters()}
    return {"output": out.detach().float(), "input": x.grad.float(), **named}


@pytest.mark.parametrize("low", TOLERANCE, ids=str)
@pytest.mark.parametrize("tanh", [False, True], ids=["exact", "tanh"])
# no powers of two: lanes are masked
@pytest.mark.parametrize(("make", "channels"), [(ours, 96), (torchvisions, 40)])
def test_a_fused_block_gives_the_plain_ones_output_and_gradients(device, low, tanh, make, channels):
    plain = lively(make, channels, tanh).to(device)
    fused = copy.deepcopy(plain)
    models.fuse(fused, "a block")
    assert fused.state_dict().keys() == plain.state_dict().keys()
    x, grad = torch.randn(2, 3, channels, 7, 5, device=device).unbind()
    if channels == 96:
        x = x.to(memory_format=torch.channels_last)
    want, got = outcome(plain, x, grad, torch.float32), outcome(fused, x, grad, low)
    assert want.keys() == got.keys()
    for name, value in want.items():
        off = float((got[name] - value).abs().max() / value.abs().max())
        assert off <= TOLERANCE[low], f"{name} is off by {off:.2g}"


def test_a_fused_model_is_as_accurate_in_every_size_of_its_stages_and_exports_as_the_plain_one(device, tmp_path):
    torch.manual_seed(0)
    architecture = {"name": "convnext_18m", "num_classes": 10, "in_channels": 3, "image_size": 32}
    model = models.build(**architecture).to(device).eval()
    x = torch.randn(2, 3, 32, 32, device=device)
    with torch.inference_mode():
        want = model(x)
        models.fuse(model, "convnext_18m")
        got = model(x)
    assert not torch.equal(got, want), "the kernels ran"
    assert float((got - want).abs().max() / want.abs().max()) <= TOLERANCE[torch.float32]
    models.save(model, tmp_path / "a.safetensors", architecture)
    program = torch.export.export(models.load(tmp_path / "a.safetensors"), (x.cpu(),))
    assert not [node for node in program.graph.nodes if "burnish" in str(node.target)]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the kernels run in this process")
def test_the_kernels_are_right_in_tritons_interpreter():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
            "-k",
            "as_accurate or gives_the_plain",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^13 passed, \d+ deselected", done.stdout, re.MULTILINE), done.stdout[-500:]


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability, monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models import _triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = [k for k in vars(_triton).values() if isinstance(k, triton.JITFunction) and k is not _triton._gelu]
    assert len(kernels) == 4
    given = {"rows": "i32", "channels": "i32", "eps": "fp32", **dict.fromkeys(("x", "out", "grad", "grad_x"), "*bf16")}
    for kernel in kernels:
        for tanh in (False, True) if "TANH" in kernel.arg_names else (None,):
            constant = {"ROWS": 16, "WIDTH": 128, "TANH": tanh}
            signature = {a: "constexpr" if a in constant else given.get(a, "*fp32") for a in kernel.arg_names}
            fixed = {(n,): constant[a] for n, a in enumerate(kernel.arg_names) if a in constant}
            made = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", capability, 32))
            assert made.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="nothing is traced in the interpreter")
def test_torch_compile_sees_the_kernels_in_the_operators():
    from torch._functorch.aot_autograd import aot_export_module
    from torch._subclasses.fake_tensor import FakeTensorMode

    from models import _triton

    class Operators(nn.Module):
        def forward(self, x, weight, bias, grad):
            out, mean, scale = _triton._norm(x, weight, bias, 1e-6, torch.bfloat16)
            made = out, _triton._norm_grads(grad, x, weight, mean, scale), _triton._bias_gelu(out, bias, True)
            return *made[1], made[2], *_triton._bias_gelu_grads(grad, out, bias, False)

    # shapes alone: no GPU is needed
    with FakeTensorMode(), torch.device("cuda"):
        x, grad = torch.randn(2, 4, 7, 7, 96).unbind()
        graph, _ = aot_export_module(Operators(), (x, torch.randn(96), torch.randn(96), grad), trace_joint=False)
    called = [str(node.target) for node in graph.graph.nodes]
    assert called.count("triton_kernel_wrapper_functional") == 4
    assert not [name for name in called if "burnish" in name]


def test_a_model_without_such_a_block_is_refused():
    with pytest.raises(ValueError, match="lenet5 has no block that can be fused; convnext_18m"):
        models.fuse(models.build("lenet5", num_classes=10, image_size=32), "lenet5")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_training_is_refused_with_the_reason(tmp_path):
    work = Work.at(tmp_path)
    network, architecture = fresh(Model(name="convnext_18m", upsample=32), data := digits(work, 60), 0)
    settings = Train(epochs=1, batch_size=16, fused_pointwise=True, device="cpu")
    with pytest.raises(Unavailable, match=r"^train\.fused_pointwise: Triton's kernels run on CUDA devices only"):
        fit(training_of(work, architecture, data, settings), network)


def test_a_stage_that_this_machine_has_not_the_means_for_is_skipped_and_others_fail(tmp_path, monkeypatch):
    # here: Prefect takes the interpreter's process seconds to import
    from flows import run, study

    going = run.Run(Study(ablate={"techniques": {"fused": {"fused_pointwise": True}}}), str(tmp_path))
    named = {step.name: step for step in going.progress.plan}
    ablate, train = named["ablate lenet5 fused"], named["train lenet5"]
    for error, want in (
        (Unavailable("no GPU"), ("skipped", "no GPU")),
        (RuntimeError("broken"), ("failed", "RuntimeError: broken")),
    ):
        monkeypatch.setattr(run, "call", Mock(side_effect=error))
        for step in (ablate, train):
            going.progress.waiting.insert(0, step)
            inputs = dict(step.inputs)
            assert going._attempt(step, study.TASKS[step.stage], inputs) is None
        assert (going.variants[-1].status, going.variants[-1].error) == want
        for table in ("ablations", "variants"):
            artifact = going.fragments[table][-1]
            (row,) = polars.read_parquet(tmp_path / "store" / artifact.path).to_dicts()
            assert (row["status"], row["error"]) == want


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("change", [{}, {"compile": True}, {"checkpointing": True, "ema": 0.9}], ids=str)
def test_training_is_as_good_fused_on_a_gpu(tmp_path, change):
    work = Work.at(tmp_path)
    data, losses = digits(work, 600), {}
    for fused in (False, True):
        network, architecture = fresh(Model(name="convnext_18m", upsample=32), data, 0)
        settings = Train(
            epochs=3,
            batch_size=64,
            optimizer="adamw",
            learning_rate=1e-3,
            precision="bf16",
            fused_pointwise=fused,
            **change,
        )
        done = fit(training_of(work, architecture, data, settings), network)
        losses[fused] = [row["loss"] for row in done.epochs if row["split"] == "train"]
    assert losses[True][-1] < losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)


@pytest.mark.gpu
@gpu
def test_the_runtime_answers_as_eager_does_on_a_gpu(tmp_path):
    architecture = {"name": "convnext_18m", "num_classes": 10, "in_channels": 3, "image_size": 64}
    torch.manual_seed(0)
    models.save(models.build(**architecture), tmp_path / "a.safetensors", architecture)
    x = torch.randn(5, 3, 64, 64).numpy()
    plain, fused = (runtimes.load(n).open(tmp_path / "a.safetensors", "cuda:0", 8, 1) for n in ("eager", "eager_fused"))
    want, got = plain.run(x), fused.run(x)
    assert abs(got - want).max() <= 1e-4 * abs(want).max()


@pytest.mark.gpu
@pytest.mark.alone
@gpu
def test_fused_blocks_train_faster_than_plain_ones_on_a_gpu():
    """A step of convnext_18m at 224 pixels, batch 128, bf16, channels-last: rounds interleave the forms."""
    x = torch.randn(128, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    right = torch.randint(0, 200, (128,), device="cuda")
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for name in ("plain", "tanh", "fused", "fused, tanh", "compiled", "fused, compiled"):
        torch.manual_seed(0)
        gelu = {"gelu": "tanh"} if "tanh" in name else {}
        model = models.build("convnext_18m", num_classes=200, **gelu).cuda().to(memory_format=torch.channels_last)
        if "fused" in name:
            models.fuse(model, "convnext_18m")
        forms[name] = torch.compile(model) if "compiled" in name else model

    def seconds(form: Callable[[torch.Tensor], torch.Tensor]) -> float:
        torch.cuda.synchronize()
        before = time.perf_counter()
        for _ in range(5):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(form(x).float(), right)
            loss.backward()
        torch.cuda.synchronize()
        return (time.perf_counter() - before) / 5

    for form in forms.values():
        # compiles
        seconds(form)
    rounds = [{name: seconds(form) for name, form in forms.items()} for _ in range(8)]
    gains = {name: statistics.median(r["plain"] / r[name] for r in rounds) for name in forms}
    step = statistics.median(r["plain"] for r in rounds)
    told = f"{torch.cuda.get_device_name()}: plain step {1000 * step:.1f} ms; times as fast: {gains}"
    print(told)
    assert gains["fused"] > 1, told

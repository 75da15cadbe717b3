"""The fused pointwise block gives the output and gradients of the plain block, within the tolerances stated here.

The kernels run on a GPU. Without a GPU they run in Triton's interpreter, in a second process that runs this file.
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
"""Largest difference of an output or a gradient, relative to its largest value in the plain block in fp32."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available() and not INTERPRETED:
        pytest.skip("no CUDA device; test_the_kernels_are_right_in_tritons_interpreter runs this test")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cuDNN compute the depthwise convolutions in fp32, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def burnish_block(channels: int) -> nn.Module:
    return Block(channels, 3)


def torchvision_block(channels: int) -> nn.Module:
    from torchvision.models.convnext import CNBlock

    return CNBlock(channels, layer_scale=0.5, stochastic_depth_prob=0.0)


def random_block(make_block: Callable[[int], nn.Module], channels: int, tanh: bool) -> nn.Module:
    """Return a block whose norms and biases are random, so that an error in them shows."""
    torch.manual_seed(channels)
    block = nn.Sequential(make_block(channels))
    for parameter in block.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.3)
    for module in block.modules():
        if tanh and isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return block


def output_and_gradients(
    block: nn.Module, x: torch.Tensor, grad: torch.Tensor, low: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the output and every gradient of a block under autocast to `low`. With float32 there is no autocast."""
    block, x = copy.deepcopy(block), x.detach().requires_grad_()
    with torch.autocast(x.device.type, dtype=low, enabled=low != torch.float32):
        output = block(x)
    output.backward(grad.to(output.dtype))
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    return {"output": output.detach().float(), "input": x.grad.float(), **gradients}


@pytest.mark.parametrize("low", TOLERANCE, ids=str)
@pytest.mark.parametrize("tanh", [False, True], ids=["exact", "tanh"])
# The channel counts are no powers of two, so that the kernels mask lanes.
@pytest.mark.parametrize(("make_block", "channels"), [(burnish_block, 96), (torchvision_block, 40)])
def test_a_fused_block_gives_the_plain_blocks_output_and_gradients(device, low, tanh, make_block, channels):
    plain = random_block(make_block, channels, tanh).to(device)
    fused = copy.deepcopy(plain)
    models.fuse(fused, "a block")
    assert fused.state_dict().keys() == plain.state_dict().keys()
    x, grad = torch.randn(2, 3, channels, 7, 5, device=device).unbind()
    if channels == 96:
        x = x.to(memory_format=torch.channels_last)
    expected, actual = output_and_gradients(plain, x, grad, torch.float32), output_and_gradients(fused, x, grad, low)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        difference = float((actual[name] - value).abs().max() / value.abs().max())
        assert difference <= TOLERANCE[low], f"{name} is off by {difference:.2g}"


def test_a_fused_model_gives_the_plain_models_logits_and_its_file_exports_without_kernels(device, tmp_path):
    torch.manual_seed(0)
    architecture = {"name": "convnext_18m", "num_classes": 10, "in_channels": 3, "image_size": 32}
    model = models.build(**architecture).to(device).eval()
    x = torch.randn(2, 3, 32, 32, device=device)
    with torch.inference_mode():
        plain_logits = model(x)
        models.fuse(model, "convnext_18m")
        fused_logits = model(x)
    assert not torch.equal(fused_logits, plain_logits), "equal to the last bit: the fused kernels did not run"
    assert float((fused_logits - plain_logits).abs().max() / plain_logits.abs().max()) <= TOLERANCE[torch.float32]
    models.save(model, tmp_path / "a.safetensors", architecture)
    program = torch.export.export(models.load(tmp_path / "a.safetensors"), (x.cpu(),))
    assert not [node for node in program.graph.nodes if "burnish" in str(node.target)]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the kernels run in this process")
def test_the_kernels_are_right_in_tritons_interpreter():
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
            "-k",
            "gives_the_plain",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    assert re.search(r"^13 passed, \d+ deselected", process.stdout, re.MULTILINE), process.stdout[-500:]


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_that_this_machine_lacks(capability, monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models import _triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = [k for k in vars(_triton).values() if isinstance(k, triton.JITFunction) and k is not _triton._gelu]
    assert len(kernels) == 4
    types = {"rows": "i32", "channels": "i32", "eps": "fp32", **dict.fromkeys(("x", "out", "grad", "grad_x"), "*bf16")}
    for kernel in kernels:
        for tanh in (False, True) if "TANH" in kernel.arg_names else (None,):
            constant_values = {"ROWS": 16, "WIDTH": 128, "TANH": tanh}
            signature = {a: "constexpr" if a in constant_values else types.get(a, "*fp32") for a in kernel.arg_names}
            constants = {(n,): constant_values[a] for n, a in enumerate(kernel.arg_names) if a in constant_values}
            compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
            assert compiled.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="nothing is traced in the interpreter")
def test_tracing_the_operators_for_torch_compile_shows_the_kernels():
    from torch._functorch.aot_autograd import aot_export_module
    from torch._subclasses.fake_tensor import FakeTensorMode

    from models import _triton

    class Operators(nn.Module):
        def forward(self, x, weight, bias, grad):
            out, mean, scale = _triton._norm(x, weight, bias, 1e-6, torch.bfloat16)
            norm_grads = _triton._norm_grads(grad, x, weight, mean, scale)
            activation = _triton._bias_gelu(out, bias, True)
            return *norm_grads, activation, *_triton._bias_gelu_grads(grad, out, bias, False)

    # Fake tensors have shapes and no values, so that no GPU is needed.
    with FakeTensorMode(), torch.device("cuda"):
        x, grad = torch.randn(2, 4, 7, 7, 96).unbind()
        graph, _ = aot_export_module(Operators(), (x, torch.randn(96), torch.randn(96), grad), trace_joint=False)
    called = [str(node.target) for node in graph.graph.nodes]
    assert called.count("triton_kernel_wrapper_functional") == 4
    assert not [name for name in called if "burnish" in name]


def test_fusing_a_model_without_a_block_that_can_be_fused_is_refused():
    with pytest.raises(ValueError, match="lenet5 has no block that can be fused; convnext_18m"):
        models.fuse(models.build("lenet5", num_classes=10, image_size=32), "lenet5")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_training_with_fused_pointwise_is_refused_without_a_gpu(tmp_path):
    work = Work.at(tmp_path)
    network, architecture = fresh(Model(name="convnext_18m", upsample=32), data := digits(work, 60), 0)
    settings = Train(epochs=1, batch_size=16, fused_pointwise=True, device="cpu")
    with pytest.raises(Unavailable, match=r"^train\.fused_pointwise: Triton's kernels run on CUDA devices only"):
        fit(training_of(work, architecture, data, settings), network)


def test_unavailable_makes_a_step_skipped_and_any_other_error_makes_it_failed(tmp_path, monkeypatch):
    # Importing Prefect takes seconds, which the interpreter's process saves because only this test imports it.
    from flows import run, study

    current_run = run.Run(Study(ablate={"techniques": {"fused": {"fused_pointwise": True}}}), str(tmp_path))
    steps_by_name = {step.name: step for step in current_run.progress.plan}
    ablate, train = steps_by_name["ablate lenet5 fused"], steps_by_name["train lenet5"]
    for error, status_and_error in (
        (Unavailable("no GPU"), ("skipped", "no GPU")),
        (RuntimeError("broken"), ("failed", "RuntimeError: broken")),
    ):
        monkeypatch.setattr(run, "call", Mock(side_effect=error))
        for step in (ablate, train):
            current_run.progress.waiting.insert(0, step)
            inputs = dict(step.inputs)
            assert current_run._attempt(step, study.TASKS[step.stage], inputs) is None
        assert (current_run.variants[-1].status, current_run.variants[-1].error) == status_and_error
        for table in ("ablations", "variants"):
            artifact = current_run.fragments[table][-1]
            (row,) = polars.read_parquet(tmp_path / "store" / artifact.path).to_dicts()
            assert (row["status"], row["error"]) == status_and_error


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("change", [{}, {"compile": True}, {"checkpointing": True, "ema": 0.9}], ids=str)
def test_training_with_fused_blocks_reaches_the_loss_of_plain_ones_on_a_gpu(tmp_path, change):
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
        fitted = fit(training_of(work, architecture, data, settings), network)
        losses[fused] = [row["loss"] for row in fitted.epochs if row["split"] == "train"]
    assert losses[True][-1] < losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)


@pytest.mark.gpu
@gpu
def test_the_runtime_eager_fused_gives_the_logits_of_eager_on_a_gpu(tmp_path):
    architecture = {"name": "convnext_18m", "num_classes": 10, "in_channels": 3, "image_size": 64}
    torch.manual_seed(0)
    models.save(models.build(**architecture), tmp_path / "a.safetensors", architecture)
    x = torch.randn(5, 3, 64, 64).numpy()
    plain, fused = (runtimes.load(n).open(tmp_path / "a.safetensors", "cuda:0", 8, 1) for n in ("eager", "eager_fused"))
    plain_logits, fused_logits = plain.run(x), fused.run(x)
    assert abs(fused_logits - plain_logits).max() <= 1e-4 * abs(plain_logits).max()


@pytest.mark.gpu
@pytest.mark.alone
@gpu
def test_fused_blocks_train_faster_than_plain_ones_on_a_gpu():
    """A training step of convnext_18m at 224 pixels, batch 128, bf16, channels-last. Each round times all forms."""
    x = torch.randn(128, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(0, 200, (128,), device="cuda")
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
        start = time.perf_counter()
        for _ in range(5):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(form(x).float(), labels)
            loss.backward()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / 5

    for form in forms.values():
        # The first call compiles.
        seconds(form)
    rounds = [{name: seconds(form) for name, form in forms.items()} for _ in range(8)]
    gains = {name: statistics.median(r["plain"] / r[name] for r in rounds) for name in forms}
    step = statistics.median(r["plain"] for r in rounds)
    summary = f"{torch.cuda.get_device_name()}: plain step {1000 * step:.1f} ms; times as fast: {gains}"
    print(summary)
    assert gains["fused"] > 1, summary

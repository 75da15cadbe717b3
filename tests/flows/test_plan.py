"""The plan of a study on a machine: what `auto` stands for there, and what a skipped stage leaves out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.plan import planned
from flows.presets import presets
from flows.settings import Mistake, load
from tasks import machine, runtimes, tables
from tasks.machine import gpu
from tasks.records._skip import LEFT_OUT
from tasks.runtimes import openvino_bf16
from tests.support.command import Burnish

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = ("eager", "torchscript", "onnxruntime", "openvino")
BF16 = ("torch_compile", "openvino_bf16")
ALL = ("fp32", "fp16", "int8")


@pytest.fixture
def fake_machine(monkeypatch: pytest.MonkeyPatch):
    """A function that gives this machine other CPU instructions and GPUs of these names. At first it has neither."""

    def pretend(features: tuple[str, ...] = (), gpus: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(machine, "cpu", lambda: ("a CPU", features))
        devices = tuple({"name": name, "driver": "1", "memory_bytes": 2**34} for name in gpus)
        monkeypatch.setattr(gpu, "gpus", lambda: devices)

    for limit in openvino_bf16.LIMITS:
        monkeypatch.delenv(limit, raising=False)
    pretend()
    return pretend


def chosen(
    *settings: str, study: str = "quickstart", skip: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the runtimes that the plan measures and the precisions in which it builds engines."""
    resolved = planned(load(study, list(settings), None, skip)).study
    return resolved.benchmark.runtimes, resolved.build.precisions


def test_without_a_gpu_no_engine_is_built_and_no_engine_runtime_is_measured(fake_machine):
    assert chosen() == (PLAIN, ())
    assert chosen("benchmark.devices=['cuda:0']") == (PLAIN, ()), "this machine has no such GPU"
    reasons = planned(load("quickstart", [])).chosen
    assert "no GPU to execute engines" in reasons["benchmark.runtimes"] and reasons["build.precisions"].startswith(
        "none ("
    )


def test_with_a_gpu_engines_are_built_and_executed(fake_machine):
    fake_machine(gpus=("NVIDIA H100",))
    assert chosen() == ((*PLAIN, "tensorrt"), ALL)
    assert chosen("benchmark.devices=['cpu']") == (PLAIN, ()), "engines run on GPUs only"
    assert chosen("build.precisions=[]") == (PLAIN, ())
    with pytest.raises(ValueError, match=r"build\.batch_sizes: the largest is 128") as caught:
        planned(load("quickstart", ["benchmark.evaluation_batch=500"]))
    assert "\n" not in str(caught.value)


def test_engines_that_the_study_names_are_built_without_a_gpu_too(fake_machine):
    assert chosen("build.precisions=['fp16']") == ((*PLAIN, "tensorrt"), ("fp16",))
    assert chosen("benchmark.runtimes=['eager', 'tensorrt']") == (("eager", "tensorrt"), ALL)
    assert chosen("benchmark.runtimes=['eager', 'onnxruntime']") == (("eager", "onnxruntime"), ())


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_on_a_cpu_with_bf16_instructions_auto_includes_the_bf16_runtimes(fake_machine, monkeypatch, feature):
    fake_machine(features=("avx2", feature))
    compiles = runtimes.load("torch_compile")
    monkeypatch.setattr(compiles, "unavailable", lambda device: None)
    assert chosen() == ((*PLAIN, *BF16), ())
    assert "the CPU has bf16 instructions" in planned(load("quickstart", [])).chosen["benchmark.runtimes"]
    monkeypatch.setattr(compiles, "unavailable", lambda device: "no compiler")
    assert chosen() == ((*PLAIN, "openvino_bf16"), ())
    assert "without torch_compile: no compiler" in planned(load("quickstart", [])).chosen["benchmark.runtimes"]
    fake_machine(gpus=("NVIDIA H100",), features=(feature,))
    assert chosen("benchmark.devices=['cuda:0']")[0] == (*PLAIN, "tensorrt"), "the CPU is not measured"


def test_the_default_runtimes_are_those_that_this_machine_can_execute():
    plan = planned(load("quickstart", []))
    available = runtimes.load("openvino_bf16").unavailable("cpu") is None
    assert ("openvino_bf16" in plan.study.benchmark.runtimes) == available
    for name in plan.study.benchmark.runtimes:
        assert name == "tensorrt" or runtimes.load(name).unavailable("cpu") is None


def test_auto_joins_named_runtimes_and_leaves_out_those_that_have_nothing_to_execute(fake_machine):
    assert chosen("benchmark.runtimes=['auto', 'torch_compile_max']")[0] == (*PLAIN, "torch_compile_max")
    assert chosen("export.formats=['onnx']")[0] == ("eager", "onnxruntime", "openvino")
    torchscript_only = ("export.formats=['torchscript']", "quantize.settings=[]", "quantize.dynamic=false")
    assert chosen(*torchscript_only)[0] == ("eager", "torchscript")


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("study", ["resnet34-tensorrt", "cifar-architectures", "convnext-speed"])
def test_a_study_whose_published_table_has_engines_builds_them_on_any_machine(fake_machine, study, scale):
    resolved = planned(load(study, [], scale)).study
    assert "tensorrt" in resolved.benchmark.runtimes and resolved.build.precisions


@pytest.mark.parametrize("study", ["densenet121-imagenet", "runtime-formats"])
def test_a_study_whose_published_table_has_no_engine_builds_none_on_a_cpu(fake_machine, study):
    for scale in ("smoke", "cpu"):
        resolved = planned(load(study, [], scale)).study
        assert "tensorrt" not in resolved.benchmark.runtimes and not resolved.build.precisions


@pytest.mark.parametrize("stage", LEFT_OUT)
@pytest.mark.parametrize("study", presets())
def test_a_skipped_stage_makes_nothing_and_leaves_the_settings_of_other_stages(stage, study):
    whole, without = load(study, []), load(study, [], None, [stage])
    assert without.skip == (stage,)
    reduced = without.without_skipped()
    changed = {"build": {"build", "benchmark"}}.get(stage, {stage})
    for part in type(whole).model_fields:
        if part not in (*changed, "skip"):
            assert getattr(reduced, part) == getattr(whole, part), part
    for field, empty in LEFT_OUT[stage].items():
        assert getattr(getattr(reduced, stage), field) == empty
    if stage == "build":
        assert not planned(without).study.build.precisions
        assert not {"tensorrt", "tensorrt_graph"} & set(planned(without).study.benchmark.runtimes)


def test_stages_to_skip_come_from_toml_from_settings_and_from_the_command_line(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('skip = ["build"]\n[train]\nepochs = 3\n')
    assert load(str(file), [], None, ["tune"]).skip == ("build", "tune")
    assert load("quickstart", ["skip=['serve']"]).skip == ("serve",)


@pytest.mark.parametrize("stage", ["prepare", "train", "export", "benchmark", "aggregate", "exprt"])
def test_a_stage_that_cannot_be_skipped_is_refused(stage):
    with pytest.raises(Mistake) as caught:
        load("quickstart", [], None, [stage])
    assert str(caught.value).startswith(f"--skip {stage}: ") and "accepted: ablate, tune, augment" in str(caught.value)


def test_the_command_refuses_in_one_line_to_skip_export(tmp_path):
    done = Burnish(tmp_path / "artifacts", None)("run", "quickstart", "--skip", "export", code=2)
    assert done.stderr.count("\n") == 1 and "export cannot be skipped" in done.stderr


@pytest.mark.slow
def test_on_a_cpu_a_default_study_has_no_skipped_row_and_runs_no_skipped_stage(burnish: Burnish):
    if gpu.gpus():
        pytest.skip("this machine has a GPU")
    settings = (
        "models=['lenet5']",
        "train.epochs=1",
        "benchmark.rounds=1",
        "benchmark.min_seconds=0.05",
        "benchmark.min_queries=8",
        "benchmark.warmup_seconds=0.1",
    )
    skipped = [f"--skip={stage}" for stage in ("tune", "augment", "prune", "quantize", "serve")]
    done = burnish("run", "quickstart", "--out", str(burnish.out), *skipped, *(f"--set={s}" for s in settings))
    assert {task.partition("/")[0] for task in burnish.why()} == {
        "prepare",
        "train",
        "export",
        "benchmark",
        "aggregate",
    }
    (run,) = (burnish.out / "runs").iterdir()
    summary = tables.read(burnish.out, "summary", run.name).collect()
    expected = planned(load("quickstart", list(settings)))
    assert set(summary["runtime"]) == set(expected.study.benchmark.runtimes)
    assert not summary.filter(pl.col("status") != "ok").height
    assert json.loads((run / "environment.json").read_text())["auto"] == expected.chosen
    assert "skipped" not in done.stdout and "tensorrt" not in done.stdout

"""The published studies at their smallest scale, as a person runs them: each ends with the study's own tables."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.presets import presets, scaled
from flows.report.published import compare
from flows.studies import SCALES
from tasks import tables
from tests.support import programs
from tests.support.command import Burnish
from tests.support.paths import ROOT

STUDIES = [name for name in presets() if scaled(name)]
TITLES = {
    "resnet34-tensorrt": "ResNet-34, one image, as trtexec prints it",
    "densenet121-imagenet": "Techniques: mean ms per batch/samples per s",
    "cifar-architectures": "Accuracy and training time, published on CIFAR-10; here: digits",
    "runtime-formats": "One model, five ways to run it",
    "convnext-speed": "Inference: timm:convnext_atto-32px, cpu, batch 1",
}
RESNET, VIT = "resnet34-w16", "timm:test_vit-32px"
SMALL_RESNET = "models=[{name='resnet34', width=16}]"
# Larger models are tested by stage, family and runtime (test_models, test_quantize, test_runtimes). Here it is how the
# studies are put together: one small model each, one round and few queries, few epochs, and a stage that has no row in
# a study's own table in one study alone.
ONE_INT8 = ("quantize.dynamic=false", "quantize.calibration_images=32")
SMALLER = {
    "resnet34-tensorrt": (
        "data.train_limit=480",
        "data.test_limit=200",
        "train.epochs=3",
        "tune.trials=1",
        "tune.epochs=1",
        "augment.epochs=4",
        "benchmark.batch_sizes=[1]",
        "prune.ratios=[]",
        "quantize.settings=['u8s8-reduced']",
        "export.formats=['onnx']",
        "build.precisions=['fp16']",
        *ONE_INT8,
    ),
    "densenet121-imagenet": (
        SMALL_RESNET,
        "train.epochs=2",
        "benchmark.rounds=2",
        "export.formats=['onnx']",
        *ONE_INT8,
    ),
    "cifar-architectures": (
        "models=[{name='timm:test_vit', upsample=32}]",
        "train.epochs=2",
        "ablate.train_limit=96",
        "export.formats=['onnx']",
        "benchmark.batch_sizes=[1]",
        *ONE_INT8,
    ),
    "runtime-formats": (SMALL_RESNET, "train.epochs=2", *ONE_INT8),
    # Not test_vit: TensorRT for RTX builds no int8 engine of it (Myelin, CHECK(is_tensor())).
    "convnext-speed": (
        "models=[{name='timm:convnext_atto', upsample=32}]",
        "train.epochs=2",
        "ablate.train_limit=96",
        "ablate.epochs=2",
        "prune.ratios=[]",
        "export.formats=['onnx']",
        "quantize.settings=['u8s8-reduced']",
        *ONE_INT8,
    ),
}
MEASURED = ("benchmark.rounds=1", "benchmark.minutes=0.3", "benchmark.throughput=false", "serve.seconds=0.05")
# of the time of a step, for images
MOST_WAITING = 0.03
STAGES = (
    "tune.trials",
    "ablate.names",
    "augment.policies",
    "prune.ratios",
    "export.formats",
    "quantize.settings",
    "quantize.dynamic",
    "qat.epochs",
    "build.precisions",
    "serve.seconds",
)
# What a study's own table is keyed by: a word of each model's label.
NAMED = {
    "resnet34_tensorrt": ("resnet34",),
    "densenet121_imagenet": ("densenet121",),
    "cifar_architectures": ("efficientnet", "resnet50", "vit"),
    "cifar100_architectures": ("efficientnet", "resnet50", "vit"),
    "runtime_formats": ("resnet34", "densenet121", "efficientnet", "convnext"),
    "convnext_speed": ("convnext",),
}
# Rows of the study's tables that one small model gives figures for on a CPU.
MEASURED_ROWS: dict[str, list[tuple[str, ...]]] = {
    "resnet34-tensorrt": [(RESNET, "initial training"), (RESNET, "tuned hyper-parameters"), ("latency ms",)],
    "densenet121-imagenet": [("none",), ("pruning",), ("ONNX",), ("int8 ONNX",)],
    "cifar-architectures": [("ViT", VIT), *((name,) for name in ("none", "gradient accumulation"))],
    "runtime-formats": [(RESNET, form) for form in ("as trained", "ONNX", "ONNX int8", "TorchScript CPU")],
    "convnext-speed": [
        (name,)
        for name in (
            "vanilla",
            "torch.compile (TC)",
            "channels-last",
            "fused optimizer",
            "images on the device",
            "GELU by tanh",
            "everything",
        )
    ],
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_three_scales_of_the_same_stages_and_tables(name: str) -> None:
    made = [presets()[name](scale) for scale in SCALES]
    assert len({study.name for study in made}) == 1
    assert len({study.published for study in made}) == 1
    assert made[0].published
    assert len(set(map(str, made))) == 3
    for stage in STAGES:
        part, field = stage.split(".")
        assert len({bool(getattr(getattr(study, part), field)) for study in made}) == 1, stage
    if made[0].published == "densenet121_imagenet":
        # no other study's own table has the rate of queries in flight together
        assert all(study.benchmark.throughput for study in made)
    assert len({study.ablate.names for study in made}) == 1, "the same techniques"
    assert len({len(study.train.seeds) > 1 for study in made}) == 1, "a spread over seeds, or none"
    assert len({len(study.models) for study in made}) == 1
    for study in made:
        assert not any(0 < study.ablate.epochs * len(study.ablate.seeds) < 5 for _ in study.ablate.names), "no verdict"
        for word in NAMED[study.published]:
            assert sum(word in model.label for model in study.models) == 1, f"a row of the table, {word}"
    assert (made[0].data.source, made[0].data.path) == ("auto", ""), "the smallest needs no file: it takes the digits"
    assert made[2].train.device == "auto"


@pytest.fixture(scope="module")
def printed(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Artifacts of all studies at their smallest scale, and what each printed."""
    burnish = Burnish(tmp_path_factory.mktemp("studies") / "artifacts", server)
    asked = {name: [*MEASURED, *settings] for name, settings in SMALLER.items()}
    # What torch.compile makes is tested in tests/tasks/training/test_loop.py; here it would take half a minute.
    environment = burnish.environment | {"TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(
        programs.command("several_runs", str(burnish.out), json.dumps(asked)),
        cwd=ROOT,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=900,
    )
    parts = re.split(r"^== (\S+) (\d+)$", done.stdout, flags=re.MULTILINE)
    ended = dict(zip(parts[1::3], parts[2::3], strict=True))
    assert ended == dict.fromkeys(SMALLER, "0"), f"{ended}\n{done.stderr[-5000:]}"
    return burnish.out, dict(zip(parts[1::3], parts[0::3], strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_the_smallest_scale_of_a_study_ends_with_its_own_table(name: str, printed: tuple[Path, dict[str, str]]) -> None:
    out, said = printed
    assert TITLES[name] in said[name]
    (run,) = (out / "runs").glob(f"{name}-*")
    assert '<h2 id="published">' in (run / "report.html").read_text()
    made = {table: tables.read(out, table, run.name).collect() for table in _small(out, run.name)}
    assert made["summary"].filter(pl.col("status") == "ok").height
    failed = made["variants"].filter(pl.col("status") == "failed")
    assert not failed.height, failed["error"].to_list()
    _figures(name, made)
    epochs = made["epochs"].filter(pl.col("split") == "train")
    # what an ablation's plain training waits is its finding
    told = epochs.filter(pl.col("stage") != "ablate")
    assert told.height
    assert (told["data_wait"] * told["seconds"]).sum() <= MOST_WAITING * told["seconds"].sum()
    for stage in ("tune", "augment"):
        assert (stage in epochs["stage"]) == (name == "resnet34-tensorrt"), stage
    if name == "convnext-speed":
        _aware(made)
    _techniques(name, made["ablations"])


def _small(out: Path, run: str) -> list[str]:
    return [path.parent.name for path in (out / "tables").glob(f"*/{run}.parquet")]


def _figures(name: str, made: dict[str, pl.DataFrame]) -> None:
    """Each row of the study's table that this machine can measure has a figure of this run."""
    here: dict[tuple[str, ...], list[str]] = {}
    for table in compare(presets()[name]("smoke").published, made).comparisons:
        for line in table.lines:
            here.setdefault(line.key, []).extend(line.measured or ())
    for key in MEASURED_ROWS[name]:
        found = here[next((one for one in here if one == key or f"{one[-1]} ".startswith(f"{key[-1]} (")), key)]
        assert any(re.search(r"\d", figure) for figure in found), f"{key}: {found}"
        assert not any(figure.startswith(("skipped", "failed")) for figure in found), found
        if name == "densenet121-imagenet":
            assert sum("±" in figure for figure in found) == 5, "the deviation over two processes, at five batch sizes"


def _aware(made: dict[str, pl.DataFrame]) -> None:
    """Quantization-aware training: a file that is timed, and one that becomes an engine."""
    aware = made["variants"].filter(pl.col("name").str.contains("int8-qat"))
    assert set(aware["setting"]) >= {"qat-u8s8-reduced", "qat-s8s8"}
    assert any(made.endswith("int8-qat-s8s8/engine-int8") for made in aware["name"])
    timed = aware.filter(pl.col("stage") == "qat", pl.col("benchmark"))["name"].to_list()
    assert timed and set(timed) <= set(made["summary"].filter(pl.col("status") == "ok")["variant"])
    assert "qat" in made["epochs"]["stage"]


def _techniques(name: str, ablated: pl.DataFrame) -> None:
    """One row a technique; only what this machine cannot do is skipped, and all says that it is without it."""
    asked = presets()[name]("smoke").ablate
    rows: dict[str, dict[str, Any]] = {row["technique"]: row for row in ablated.to_dicts()}
    assert tuple(rows) == asked.names
    skipped = {technique for technique, row in rows.items() if row["status"] == "skipped"}
    assert {row["status"] for row in rows.values()} <= {"ok", "skipped"}, rows
    for technique, row in rows.items():
        assert (row["status"] == "ok") == (row["error"] is None)
        compared = name == "cifar-architectures" and technique != "none" and technique not in skipped
        assert (row["verdict"] is not None) == compared, "it has five epochs a training"
        if technique in skipped:
            assert {"pin_memory", "precision", "fused_pointwise"} & set(asked.sets(technique)), row
    if rows:
        assert json.loads(rows["all"]["sets"]) == asked.without(skipped).sets("all")
        assert all(technique in rows["all"]["note"] for technique in skipped)

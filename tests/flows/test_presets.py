"""The presets of published studies, run at their smallest scale: each run prints the tables of its study."""

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
# Larger models are tested per stage, family and runtime (test_models, test_quantize, test_runtimes). These tests are
# about how the studies are put together. So each study has one small model, one round, few queries and few epochs. A
# stage that no study's own table shows runs in one study alone.
ONE_INT8 = ("quantize.dynamic=false", "quantize.calibration_images=32")
SMALLER = {
    "resnet34-tensorrt": (
        "data.train_limit=480",
        "data.test_limit=200",
        "train.epochs=2",
        "tune.trials=1",
        "tune.epochs=1",
        "augment.epochs=2",
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
    # This learning rate is that of densenet121-imagenet, so that the training and its export are found stored.
    "runtime-formats": (SMALL_RESNET, "train.epochs=2", "train.learning_rate=2e-3", *ONE_INT8),
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
MEASURED = (
    "benchmark.rounds=1",
    "benchmark.minutes=0.3",
    "benchmark.min_seconds=0.05",
    "benchmark.throughput=false",
    "serve.seconds=0.05",
)
# The largest share of a training step's time that may be spent waiting for images.
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
# A word for each row of a study's own table, which stands in the label of one model alone.
NAMED = {
    "resnet34_tensorrt": ("resnet34",),
    "densenet121_imagenet": ("densenet121",),
    "cifar_architectures": ("efficientnet", "resnet50", "vit"),
    "cifar100_architectures": ("efficientnet", "resnet50", "vit"),
    "runtime_formats": ("resnet34", "densenet121", "efficientnet", "convnext"),
    "convnext_speed": ("convnext",),
}
# Rows of each study's tables for which one small model gives figures on a CPU.
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
    studies = [presets()[name](scale) for scale in SCALES]
    assert len({study.name for study in studies}) == 1
    assert len({study.published for study in studies}) == 1
    assert studies[0].published
    assert len(set(map(str, studies))) == 3
    for stage in STAGES:
        part, field = stage.split(".")
        assert len({bool(getattr(getattr(study, part), field)) for study in studies}) == 1, stage
    if studies[0].published == "densenet121_imagenet":
        # This study's own table alone has the rate with several queries in flight.
        assert all(study.benchmark.throughput for study in studies)
    assert len({study.ablate.names for study in studies}) == 1, "every scale has the same techniques"
    assert len({len(study.train.seeds) > 1 for study in studies}) == 1, (
        "every scale has a spread over seeds, or none has"
    )
    assert len({len(study.models) for study in studies}) == 1
    for study in studies:
        assert not any(0 < study.ablate.epochs * len(study.ablate.seeds) < 5 for _ in study.ablate.names), (
            "fewer than five epochs per technique give no verdict"
        )
        for word in NAMED[study.published]:
            assert sum(word in model.label for model in study.models) == 1, (
                f"exactly one model belongs to the table's row {word}"
            )
    assert (studies[0].data.source, studies[0].data.path) == ("auto", ""), (
        "the smallest scale needs no file, because it takes the digits"
    )
    assert studies[2].train.device == "auto"


@pytest.fixture(scope="module")
def finished_studies(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The artifacts folder of all studies at their smallest scale, and what each study printed."""
    burnish = Burnish(tmp_path_factory.mktemp("studies") / "artifacts", server)
    settings_of_studies = {name: [*MEASURED, *settings] for name, settings in SMALLER.items()}
    # Compiled training is tested in tests/tasks/training/test_loop.py. In these studies it would take half a minute.
    environment = burnish.environment | {"TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(
        programs.command("several_runs", str(burnish.out), json.dumps(settings_of_studies)),
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
def test_a_study_at_its_smallest_scale_prints_its_own_table_with_this_runs_figures(
    name: str, finished_studies: tuple[Path, dict[str, str]]
) -> None:
    out, outputs = finished_studies
    assert TITLES[name] in outputs[name]
    (run,) = (out / "runs").glob(f"{name}-*")
    assert '<h2 id="published">' in (run / "report.html").read_text()
    frames = {table: tables.read(out, table, run.name).collect() for table in _table_names(out, run.name)}
    assert frames["summary"].filter(pl.col("status") == "ok").height
    failed = frames["variants"].filter(pl.col("status") == "failed")
    assert not failed.height, failed["error"].to_list()
    _assert_figures(name, frames)
    epochs = frames["epochs"].filter(pl.col("split") == "train")
    # How long an ablation's plain training waits for images is a result of the ablation, so it has no limit.
    trained = epochs.filter(pl.col("stage") != "ablate")
    assert trained.height
    assert (trained["data_wait"] * trained["seconds"]).sum() <= MOST_WAITING * trained["seconds"].sum()
    for stage in ("tune", "augment"):
        assert (stage in epochs["stage"]) == (name == "resnet34-tensorrt"), stage
    if name == "convnext-speed":
        _assert_qat(frames)
    _assert_techniques(name, frames["ablations"])


def _table_names(out: Path, run: str) -> list[str]:
    return [path.parent.name for path in (out / "tables").glob(f"*/{run}.parquet")]


def _assert_figures(name: str, frames: dict[str, pl.DataFrame]) -> None:
    """Assert that each row of the study's table that this machine can measure has a figure of this run."""
    measured: dict[tuple[str, ...], list[str]] = {}
    for table in compare(presets()[name]("smoke").published, frames).comparisons:
        for line in table.lines:
            measured.setdefault(line.key, []).extend(line.measured or ())
    for key in MEASURED_ROWS[name]:
        figures = measured[
            next((row for row in measured if row == key or f"{row[-1]} ".startswith(f"{key[-1]} (")), key)
        ]
        assert any(re.search(r"\d", figure) for figure in figures), f"{key}: {figures}"
        assert not any(figure.startswith(("skipped", "failed")) for figure in figures), figures
        if name == "densenet121-imagenet":
            assert sum("±" in figure for figure in figures) == 5, (
                "a deviation over two processes at each of five batch sizes"
            )


def _assert_qat(frames: dict[str, pl.DataFrame]) -> None:
    """Assert that quantization-aware training (QAT) gave a form that was timed, and one that became an engine."""
    aware = frames["variants"].filter(pl.col("name").str.contains("int8-qat"))
    assert set(aware["setting"]) >= {"qat-u8s8-reduced", "qat-s8s8"}
    assert any(name.endswith("int8-qat-s8s8/engine-int8") for name in aware["name"])
    timed = aware.filter(pl.col("stage") == "qat", pl.col("benchmark"))["name"].to_list()
    assert timed and set(timed) <= set(frames["summary"].filter(pl.col("status") == "ok")["variant"])
    assert "qat" in frames["epochs"]["stage"]


def _assert_techniques(name: str, ablations: pl.DataFrame) -> None:
    """Assert one row per technique. Those that this machine cannot run are skipped, and the row "all" names them."""
    settings = presets()[name]("smoke").ablate
    rows: dict[str, dict[str, Any]] = {row["technique"]: row for row in ablations.to_dicts()}
    assert tuple(rows) == settings.names
    skipped = {technique for technique, row in rows.items() if row["status"] == "skipped"}
    assert {row["status"] for row in rows.values()} <= {"ok", "skipped"}, rows
    for technique, row in rows.items():
        assert (row["status"] == "ok") == (row["error"] is None)
        compared = name == "cifar-architectures" and technique != "none" and technique not in skipped
        assert (row["verdict"] is not None) == compared, "only this study trains for five epochs, which a verdict needs"
        if technique in skipped:
            assert {"pin_memory", "precision", "fused_pointwise"} & set(settings.sets(technique)), row
    if rows:
        assert json.loads(rows["all"]["sets"]) == settings.without(skipped).sets("all")
        assert all(technique in rows["all"]["note"] for technique in skipped)

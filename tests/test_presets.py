"""The published studies at their smallest scale, as a person runs them: each ends with the study's own tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, Burnish

from flows.presets import presets, scaled
from flows.studies import SCALES
from tasks import tables

STUDIES = [name for name in presets() if scaled(name)]
TITLES = {
    "resnet34-tensorrt": "ResNet-34, one image, as trtexec prints it",
    "densenet121-imagenet": "Techniques by batch size",
    "cifar-architectures": "Accuracy and training time (CIFAR-10)",
    "runtime-formats": "One model, five ways to run it",
    "convnext-speed": "Training",
}
# Larger models are tested by stage, family and runtime (test_models, test_quantize, test_runtimes). Here it is how the
# studies are put together: one small model each, one round and few queries.
SMALLER = {
    "resnet34-tensorrt": ("models=['lenet5']", "train.epochs=3", "augment.epochs=3"),
    "densenet121-imagenet": ("models=['lenet5']", "benchmark.batch_sizes=[1, 8]", "benchmark.processes=1"),
    "cifar-architectures": ("models=[{name='timm:vit_tiny_patch16_224', upsample=32}]",),
    "runtime-formats": ("models=[{name='resnet34', width=16}]",),
    "convnext-speed": ("models=['lenet5']",),
}
MEASURED = ("benchmark.rounds=1", "benchmark.minutes=0.3")
# One process: importing PyTorch and Great Expectations for each takes half a minute.
DRIVER = """
import json, sys
from flows.cli import main
for name, settings in json.loads(sys.argv[2]).items():
    code = main(["run", name, "--out", sys.argv[1], *(f"--set={setting}" for setting in settings)])
    print(f"== {name} {code}", flush=True)
"""
MOST_WAITING = 0.03  # of the time of a step, for images


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_three_scales_of_the_same_stages_and_tables(name: str) -> None:
    made = [presets()[name](scale) for scale in SCALES]
    assert len({study.name for study in made}) == 1
    assert len({study.published for study in made}) == 1
    assert made[0].published
    assert len(set(map(str, made))) == 3
    for stage in ("tune.trials", "augment.policies", "ablate.techniques", "qat.epochs", "export.formats"):
        part, field = stage.split(".")
        assert len({bool(getattr(getattr(study, part), field)) for study in made}) == 1, stage
    assert made[0].data.source == "digits", "the smallest needs no file"
    assert made[2].train.device == "auto"


@pytest.fixture(scope="module")
def printed(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Artifacts of all studies at their smallest scale, and what each printed."""
    burnish = Burnish(tmp_path_factory.mktemp("studies") / "artifacts", server)
    asked = {name: [*settings, *MEASURED] for name, settings in SMALLER.items()}
    done = subprocess.run([sys.executable, "-c", DRIVER, str(burnish.out), json.dumps(asked)], cwd=ROOT, text=True,
                          env=burnish.environment, capture_output=True, check=False, timeout=900)  # fmt: skip
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
    summary = tables.read(out, "summary", run.name).collect()
    assert summary.filter(pl.col("status") == "ok").height
    failed = tables.read(out, "variants", run.name).collect().filter(pl.col("status") == "failed")
    assert not failed.height, failed["error"].to_list()
    epochs = tables.read(out, "epochs", run.name).collect().filter(pl.col("split") == "train")
    # What an ablation's plain training waits is its finding. LeNet-5's epoch of 30 ms is begun and over.
    told = epochs.filter(pl.col("stage") != "ablate", pl.col("model") != "lenet5")
    assert (told["data_wait"] * told["seconds"]).sum() <= MOST_WAITING * told["seconds"].sum()
    for stage in ("tune", "augment"):
        assert (stage in epochs["stage"]) == (name == "resnet34-tensorrt"), stage
    if name == "convnext-speed":  # quantization-aware training: a file that is timed, and one that becomes an engine
        aware = tables.read(out, "variants", run.name).filter(pl.col("name").str.contains("int8-qat")).collect()
        assert set(aware["setting"]) >= {"qat-u8s8-reduced", "qat-s8s8"}
        assert any(made.endswith("int8-qat-s8s8/engine-int8") for made in aware["name"])
        timed = aware.filter(pl.col("stage") == "qat", pl.col("benchmark"))["name"].to_list()
        assert timed and set(timed) <= set(summary.filter(pl.col("status") == "ok")["variant"])
        assert "qat" in epochs["stage"]
    ablated = tables.read(out, "ablations", run.name).collect()
    assert set(ablated["status"]) <= {"ok"}
    assert (ablated.height > 0) == (name in ("cifar-architectures", "convnext-speed"))

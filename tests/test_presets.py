"""The published studies at their smallest scale, as a person runs them: each ends with the study's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.presets import presets, scaled
from flows.studies import SCALES
from tasks import tables

if TYPE_CHECKING:
    from conftest import Burnish

STUDIES = [name for name in presets() if scaled(name)]
TITLES = {
    "resnet34-tensorrt": "ResNet-34, one image, as trtexec prints it",
    "densenet121-imagenet": "Techniques by batch size",
    "cifar-architectures": "Accuracy and training time (CIFAR-10)",
    "runtime-formats": "One model, five ways to run it",
    "convnext-speed": "Training",
}
SMALLER = {
    # Of three and four models two: what is left out is exported, quantized and measured like these.
    "cifar-architectures": ("models=[{name='resnet34', width=16}, {name='timm:vit_tiny_patch16_224', upsample=32}]",),
    "runtime-formats": ("models=[{name='resnet34', width=16}, {name='efficientnet_b0'}]",),
    # torch.compile of a ConvNeXt takes minutes on two cores.
    "convnext-speed": ("models=['lenet5']",),
}
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


@pytest.mark.slow
@pytest.mark.parametrize("name", TITLES)
def test_the_smallest_scale_of_a_study_ends_with_its_own_table(name: str, burnish: Burnish) -> None:
    done = burnish.run(*SMALLER.get(name, ()), study=name)
    assert TITLES[name] in done.stdout
    run = next((burnish.out / "runs").iterdir())
    assert '<h2 id="published">' in (run / "report.html").read_text()
    summary = tables.read(burnish.out, "summary", run.name).collect()
    assert summary.filter(pl.col("status") == "ok").height
    failed = tables.read(burnish.out, "variants", run.name).collect().filter(pl.col("status") == "failed")
    assert not failed.height, failed["error"].to_list()
    epochs = tables.read(burnish.out, "epochs", run.name).collect().filter(pl.col("split") == "train")
    # What an ablation's plain training waits is its finding. Of an epoch of a moment, the first query is much.
    told = epochs.filter(pl.col("stage") != "ablate")
    assert (told["data_wait"] * told["seconds"]).sum() < MOST_WAITING * told["seconds"].sum()
    for stage in ("tune", "augment"):
        assert (stage in epochs["stage"]) == (name == "resnet34-tensorrt"), stage
    ablated = tables.read(burnish.out, "ablations", run.name).collect()
    assert set(ablated["status"]) <= {"ok", "skipped"}
    assert (ablated.height > 0) == (name in ("cifar-architectures", "convnext-speed"))

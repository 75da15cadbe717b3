"""What a MODEL of `burnish optimize` may be: a file, a variant of a run, or a name with its weights; and several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import polars as pl
import pytest

from flows.commands.arguments import parser
from flows.commands.optimize import study_of
from flows.given_files import refuse_unreadable
from flows.plan import planned
from flows.settings import Mistake
from flows.steps import steps
from tasks import tables
from tasks.caching.store import Store
from tasks.records import Study
from tasks.tables import frames
from tests.support.given import classifier
from tests.support.unlabelled import MEAN, STD, unlabelled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Burnish

QUICK = (
    "benchmark.rounds=2",
    "benchmark.processes=1",
    "benchmark.min_seconds=0.05",
    "benchmark.min_queries=8",
    "benchmark.warmup_seconds=0.1",
    "benchmark.runtimes=['onnxruntime']",
    "quantize.settings=['u8s8-reduced']",
    "quantize.calibration_images=8",
    "quantize.max_drop=1.0",
    "select.max_drop=1.0",
)
RUN = "quickstart-20260101-000000"


def described(*arguments: str) -> Study:
    return study_of(parser().parse_args(["optimize", *arguments, "--data", "photos"]))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with a finished run of one model: weights, its ONNX form, an int8 form, a failed one."""
    folder = tmp_path_factory.mktemp("artifacts")
    store = Store(folder / "store")
    onnx.save(classifier(), folder / "small.onnx")
    artifact = store.put(folder / "small.onnx", "onnx")
    made = {"path": artifact.path, "sha256": artifact.sha256, "size_bytes": artifact.size_bytes, "status": "ok"}
    common = {"model": "small", "stage": "export", "precision": "fp32", "benchmark": True}
    rows = [
        {**common, **made, "name": "small/train", "format": "safetensors"},
        {**common, **made, "name": "small/train/onnx", "format": "onnx"},
        {**common, **made, "name": "small/train/onnx/int8-u8s8", "format": "onnx", "precision": "int8"},
        {**common, "name": "small/train/onnx/int8-s8s8", "format": "onnx", "status": "failed", "error": "no memory"},
    ]
    (folder / "tables" / "variants").mkdir(parents=True)
    frames.frame("variants", rows).write_parquet(folder / "tables" / "variants" / f"{RUN}.parquet")
    (folder / "runs" / RUN).mkdir(parents=True)
    (folder / "runs" / RUN / "study.toml").write_text("name = 'quickstart'\n")
    (folder / "runs" / RUN / "result.json").write_text("{}")
    return folder


def test_a_variant_of_a_run_is_the_onnx_file_that_the_run_stored(out: Path) -> None:
    for more in ((), ("--run", RUN)):
        study = described("small/train/onnx", "--out", str(out), *more)
        (model,) = study.models
        assert model.label == "small-train-onnx"
        assert onnx.load(model.file) == classifier()
        refuse_unreadable(study)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "small/train",
            "small/train is safetensors in fp32; forms are made of ONNX in fp32 or fp16: small/train/onnx$",
        ),
        ("small/train/onnx/int8-u8s8", "is onnx in int8; forms are made of ONNX in fp32 or fp16: small/train/onnx$"),
        ("small/train/onnx/int8-s8s8", "was not made: failed, no memory"),
        ("small/onnx", f"is neither a file nor a variant of run {RUN}; variants like it: small/train/onnx"),
    ],
)
def test_a_variant_that_no_forms_are_made_of_is_one_line(out: Path, name: str, message: str) -> None:
    with pytest.raises(Mistake, match=message):
        described(name, "--out", str(out))


def test_a_path_that_is_no_file_is_said_where_there_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"nets/resnet is no ONNX file in .*, and there is no run in "):
        described("nets/resnet", "--out", str(tmp_path))
    with pytest.raises(Mistake, match="no runs in "):
        described("a/b", "--run", "other", "--out", str(tmp_path))


def test_models_of_several_kinds_are_one_study_and_each_name_takes_its_own_weights() -> None:
    study = described(
        *("a.onnx", "timm:resnet18", "b.onnx", "torchvision:resnet18"),
        *("--weights", "one.pth", "--weights", "hub", "--layout", "nhwc"),
    )
    assert [model.label for model in study.models] == [
        "a",
        "timm:resnet18-pretrained",
        "b",
        "torchvision:resnet18-pretrained",
    ]
    assert [model.pretrained for model in study.models] == [None, "one.pth", None, "hub"]
    assert [model.layout for model in study.models] == ["nhwc", None, "nhwc", None]
    measured = {step.model for step in steps(planned(study).study) if step.stage in ("adopt", "export")}
    assert measured == {model.label for model in study.models}


@pytest.mark.slow
def test_unlabelled_images_and_then_a_variant_of_that_run(burnish: Burnish, tmp_path: Path) -> None:
    file, photos, predictions = unlabelled(tmp_path)
    common = ("--data", str(photos), "--unlabelled", "--out", str(burnish.out), *(f"--set={text}" for text in QUICK))
    stated = ("--mean", str(MEAN), "--std", str(STD), "--order", "rgb", "--image-size", "8")
    done = burnish("optimize", str(file), *common, code=2)
    assert done.stderr.splitlines()[-1].endswith(
        "give models.order (--order), data.mean and data.std (--mean, --std), data.image_size (--image-size)"
    )
    done = burnish("optimize", str(file), *common, *stated, "--for", "size", "--memory-mb", "10000")
    words = " ".join(done.stdout.split())
    assert "agree-" in words and "agreement: of the 60 held-out images of " in words
    assert "agreement with the original on 60 unlabelled images; nothing is known about accuracy" in words
    (run,) = [path.parent.name for path in (burnish.out / "runs").glob("*/result.json")]
    summary = tables.read(burnish.out, "summary", run).collect()
    (winner,) = summary.filter(role="winner").to_dicts()
    assert winner["size_bytes"] == summary.filter(pl.col("eligible"))["size_bytes"].min()
    classified = tables.read(burnish.out, "predictions", run).filter(variant="small/given", runtime="onnxruntime")
    rows = classified.select("file", "label", "prediction").collect().to_dicts()
    of_file = {f"{number:03}.png": int(label) for number, label in enumerate(predictions)}
    assert all(row["label"] == row["prediction"] == of_file[row["file"].rpartition("/")[2]] for row in rows)
    # What burnish made of the file says itself how images are prepared.
    burnish("optimize", "small/given", "--run", run, *common, "--for", "throughput")
    (again,) = {path.parent.name for path in (burnish.out / "runs").glob("*/result.json")} - {run}
    measured = tables.read(burnish.out, "summary", again).filter(status="ok").collect()
    assert set(measured["model"]) == {"small-given"} and measured["throughput"].null_count() == 0


def test_weights_that_do_not_say_which_model_they_are_of_are_refused() -> None:
    with pytest.raises(Mistake, match=r"--weights: given 1 times for 2 models \(lenet5, timm:resnet18\); give it once"):
        described("lenet5", "timm:resnet18", "--weights", "a.pth")
    with pytest.raises(Mistake, match=r"a\.onnx has its own weights"):
        described("a.onnx", "--weights", "a.pth")

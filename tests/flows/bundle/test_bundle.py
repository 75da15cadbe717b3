"""What stands in a bundle: the README's code runs, the folded model agrees, and the lineage names every parent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from flows.bundle import write
from flows.bundle.golden import choose
from flows.bundle.licence import OWN, UNKNOWN, licence_of
from flows.bundle.preparation import preparation_of
from flows.bundle.source import source_of
from flows.cli import main
from tasks import tables
from tasks.records import Data, Model, Study
from tests.flows.bundle.conftest import VARIANTS
from tests.support.bundles import own_verify
from tests.support.servers import RUN, FinishedRun, environment

if TYPE_CHECKING:
    import onnx


def blocks(bundle: Path) -> list[str]:
    """Return the README's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", (bundle / "README.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("runtime", VARIANTS)
def test_the_code_of_the_readme_runs_as_written(runtime: str, bundles: dict[str, Path]) -> None:
    found = blocks(bundles[runtime])
    assert len(found) == (1 if runtime == "torchscript" else 2)
    answer = json.loads((bundles[runtime] / "golden" / "golden.json").read_text())["images"][0]["answer"]
    largest = np.load(bundles[runtime] / "golden" / "logits.npy")[0].max()
    for number, code in enumerate(found):
        assert len([line for line in code.splitlines() if line]) <= 11
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=bundles[runtime],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        assert lines[0].split()[0] == answer
        if number == 0:
            assert float(lines[0].split()[1]) == pytest.approx(largest, rel=1e-3)


def test_the_folded_model_takes_uint8_images_in_batches_and_gives_probabilities(bundles: dict[str, Path]) -> None:
    bundle = bundles["onnxruntime"]
    session = onnxruntime.InferenceSession(str(bundle / "folded.onnx"))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("image", "tensor(uint8)", [48, 48, 3])
    assert (given.name, given.shape[1]) == ("probabilities", 1000)
    pixels, logits = (np.load(bundle / "golden" / f"{name}.npy") for name in ("inputs", "logits"))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    for images in (1, 8):
        (answer,) = session.run(None, {"image": pixels[:images]})
        np.testing.assert_allclose(answer, (weights / weights.sum(axis=1, keepdims=True))[:images], rtol=1e-4)


def test_an_int8_file_is_folded_too_and_torchscript_is_not(
    colour: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colour.deploy(tmp_path / "int8", "--variant", "lenet5/train/onnx/int8", "--folded")
    assert json.loads((tmp_path / "int8" / "golden" / "golden.json").read_text())["tolerance"] == 0.05
    assert own_verify(tmp_path / "int8").returncode == 0
    colour.deploy(tmp_path / "pt", "--variant", "lenet5/train/torchscript", "--folded", code=2)
    assert "is torchscript; a preparation is folded into ONNX alone" in capsys.readouterr().err
    assert not (tmp_path / "pt").exists()


def test_a_folded_model_that_does_not_agree_is_not_written(
    colour: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = write.fold
    monkeypatch.setattr(
        write, "fold", lambda file, target, about: fold(file, target, about | {"mean": [0.9, 0.0, 0.2]})
    )
    colour.deploy(tmp_path / "served", "--folded", code=1)
    assert "the folded model differs from model.onnx by" in capsys.readouterr().err
    assert not (tmp_path / "served").exists()


def test_the_lineage_names_every_parent_the_machine_and_the_licence(colour: FinishedRun, tmp_path: Path) -> None:
    folder = colour.deploy(tmp_path / "served", "--variant", "lenet5/train/onnx/int8")
    lineage = json.loads((folder / "lineage.json").read_text())
    chain = ["lenet5/train", "lenet5/train/onnx", "lenet5/train/onnx/int8"]
    artifacts = {variant.name: variant.artifact for variant in colour.variants}
    assert [form["name"] for form in lineage["variants"]] == chain
    for form in lineage["variants"]:
        artifact = artifacts[form["name"]]
        assert artifact
        assert form["sha256"] == artifact.sha256
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == lineage["variants"][-1]["sha256"]
    assert (lineage["run"], lineage["licence"]) == (RUN, {"weights": OWN})
    assert (lineage["machine"]["cpu_model"], lineage["libraries"]) == ("a processor", {"numpy": "2.0"})
    assert lineage["measured"]["latency_median_ms"] == 5.0
    # A path of the machine that made it would tell strangers who made it.
    assert str(colour.out) not in (folder / "lineage.json").read_text()


def test_a_run_without_its_images_is_deployed_without_golden_outputs(
    colour: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = colour.out / "tables" / "predictions" / f"{RUN}.parquet"
    table.rename(tmp_path / "predictions.parquet")
    try:
        folder = colour.deploy(tmp_path / "served")
        colour.deploy(tmp_path / "folded", "--folded", code=2)
    finally:
        (tmp_path / "predictions.parquet").rename(table)
    output = capsys.readouterr()
    assert "note: no golden outputs, so that the bundle cannot be verified: the run does not say" in output.out
    assert "--folded: without golden outputs" in output.err
    assert main(["verify", str(folder)]) == own_verify(folder).returncode == 2
    assert "has no golden outputs" in capsys.readouterr().err


def test_golden_images_are_of_many_classes_and_rightly_classified_where_there_are_such() -> None:
    predictions = [
        {"image": number, "label": number % 30, "prediction": number % 30 if number >= 30 else -1}
        for number in range(90)
    ]
    chosen = choose(predictions)
    assert [row["label"] for row in chosen] == [0, 4, 8, 12, 17, 21, 25, 29]
    assert all(row["prediction"] == row["label"] for row in chosen)
    of_two_classes = choose([row for row in predictions if row["label"] < 2])
    assert sorted(row["label"] for row in of_two_classes) == [0, 0, 0, 1, 1, 1]
    assert choose([]) == []


def test_the_licence_is_told_where_whoever_published_the_weights_states_it() -> None:
    assert licence_of(None) == licence_of(Model(file="a.onnx")) == UNKNOWN
    assert licence_of(Model(name="lenet5", pretrained="mine.safetensors")) == UNKNOWN
    assert licence_of(Model(name="lenet5", pretrained="package:no-such-package-here")) == UNKNOWN
    assert "(what the package numpy 2." in licence_of(Model(name="lenet5", pretrained="package:numpy"))
    assert licence_of(Model(name="timm:mobilenetv3_small_050", pretrained="hub")) == "apache-2.0 (what timm states)"


def dynamic(model: onnx.ModelProto) -> None:
    from onnx import helper

    model.graph.node.insert(0, helper.make_node("DynamicQuantizeLinear", ["input"], ["a", "b", "c"]))


def fixed(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def test_only_a_model_whose_answers_do_not_depend_on_the_batch_may_be_batched(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    import onnx

    model = bundles["onnxruntime"] / "model.onnx"
    assert write._takes_any_batch(model)
    for change in (dynamic, fixed):
        changed = onnx.load(str(model))
        change(changed)
        onnx.save(changed, str(tmp_path / "changed.onnx"))
        assert not write._takes_any_batch(tmp_path / "changed.onnx")


def test_the_server_batches_by_itself_only_where_the_run_measured_that_it_pays() -> None:
    where = {"status": "ok", "conditions": None}

    def rows(**rates: float) -> list[dict[str, Any]]:
        return [where | {"batch_size": int(size[1:]), "images_per_second": rate} for size, rate in rates.items()]

    assert write._paying_batch(rows(b1=100.0, b8=150.0, b32=140.0)) == 8
    assert write._paying_batch(rows(b1=100.0, b8=110.0)) == 1
    assert write._paying_batch(rows(b8=100.0)) == 1
    assert write._paying_batch([row | {"conditions": "hot"} for row in rows(b1=100.0, b8=150.0)]) == 1
    assert write._paying_batch([]) == 1


def test_images_for_a_given_model_are_resized_as_was_found_for_it_unless_the_study_says_how(
    colour: FinishedRun, tmp_path: Path
) -> None:
    colour.write_table(
        "preparations",
        [
            {"model": "mine", "chosen": False, "resize": 48},
            {"model": "mine", "chosen": True, "resize": 56},
            {"model": "other", "chosen": True, "resize": 64},
        ],
    )
    (row,) = [row for row in tables.read(colour.out, "summary", RUN).collect().to_dicts() if row["role"] == "winner"]
    source = source_of(colour.out, RUN, row)
    given = Study(models=(Model(file="mine.onnx"), Model(file="other.onnx")), skip=("tune", "augment", "prune"))
    assert preparation_of(replace(source, study=given))["resize"] == 56
    told = given.model_copy(update={"data": Data(image_size=48, resize=50)})
    assert preparation_of(replace(source, study=told))["resize"] == 50


def venv_with(folder: Path, *packages: str) -> Path:
    """Make a virtual environment with these packages, and return its Python. Offline, the test is skipped."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--python", python]
    if not uv:
        install = [sys.executable, "-m", "pip", "--python", python, "install"]
    done = subprocess.run([*install, "--quiet", *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"packages cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return python


# PyTorch for TorchScript is not among them, because it is a download of gigabytes.
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bundle_is_verified_in_a_fresh_environment_without_burnish(
    bundles: dict[str, Path], tmp_path: Path, runtime: str
) -> None:
    pins = (bundles[runtime] / "requirements.txt").read_text().splitlines()
    needed = [line for line in pins if line.partition("==")[0] in ("numpy", "pillow", runtime)]
    python = venv_with(tmp_path / "venv", *needed)
    without = subprocess.run([python, "-I", "-c", "import flows"], capture_output=True, check=False, env=environment())
    assert without.returncode == 1
    done = own_verify(bundles[runtime], python)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified: 8 of 8 outputs as golden" in done.stdout

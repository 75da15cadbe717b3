"""The folder that `burnish deploy` writes predicts real images as the pipeline does, and runs without burnish."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flows.commands.deploy import _doubts
from tasks import runtimes, tables
from tasks.datasets import open_source
from tasks.records import Select, Study
from tests.support.paths import ROOT
from tests.support.servers import RUN, FinishedRun, colour_run, environment, grey_run, load_app, png, post, served

if TYPE_CHECKING:
    pass


PROGRAMS = (
    "app",
    "batches",
    "bodies",
    "connections",
    "decode",
    "decoders",
    "metrics",
    "model",
    "pixels",
    "preparation",
    "quota",
    "verify",
)
"""Names of the programs in a bundle."""


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run on scikit-learn's digits: greyscale, normalised with statistics of the training images."""
    return grey_run(tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run on JPEG photographs of ImageNet, which are resized and cropped."""
    return colour_run(tmp_path_factory.mktemp("colour"))


def probabilities(answer: dict[str, Any], classes: int) -> np.ndarray:
    """Return the probability of each class, in the order of the classes. Classes without a prediction are NaN."""
    by_class = np.full(classes, np.nan)
    for prediction in answer["predictions"]:
        by_class[prediction["index"]] = prediction["probability"]
    return by_class


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_the_deployed_server_predicts_as_the_pipeline_does(grey: FinishedRun, tmp_path: Path) -> None:
    folder = grey.deploy(tmp_path / "served")
    expected_logits = grey.logits("onnxruntime", "lenet5/train/onnx")
    with served(folder) as url:
        for pixels, logits in zip(grey.pixels, expected_logits, strict=True):
            status, answer = post(f"{url}/predict?top=10", png(pixels))
            assert status == 200
            assert answer["predictions"][0]["index"] == logits.argmax()
            assert answer["predictions"][0]["class"] == grey.data.classes[logits.argmax()]
            np.testing.assert_allclose(probabilities(answer, 10), softmax(logits), atol=1e-5)
        assert len(post(f"{url}/predict", png(grey.pixels[0]))[1]["predictions"]) == 5
        for body, query, reason in (
            (b"not an image", "", "undecodable image"),
            (b"", "", "empty image"),
            (png(grey.pixels[0])[:60], "", "undecodable image"),
            (png(grey.pixels[0]), "?top=0", "top: a whole number"),
        ):
            status, answer = post(f"{url}/predict{query}", body)
            assert status == 400
            assert reason in answer["error"]
            assert "\n" not in answer["error"]
        assert post(f"{url}/predict", bytes((32 << 20) + 1))[0] == 413
        assert json.load(urllib.request.urlopen(f"{url}/healthz"))["status"] == "ok"


@pytest.mark.parametrize(
    ("runtime", "variant"),
    [
        ("onnxruntime", "lenet5/train/onnx/int8"),
        ("openvino", "lenet5/train/onnx"),
        ("openvino", "lenet5/train/onnx/ir"),
        ("torchscript", "lenet5/train/torchscript"),
    ],
)
def test_a_deployed_folder_prepares_photographs_as_the_pipeline_does_in_every_runtime(
    colour: FinishedRun,
    tmp_path: Path,
    runtime: str,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    colour.summarise({(variant, runtime): 1.0})
    app = load_app(colour.deploy(tmp_path / "served", "--variant", variant), monkeypatch)
    images = [image for part in open_source(colour.settings).parts.values() for image, _, _ in part]
    for image, inputs, logits in zip(images, colour.inputs, colour.logits(runtime, variant), strict=True):
        np.testing.assert_array_equal(app.prepare(image)[0], inputs)
        status, answer = app.predict(image, "1000")
        assert status == 200
        np.testing.assert_allclose(probabilities(answer, len(logits)), softmax(logits), rtol=1e-4)


def test_the_handler_for_serverless_functions_predicts_as_the_pipeline_does(
    grey: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = load_app(grey.deploy(tmp_path / "served"), monkeypatch)
    body = base64.b64encode(png(grey.pixels[3])).decode()
    event = {"rawPath": "/predict", "body": body, "isBase64Encoded": True, "queryStringParameters": {"top": "2"}}
    answer = app.handler(event, None)
    assert answer["statusCode"] == 200
    predictions = json.loads(answer["body"])["predictions"]
    assert len(predictions) == 2
    assert predictions[0]["index"] == grey.logits("onnxruntime", "lenet5/train/onnx")[3].argmax()
    assert app.handler({"rawPath": "/healthz"}, None)["statusCode"] == 200
    for bad_body, reason in (("%%%", "not base64"), ("", "empty image")):
        answer = app.handler({"body": bad_body, "isBase64Encoded": True}, None)
        assert answer["statusCode"] == 400
        assert reason in json.loads(answer["body"])["error"]


def test_a_deployed_folder_describes_its_model_and_pins_its_requirements(grey: FinishedRun, tmp_path: Path) -> None:
    folder = grey.deploy(tmp_path / "served")
    description = json.loads((folder / "model.json").read_text())
    variant = next(variant for variant in grey.variants if variant.name == "lenet5/train/onnx")
    assert variant.artifact
    assert description["sha256"] == variant.artifact.sha256
    assert (folder / description["file"]).stat().st_size == variant.artifact.size_bytes
    assert json.loads((folder / "preparation.json").read_text())["classes"] == list(grey.data.classes)
    assert (folder / "labels.txt").read_text().splitlines() == list(grey.data.classes)
    assert (description["top1"], description["run"], description["variant"], description["precision"]) == (
        0.5,
        RUN,
        variant.name,
        "fp32",
    )
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in pins] == ["numpy", "onnxruntime", "pillow", "starlette", "uvicorn"]
    assert all(line.partition("==")[2] for line in pins)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "Dockerfile",
        "README.md",
        "SHA256SUMS",
        *(f"{name}.py" for name in PROGRAMS),
        "golden",
        "labels.txt",
        "lineage.json",
        "model.json",
        "model.onnx",
        "page.html",
        "preparation.json",
        "requirements.txt",
    }
    # Deploying into the folder again is accepted, because `burnish deploy` wrote it.
    grey.deploy(folder)


def test_a_winner_that_cannot_be_served_alone_is_replaced_by_the_fastest_form_that_can(
    grey: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with grey.restored():
        grey.summarise({("lenet5/train", "torch_compile"): 0.5, ("lenet5/train/onnx", "openvino"): 1.0})
        folder = grey.deploy(tmp_path / "served")
        printed = capsys.readouterr().out
        assert (
            "the winner, lenet5/train on torch_compile, cpu, batch 1, cannot be served alone; deployed instead"
            in printed
        )
        assert json.loads((folder / "model.json").read_text())["runtime"] == "openvino"
        grey.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, device="cuda:0")
        grey.deploy(tmp_path / "none", code=2)
        assert "cannot be served alone, nor any form that is accurate enough" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_deploying_another_variant_than_the_winner_says_why_it_did_not_win(
    grey: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, winner = "lenet5/train/torchscript", "lenet5/train/onnx"
    for number, (changes, reason) in enumerate(
        (
            ({"drop": 0.0, "eligible": True}, "it takes 2.00 ms"),
            (
                {"drop": 0.0, "eligible": False, "conditions": "windows unstable"},
                "bad conditions (windows unstable), so that",
            ),
            (
                {"drop": 0.125, "eligible": False},
                "it loses 0.125 of the reference's accuracy, where the study allows 0.01",
            ),
        )
    ):
        with grey.restored():
            grey.summarise({(winner, "onnxruntime"): 1.0, (other, "torchscript"): 2.0})
            rows = tables.read(grey.out, "summary", RUN).collect().to_dicts()
            grey.write_table("summary", [row | (changes if row["variant"] == other else {}) for row in rows])
            folder = grey.deploy(tmp_path / f"served-{number}", "--variant", other)
            (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
            assert f"{other} on torchscript, cpu, batch 1, is not the run's winner (that is {winner}" in note
            assert reason in note
            assert json.loads((folder / "model.json").read_text())["variant"] == other
            grey.deploy(tmp_path / f"winner-{number}", "--variant", winner)
            assert "note: " not in capsys.readouterr().out


def test_a_variant_that_is_not_sure_enough_to_keep_the_rule_is_deployed_with_a_note() -> None:
    row = {"variant": "net/train/onnx", "runtime": "onnxruntime", "device": "cpu", "batch_size": 1, "role": None}
    study = Study(select=Select(confidence="shown"))
    for within, drop, reason in (
        ("likely", 0.004, "it is not shown to lose at most 1 point"),
        ("not shown", 0.02, "it loses 0.020 of the reference's accuracy, where the study allows 0.01"),
    ):
        (note,) = _doubts({**row, "conditions": None, "drop": drop, "within": within}, None, study)
        assert note.endswith(reason)


def test_deploy_refuses_a_mistake_in_one_line_with_exit_code_2(
    grey: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign_folder = tmp_path / "foreign"
    foreign_folder.mkdir()
    (foreign_folder / "mine.txt").write_text("mine")
    # Others call their files so, too.
    (foreign_folder / "model.json").write_text('{"mine": 1}')
    for target, arguments, reason in (
        (foreign_folder, (), "is no folder that `burnish deploy` wrote"),
        (tmp_path / "a", ("--variant", "lenet5/train"), "cannot be served; only files measured on cpu in onnxruntime"),
        (tmp_path / "a", ("--variant", "lenet6"), "is no variant of"),
        (tmp_path / "a", ("no-such-run",), "no run 'no-such-run'"),
    ):
        grey.deploy(target, *arguments, code=2)
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    assert (foreign_folder / "mine.txt").read_text() == "mine"
    with grey.restored():
        grey.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0})
        grey.deploy(tmp_path / "a", "--variant", grey.variants[-1].name, code=2)
    assert "was made, but not measured; only files measured on cpu" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_pinned_requirements_of_a_deployed_folder_are_all_that_it_needs(grey: FinishedRun, tmp_path: Path) -> None:
    """The folder runs in a new virtual environment, in which nothing of this project is installed."""
    folder = grey.deploy(tmp_path / "served")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt"], cwd=folder, check=True
    )
    code = "import app, sys; print(app.predict(open(sys.argv[1], 'rb').read(), '1')); app.application()"
    (tmp_path / "digit.png").write_bytes(png(grey.pixels[0]))
    done = subprocess.run(
        [python, "-c", code, tmp_path / "digit.png"],
        cwd=folder,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"'index': {grey.logits('onnxruntime', 'lenet5/train/onnx')[0].argmax()}" in done.stdout


def session_options(options: Any) -> dict[str, Any]:
    """Return all options of an ONNX Runtime session but those of its log."""
    attributes = {
        name: getattr(options, name)
        for name in dir(type(options))
        if not name.startswith("_") and not callable(getattr(options, name)) and "log" not in name
    }
    entries = ("session.force_spinning_stop", "session.intra_op.allow_spinning", "session.set_denormal_as_zero")
    return attributes | {name: options.get_session_config_entry(name) for name in entries if has_entry(options, name)}


def has_entry(options: Any, name: str) -> bool:
    try:
        options.get_session_config_entry(name)
    except RuntimeError:
        # ONNX Runtime raises this for an entry that was never set.
        return False
    return True


def test_a_deployed_folder_opens_onnxruntime_with_the_options_it_was_measured_with(
    grey: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    recorded_options: list[dict[str, Any]] = []
    inference_session = onnxruntime.InferenceSession

    def recording_session(path: str, options: Any, **more: Any) -> Any:
        recorded_options.append(session_options(options))
        return inference_session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording_session)
    grey.logits("onnxruntime", "lenet5/train/onnx")
    load_app(grey.deploy(tmp_path / "served"), monkeypatch)
    measured, golden, deployed = recorded_options
    assert measured == golden == deployed
    assert measured["execution_mode"] == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert measured["session.force_spinning_stop"] == "1"


@pytest.mark.parametrize("runtime", ["openvino", "openvino_bf16"])
def test_a_deployed_folder_compiles_for_openvino_with_the_settings_it_was_measured_with(
    grey: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    import openvino

    reason = runtimes.load(runtime).unavailable("cpu")
    recorded_calls: list[tuple[Any, ...]] = []
    compile_model = openvino.Core.compile_model

    def recording_compile_model(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        recorded_calls.append((str(model.input(0).partial_shape), device, config))
        return compile_model(core, model, device, config)

    with grey.restored():
        grey.summarise({("lenet5/train/onnx", runtime): 1.0})
        folder = grey.deploy(tmp_path / "served")
    precision_hint = json.loads((folder / "model.json").read_text())["settings"]["INFERENCE_PRECISION_HINT"]
    assert precision_hint == ("bf16" if runtime.endswith("bf16") else "f32")
    monkeypatch.setattr(openvino.Core, "compile_model", recording_compile_model)
    # A deployed folder refuses to run in another precision than the one it was measured in.
    if reason:
        with pytest.raises(
            SystemExit,
            match=r"(measured in bf16, which|in bf16, as it was measured, on) this CPU",
        ):
            load_app(folder, monkeypatch)
        return
    grey.logits(runtime, "lenet5/train/onnx")
    load_app(folder, monkeypatch)
    assert recorded_calls[0] == recorded_calls[-1]
    assert recorded_calls[0][0] == "[1,1,8,8]"


def test_deploy_remarks_on_a_winner_at_batch_8_and_refuses_a_run_without_winner(
    grey: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with grey.restored():
        grey.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, batch=8)
        grey.deploy(tmp_path / "served")
        printed = capsys.readouterr().out
        assert (
            "it was chosen at batch size 8, the server answers one image per query, which this run did not measure"
            in printed
        )
        grey.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, winner=False)
        grey.deploy(tmp_path / "none", code=2)
        printed = capsys.readouterr().err
        assert f"run {RUN} has no winner, so there is nothing to deploy by itself" in printed
        assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [("--help", 0, "python app.py"), ("--port=1", 2, "takes no arguments, got '--port=1'")],
)
def test_the_server_program_prints_its_usage_and_refuses_arguments(argument: str, code: int, words: str) -> None:
    program = ROOT / "flows" / "commands" / "deployed" / "app.py"
    ended = subprocess.run([sys.executable, program, argument], text=True, capture_output=True, timeout=60, check=False)
    assert ended.returncode == code
    assert words in (ended.stdout if code == 0 else ended.stderr)

"""`burnish optimize`: the study that a command line describes, and what is refused."""

from __future__ import annotations

import pytest

from flows.cli import main
from flows.commands.arguments import parser
from flows.commands.optimize import study_of
from flows.settings import Mistake
from tasks.records import Study


def described(*arguments: str) -> Study:
    return study_of(parser().parse_args(["optimize", *arguments]))


def test_a_model_and_images_are_a_study_that_loses_at_most_half_a_point() -> None:
    study = described("nets/a.onnx", "--data", "photos")
    assert [(model.file, model.label) for model in study.models] == [("nets/a.onnx", "a")]
    assert study.data.path == "photos"
    assert study.select.max_drop == study.quantize.max_drop == pytest.approx(0.005)
    assert (study.train.epochs, study.prune.ratios, study.serve.seconds) == (0, (), 0)


def test_options_are_settings_of_the_study() -> None:
    study = described(
        *("a.onnx", "b.onnx", "--data", "photos", "--max-drop", "1.5", "--batch", "8", "--device", "cuda:0"),
        *("--mean", "0.5", "--std", "0.2", "--order", "bgr", "--set", "benchmark.rounds=2"),
    )
    assert [model.order for model in study.models] == ["bgr", "bgr"]
    assert study.select.max_drop == pytest.approx(0.015)
    assert (study.benchmark.batch_sizes, study.benchmark.devices, study.benchmark.rounds) == ((8,), ("cuda:0",), 2)
    assert (study.data.mean, study.data.std) == ((0.5,), (0.2,))


def test_a_named_model_takes_its_weights_from_a_file_or_from_the_hub() -> None:
    assert described("lenet5", "--data", "photos").models[0].pretrained == "hub"
    assert described("timm:resnet18", "--data", "photos", "--weights", "a.pth").models[0].pretrained == "a.pth"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.onnx", "--data", "p", "--weights", "a.pth"), "--weights: a.onnx has its own weights"),
        (("lenet5", "--data", "p", "--order", "bgr"), "--order is for a model that is given as an ONNX file"),
        (("lenet6", "--data", "p"), "models.0.name: .*unknown model 'lenet6'"),
        (("a.onnx", "--data", "p", "--mean", "0.5"), "mean and std go together"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(Mistake, match=message):
        described(*arguments)


def test_a_file_that_is_missing_is_one_line(tmp_path, capsys) -> None:
    assert main(["optimize", str(tmp_path / "a.onnx"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("burnish: ") and "a.onnx" in line

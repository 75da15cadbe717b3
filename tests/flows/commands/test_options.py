"""Values on the command line: empty ones are refused, lists take commas, and misspelt words get suggestions."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from flows import cli
from flows.commands.arguments import parser
from flows.settings import Mistake, load


def refusal_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the line of standard error with which burnish refuses these arguments."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as exit_request:
        # The parser ends the program itself.
        code = int(str(exit_request.code))
    assert code == 2
    (refusal,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("burnish: ")]
    return refusal


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("report", ""), "RUN: an empty text is no run"),
        (("why", " "), "RUN: an empty text is no run"),
        (("deploy", "", "--to", "x"), "RUN: an empty text is no run"),
        (("deploy", "--to", ""), "--to: an empty text is no folder"),
        (("deploy", "--to", "x", "--variant", ""), "--variant: an empty text is no name"),
        (("run", ""), "PRESET|FILE.toml: an empty text is no preset or file"),
        (("run", "quickstart", "--out", ""), "--out: an empty text is no folder"),
        (("run", "quickstart", "--set", ""), "--set: an empty text is no setting"),
        (("run", "quickstart", "--skip", ""), "--skip: an empty text is no name"),
        (("bench", ""), "FILE: an empty text is no file"),
        (("bench", "a", "--reference", ""), "--reference: an empty text is no file"),
        (("bench", "a", "--runtime", "eager,,openvino"), "--runtime: an empty text is no name (in 'eager,,openvino')"),
        (("profile", ""), "VARIANT|FILE: an empty text is no variant or file"),
        (("profile", "--run", ""), "--run: an empty text is no run"),
    ],
)
def test_an_empty_text_is_refused_as_the_value_of_any_argument(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], refusal: str
) -> None:
    assert f"burnish: {refusal}; see burnish {arguments[0]} --help" == refusal_of(capsys, *arguments)


def test_options_that_can_be_repeated_also_take_values_separated_by_commas() -> None:
    top = parser()
    words = "run quickstart --skip build,tune --skip prune --again train --again export,build"
    run = top.parse_args(words.split())
    assert run.skip == ["build", "tune", "prune"]
    assert run.again == ["train", "export", "build"]
    assert load("quickstart", [], skip=run.skip).skip == ("build", "tune", "prune")
    words = "bench a --runtime eager --runtime openvino,onnxruntime --batch 1,2 --batch 8"
    bench = top.parse_args(words.split())
    assert bench.runtime == ["eager", "openvino", "onnxruntime"]
    assert bench.batch == [1, 2, 8]
    plain = top.parse_args(["bench", "a"])
    assert (plain.runtime, plain.batch) == ([], [])


@pytest.mark.parametrize(
    ("setting", "explanation"),
    [
        ("models=lenet5", """models: expected a list, e.g. models=["lenet5"] (got 'lenet5')"""),
        ("models=[lenet5, resnet34]", 'e.g. models=["lenet5", "resnet34"] '),
        ("benchmark.batch_sizes=8", "e.g. benchmark.batch_sizes=[8] (got 8)"),
        ("benchmark.batch_sizes=1,8", "e.g. benchmark.batch_sizes=[1, 8] "),
        (
            'models=[{"name": "lenet5"}]',
            'in TOML, where a table is written {name = value}, e.g. models=[{name="lenet5"}]',
        ),
        ('models=["lenet6"]', "unknown model 'lenet6'; did you mean lenet5? accepted: "),
        ('models=["ResNet-34"]', "did you mean resnet34? "),
        ('benchmark.runtimes=["onnx"]', "unknown runtime 'onnx'; did you mean onnxruntime? accepted: "),
        ('quantize.settings=["u8s8reduced"]', "did you mean u8s8-reduced? "),
        ("data.source=fodler", "did you mean folder? "),
        ("train.optimizer=adamv", "should be 'sgd', 'adamw' or 'muon'; did you mean adamw? (got 'adamv')"),
        ('skip=["quantise"]', "there is no stage 'quantise'; did you mean quantize? accepted: "),
        ("trian.epochs=3", "unknown key trian; did you mean train? "),
        ("learning_rate=3", "unknown key learning_rate; did you mean train.learning_rate or prune.learning_rate"),
        ("train.epoch=3", "unknown key train.epoch; did you mean epochs? "),
    ],
)
def test_a_refused_setting_comes_with_a_suggestion_or_an_example(setting: str, explanation: str) -> None:
    with pytest.raises(Mistake) as raised:
        load("quickstart", [setting])
    assert explanation in str(raised.value)


def test_the_form_of_a_list_that_a_refusal_shows_is_accepted() -> None:
    assert load("quickstart", ['models=["lenet5"]']).models[0].name == "lenet5"
    assert load("quickstart", ["benchmark.batch_sizes=[1, 8]"]).benchmark.batch_sizes == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("runn", "quickstart"), "there is no 'runn'; did you mean run? accepted: run, presets"),
        (("run", "quickstrt"), "unknown preset 'quickstrt'; did you mean quickstart? "),
        (("run", "quickstart", "--skip", "tune,bild"), "--skip bild: there is no stage 'bild'; did you mean build? "),
        (("run", "quickstart", "--again", "tune,benchmrk"), "there is no stage 'benchmrk'; did you mean benchmark? "),
        (("run", "quickstart", "--scale", "smok"), "--scale: there is no 'smok'; did you mean smoke? accepted: smoke"),
        (("run", "quickstart", "train.epochs=3"), "train.epochs=3: settings are given as --set train.epochs=3"),
        (("run", "tests"), "'tests' is no preset; images are given as --set data.path=tests"),
        (("run", "README.md"), "'README.md' is no preset; a study's file ends in .toml"),
        (("bench", "a", "--runtme", "eager"), "unrecognized arguments: --runtme (did you mean --runtime)"),
    ],
)
def test_a_misspelt_word_on_the_command_line_is_refused_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], refusal: str
) -> None:
    assert refusal in refusal_of(capsys, *arguments)


@pytest.mark.parametrize("word", ["zzz", "1,2", "'"])
def test_a_word_that_resembles_no_accepted_value_gets_no_suggestion(word: str) -> None:
    with pytest.raises(Mistake) as raised:
        load("quickstart", [f"data.source={word}"])
    assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize("command", ["bench", "profile"])
@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--threads", "99999", "whole number from 1 to 8192"),
        ("--threads", "0", "whole number from 1 to 8192"),
        ("--batch", "65537", "whole number"),
        ("--device", "gpu", "unknown device 'gpu'; accepted: auto, cpu, cuda:0"),
    ],
)
def test_bench_and_profile_accept_the_same_values(
    capsys: pytest.CaptureFixture[str], command: str, option: str, value: str, accepted: str
) -> None:
    message = refusal_of(capsys, command, __file__, option, value)
    assert message.startswith(f"burnish: {option}")
    assert accepted in message


def test_bench_and_profile_refuse_a_missing_device_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.machine.gpu.gpus", list)
    messages = {refusal_of(capsys, command, __file__, "--device", "cuda:0") for command in ("bench", "profile")}
    (message,) = messages
    assert "cuda:0: this machine has no NVIDIA GPU" in message
    assert message.endswith("accepted here: auto, cpu")


def test_what_skip_leaves_out_contradicts_no_setting(tmp_path: Path) -> None:
    settings = ["models=[{name='lenet5', pretrained='state.pt'}]", "train.epochs=0"]
    assert load("quickstart", settings, skip=("tune", "augment")).train.epochs == 0
    with pytest.raises(Mistake, match=r"^--set: train.epochs: 0 trains nothing; .* skip = \[\"tune\", \"augment\"\]$"):
        load("quickstart", settings)
    file = tmp_path / "own.toml"
    file.write_text("train.epochs = 0\nmodels = [{name = 'lenet5', pretrained = 'state.pt'}]\n")
    assert load(str(file), [], skip=("tune", "augment")).skip == ("tune", "augment")
    assert load(str(file), ["tune.trials=0", "augment.policies=[]"]).train.epochs == 0
    with pytest.raises(Mistake, match=r"own\.toml: train.epochs: 0 trains nothing"):
        load(str(file), ["data.seed=3"], skip=("prune",))
    file.write_text("data = 3\n")
    with pytest.raises(Mistake, match=r"own\.toml: data: "):
        load(str(file), ["data.seed=3"])


def test_the_advice_for_weights_without_an_architecture_is_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    weights = tmp_path / "it's.pt"
    torch.save({"fc.weight": torch.zeros(2, 3)}, weights)
    message = refusal_of(capsys, "bench", str(weights))
    command = message[message.index("burnish run ") : message.index("; or export")]
    words = command.replace("MODEL", "lenet5").replace("IMAGES", str(tmp_path))
    arguments = parser().parse_args(shlex.split(words)[1:])
    study = load(arguments.study, arguments.settings, skip=arguments.skip)
    assert study.models[0].pretrained == str(weights)
    assert (study.train.epochs, study.without_skipped().tune.trials) == (0, 0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("models=[]", 'models: expected at least 1 entry, e.g. models=["lenet5"] (got [])'),
        ("models=nope", 'models: expected a list, e.g. models=["lenet5"] '),
        ("models=null", 'models: expected a list, e.g. models=["lenet5"] '),
        ("models=[3]", "models.0: expected a table, which TOML writes {key = value} (got 3)"),
        ('models=["resnet18"]', "unknown model 'resnet18'; did you mean torchvision:resnet18? "),
        ("models.0.pretrained=", "models.0.pretrained: an empty text names no weights; accepted: hub"),
        ('benchmark.runtimes=["x"]', "unknown runtime 'x'; accepted: auto, eager, eager_fused, onnxruntime,"),
        ("published=x", "unknown published study 'x'; accepted: cifar100_architectures,"),
        ("train.lr=0.1", "unknown key train.lr; did you mean learning_rate? "),
        ("wd=0.1", "unknown key wd; did you mean train.weight_decay? "),
        ("data.path=", "--set data.path: an empty text names no images (is a variable empty?)"),
        ("data.path=  ", "--set data.path: an empty text names no images (is a variable empty?)"),
    ],
)
def test_a_refused_setting_says_in_the_users_words_what_is_accepted(setting: str, words: str) -> None:
    with pytest.raises(Mistake) as raised:
        load("quickstart", [setting])
    assert words in str(raised.value)


def test_an_empty_path_is_accepted_where_the_source_is_named() -> None:
    assert load("cifar10-small", ["data.path=", "data.source=digits"]).data.source == "digits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "quickstart", "--stip", "tune"), "unrecognized arguments: --stip (did you mean --skip) tune"),
        (("run", "quickstart", "--rounds=3"), "--rounds is an option of bench, not of run"),
        (("report", "a", "b"), "unrecognized arguments: b"),
    ],
)
def test_an_unknown_option_is_a_mistake_of_its_own_command(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert refusal_of(capsys, *arguments) == f"burnish: {message}; see burnish {arguments[0]} --help"


def test_what_is_no_file_is_said_with_the_folder_that_was_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal_of(capsys, "run", "nope.toml").startswith(
        f"burnish: nope.toml: No such file in {tmp_path}, which has no study; presets: quickstart, "
    )
    (tmp_path / "note.toml").touch()
    assert f"No such file in {tmp_path}; did you mean note.toml? " in refusal_of(capsys, "show", "nope.toml")
    message = f"burnish: nope is no file in {tmp_path}, and no variant, whose names are such as lenet5/train"
    assert refusal_of(capsys, "profile", "nope").startswith(f"burnish: nope is no file in {tmp_path}, and no runs in ")
    study = tmp_path / "artifacts" / "runs" / "quickstart-20260101-000000" / "study.toml"
    study.parent.mkdir(parents=True)
    study.touch()
    assert refusal_of(capsys, "profile", "nope") == message

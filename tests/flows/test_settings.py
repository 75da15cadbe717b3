"""Studies as TOML and as --set options: which values are accepted, and the one line that tells a mistake."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.orchestration.deployments import render
from flows.presets import presets
from flows.settings import Mistake, apply, load, study_from, to_toml
from tests.support.command import Burnish
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", presets())
def test_a_preset_written_as_toml_loads_as_the_same_study(name, tmp_path):
    study = load(name, [])
    file = tmp_path / "my.toml"
    file.write_text(to_toml(study))
    assert load(str(file), []) == study


def test_set_takes_typed_values_by_dotted_keys():
    study = load(
        "quickstart",
        [
            "train.epochs=3",
            "models.1.width=8",
            "train.learning_rate=1",
            "data.source=digits",
            "benchmark.batch_sizes=[4, 2]",
            "models.0.name='lenet5'",
        ],
    )
    assert (study.train.epochs, study.models[1].width, study.train.learning_rate) == (3, 8, 1.0)
    assert study.benchmark.batch_sizes == (2, 4)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lr=3", ["train.lr", "learning_rate"]),
        ("train.epochs=abc", ["train.epochs", "integer", "'abc'"]),
        ("train.epochs=1.5", ["train.epochs", "integer"]),
        ("train.epochs='3'", ["train.epochs", "integer"]),
        ("train.epochs=-1", ["train.epochs", "greater than or equal to 0"]),
        ("train.epochs", ["key=value"]),
        ("train.epochs.x=1", ["train.epochs", "'x'"]),
        ("train=3", ["train"]),
        ("nope=1", ["nope", "benchmark"]),
        ("choice=1", ["unknown key choice", "benchmark"]),
        ("tune.space.learning_rate.lowest=1", ["tune.space.learning_rate.lowest", "low, high, log"]),
        ("models.5.width=3", ["models", "0 to 1"]),
        ("models=[]", ["models", "at least 1"]),
        ("models=['lenet6']", ["lenet6", "lenet5", "resnet34"]),
        ("models=['lenet5', 'lenet5']", ["models", "once"]),
        ("data.source=imagnet", ["data.source", "digits", "parquet"]),
        ("data.source=parquet", ["data.path"]),
        ("train.optimizer=adm", ["train.optimizer", "sgd", "adamw"]),
        ("train.device=gpu", ["train.device", "cuda:0"]),
        ("skip=['export']", ["skip", "export cannot be skipped", "build"]),
        ("skip=['exprt']", ["skip", "no stage 'exprt'", "build"]),
        ("build.precisions=['fp8']", ["build.precisions", "fp16", "auto"]),
        ("export.formats=['torchscript']", ["onnx"]),
        ("benchmark.runtimes=['onnxruntime']", ["benchmark.runtimes", "eager"]),
        ("data.seed=-1", ["data.seed", "0"]),
        ("select.batch_size=3", ["select.batch_size", "not measured", "has 1"]),
        ("tune.space.learning_rate.low=0.9", ["tune.space.learning_rate", "below high"]),
        ("tune.space.foo={kind='range', low=1, high=2}", ["foo", "learning_rate"]),
        ("tune.space.optimizer={kind='choice', values=['adm']}", ["optimizer", "adm"]),
        ("augment.policies=['mixupp']", ["mixupp", "mixup"]),
        ("quantize.settings=['int4']", ["int4", "u8s8"]),
        ("benchmark.runtimes=['tflite']", ["tflite", "onnxruntime"]),
    ],
)
def test_a_mistake_is_one_line_naming_the_key_and_what_is_accepted(setting, words):
    with pytest.raises(Mistake) as caught:
        load("quickstart", [setting])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["export.formats=['onnx']"], ["torchscript", "export.formats"]),
        (["build.precisions=[]"], ["tensorrt", "build.precisions"]),
        (["benchmark.evaluation_batch=500"], ["build.batch_sizes", "500"]),
    ],
)
def test_a_runtime_that_the_study_names_must_have_something_to_execute(settings, words):
    runtimes = "benchmark.runtimes=['eager', 'torchscript', 'tensorrt']"
    with pytest.raises(Mistake) as caught:
        load("quickstart", [runtimes, *settings])
    assert all(word in str(caught.value) for word in words), caught.value
    # `auto` leaves out the runtimes that have nothing to execute.
    load("quickstart", settings)


@given(
    st.dictionaries(st.text(min_size=1), st.one_of(st.integers(), st.text(), st.booleans(), st.lists(st.integers())))
)
def test_any_json_gives_a_study_or_a_mistake(values):
    try:
        study_from(values, "test")
    except Mistake as error:
        assert "\n" not in str(error) or any("\n" in k or "\n" in str(v) for k, v in values.items())


@given(st.text())
def test_any_setting_is_applied_or_told_as_a_mistake(text):
    try:
        apply({"train": {"epochs": 1}, "models": [{}]}, [text])
    except Mistake as error:
        assert "--set" in str(error)


@pytest.mark.parametrize(
    ("name", "words"), [("quikstart", ["quickstart"]), ("gone.toml", ["gone.toml", "No such file"])]
)
def test_an_unknown_study_is_a_mistake_that_names_it(name, words):
    with pytest.raises(Mistake) as caught:
        load(name, [])
    assert all(word in str(caught.value) for word in words)


def test_a_file_that_is_not_toml_is_a_mistake(tmp_path):
    (tmp_path / "bad.toml").write_text("train = {")
    with pytest.raises(Mistake, match="not TOML"):
        load(str(tmp_path / "bad.toml"), [])


def test_the_command_exits_2_for_a_mistake_before_anything_is_computed(tmp_path):
    burnish = Burnish(tmp_path / "artifacts", None)
    done = burnish.run("train.epochz=3", code=2)
    assert done.stderr.count("\n") == 1
    assert "did you mean epochs?" in done.stderr
    assert not burnish.out.exists()
    done = burnish.run("data.source=parquet", "data.path=/does/not/exist", code=2)
    assert "data.path" in done.stderr
    assert "Traceback" not in done.stderr
    done = burnish("why", "--out", str(tmp_path), code=2)
    assert "no runs" in done.stderr


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [("--help",), ("presets",), ("--version",)])
def test_help_and_presets_answer_in_under_a_second(arguments, tmp_path):
    burnish = Burnish(tmp_path, None)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        burnish(*arguments)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0, seconds


def test_prefect_yaml_is_rendered_from_the_presets():
    assert (ROOT / "prefect.yaml").read_text() == render(), "run: make deployments"

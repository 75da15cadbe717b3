"""How far a study is: its plan, its time left, the lines of the terminal and of the logs."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flows import logs, progress
from flows.presets import presets
from flows.progress import Durations, Progress
from flows.settings import load
from flows.steps import Step, steps
from flows.terminal import console
from flows.terminal.console import Pace, in_words, view
from tasks.caching import logs as stage_logs
from tasks.caching.work import Work
from tasks.records import Artifact, Context, Forms, Train, Trained, Variant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.records import Study

FILE = Artifact(path="a", sha256="a", size_bytes=1, format="onnx")
LABEL = "quantize/resnet34-w16/augment-crop/onnx"


@pytest.fixture
def now(monkeypatch):
    """The time that burnish reads, in seconds; a test sets `now.seconds`."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.seconds)
    return clock


def begun(study: Study, out: Path) -> Progress:
    """The progress of a study of which nothing has been done."""
    return Progress(study, steps(study), out)


def made_by(step: Step) -> Any:
    """What a step that does not fail returns: weights, or forms of every kind that another step may need."""
    weights = {"name": step.name, "model": step.model, "stage": step.stage, "artifact": FILE}
    if step.stage in ("train", "tune", "augment", "prune"):
        variant = Variant(**weights, format="safetensors")
        return Trained(variant=variant, train=Train(), validation_macro_f1=0.9)
    settings = ("", "s8s8", "qat-s8s8")
    forms = (Variant(**weights, format="onnx", setting=setting) for setting in settings)
    return Forms(variants=tuple(forms), tables={"ablations": FILE})


def walk(study: Study, out: Path, fails: Sequence[Step] = ()) -> list[str]:
    """The words at every step's end, if the run calls the steps that its plan has; those in `fails` fail."""
    words, progress = [], begun(study, out)
    while progress.waiting:
        step = progress.waiting[0]
        progress.begin(step, step.name)
        assert progress.current == step
        words.append(progress.end(None if step in fails else made_by(step), computed=True))
    return words


@pytest.mark.parametrize("name", presets())
def test_every_stage_of_a_study_is_counted_once(name, tmp_path):
    study = load(name, [])
    told = walk(study, tmp_path)
    assert told == [f"{n} of {len(told)} stages" for n in range(1, len(told) + 1)]
    plan = steps(study)
    assert len({step.name for step in plan}) == len(plan) == len(told)
    assert len([step for step in plan if step.stage == "train"]) == len(study.models)
    assert [step.stage for step in plan[:1] + plan[-1:]] == ["prepare", "aggregate"]


def test_what_a_failed_stage_takes_with_it_is_not_waited_for(tmp_path):
    study = load("quickstart", ["models=['lenet5', {name='resnet34', width=8}]", "prune.ratios=[0.25, 0.5]"])
    plan = steps(study)
    export = next(step for step in plan if step.name == "export lenet5 prune-0.25")
    told = walk(study, tmp_path, fails=[export])
    # no int8 and no engine of that one
    assert told[-1] == f"{len(plan) - 2} of {len(plan) - 2} stages"
    train = next(step for step in plan if step.stage == "train")
    told = walk(study, tmp_path, fails=[train])
    gone = len([step for step in plan if step.model == train.model]) - 1
    assert told[-1] == f"{len(plan) - gone} of {len(plan) - gone} stages"


def test_where_a_stage_of_training_fails_the_weights_before_it_go_on(tmp_path):
    study = load("quickstart", ["models=['lenet5']"])
    plan = steps(study)
    failed = [step for step in plan if step.stage in ("tune", "augment")]
    assert len(walk(study, tmp_path, fails=failed)) == len(plan)
    export = next(step for step in plan if step.name == "export lenet5 best")
    trained = made_by(next(step for step in plan if step.stage == "train"))
    results = {"train lenet5": trained, "tune lenet5": None, "augment lenet5": None}
    assert export.inputs["parent"].taken_from(results) == trained.variant


def test_a_failed_variant_is_named_after_what_it_would_have_been_made_of():
    study = load("quickstart", ["models=['lenet5']", "prune.ratios=[0.5]"])
    parent = Variant(name="lenet5/prune-0.5", model="lenet5", stage="prune", format="safetensors", artifact=FILE)
    named = {step.name: step for step in steps(study)}
    export = named["export lenet5 prune-0.5"].failed.of({"parent": parent}, "failed", "no room")
    assert (export.name, export.parent, export.format) == ("lenet5/prune-0.5/export", "lenet5/prune-0.5", "onnx")
    train = named["train lenet5"].failed.of({}, "skipped", "no GPU")
    assert (train.name, train.parent, train.status, train.error) == ("lenet5/train", None, "skipped", "no GPU")


def test_eleven_pruned_forms_are_told_apart(tmp_path):
    study = load("quickstart", ["models=['lenet5']", f"prune.ratios={[n / 20 for n in range(1, 12)]}"])
    plan = steps(study)
    pruned = next(step for step in plan if step.name == "prune lenet5 0.05")
    walked = walk(study, tmp_path, fails=[pruned])
    assert len(walked) == len(plan) - len([step for step in plan if step.name.endswith("lenet5 prune-0.05")])
    assert [step for step in plan if step.name.endswith("lenet5 prune-0.5")]


def test_time_left_is_known_from_the_last_run_of_the_same_settings_alone(tmp_path, now):
    study = load("quickstart", ["models=['lenet5']"])
    found = begun(study, tmp_path)
    assert found.rest() is None
    while found.waiting:
        found.begin(found.waiting[0], LABEL)
        now.seconds += 7
        found.end(made_by(found.current), computed=True)
    again = begun(study, tmp_path)
    assert again.rest() == pytest.approx(7 * again.total)
    again.begin(again.waiting[0], "prepare")
    assert again.expected() == pytest.approx(7)
    longer = load("quickstart", ["models=['lenet5']", "train.epochs=99"])
    known = Durations(longer, tmp_path)
    assert [p.stage for p in steps(longer) if known.of(p) is None] == ["train", "tune", "augment", "prune"]
    assert begun(longer, tmp_path).rest() is None


@pytest.mark.parametrize("text", ["", "[]", '{"prepare": 3}', '{"prepare": ["x", "y"]}', "\0"])
def test_broken_durations_are_none(tmp_path, text):
    study = load("quickstart", [])
    broken = Durations(study, tmp_path)
    broken.path.parent.mkdir(parents=True)
    broken.path.write_text(text)
    assert Durations(study, tmp_path).seconds == {}


def test_a_time_that_cannot_be_written_is_said_and_the_study_goes_on(tmp_path, caplog):
    (tmp_path / "store").write_text("a file in the way of the folder")
    assert walk(load("quickstart", ["models=['lenet5']"]), tmp_path)[0].startswith("1 of ")
    assert "how long prepare took could not be written" in caplog.text


def test_a_stage_tells_when_it_ends_once_its_pace_is_known(now):
    pace = Pace("train/lenet5")
    assert pace.seconds_left(None) is None
    pace.reached(0.1, "epoch 1/10")
    assert pace.seconds_left(None) is None, "one report is no pace"
    now.seconds += 10
    pace.reached(0.2, "epoch 2/10")
    assert pace.seconds_left(None) == pytest.approx(80)
    now.seconds += 30
    assert pace.seconds_left(None) == pytest.approx(50)
    now.seconds += 200
    assert pace.seconds_left(None) is None, "long over: what was foretold was wrong"


def test_what_passes_before_a_stage_gets_on_is_no_part_of_its_pace(now):
    pace = Pace("benchmark")
    for opened in (1, 2):
        pace.reached(0.0, f"opened {opened} of 2 candidates")
        now.seconds += 50
    pace.reached(0.0, "round 1 of 5")
    now.seconds += 10
    pace.reached(0.1, "round 1 of 5")
    assert pace.seconds_left(None) == pytest.approx(90)


def test_a_resumed_stage_tells_its_own_pace(now):
    pace = Pace("train/lenet5")
    now.seconds += 1
    pace.reached(0.9, "epoch 27/30")
    now.seconds += 20
    pace.reached(0.95, "epoch 28/30")
    assert pace.seconds_left(None) == pytest.approx(20, rel=0.1)


def test_what_a_stage_took_before_is_told_until_it_has_a_pace(now):
    pace = Pace("aggregate")
    now.seconds += 4
    assert pace.seconds_left(12.0) == pytest.approx(8)
    now.seconds += 15
    assert pace.seconds_left(12.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "5 s"), (12, "10 s"), (54, "55 s"), (58, "1 min"), (200, "3 min"), (3600, "1 h"), (4900, "1 h 20 min")],
)
def test_time_is_no_finer_than_it_can_be_known(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_lines_of_a_terminal_are_no_wider_than_it_and_keep_their_figures(tmp_path, now, width):
    study = load("quickstart", [])
    found = begun(study, tmp_path)
    for _ in range(9):
        found.begin(found.waiting[0], LABEL)
        found.end(made_by(found.current), computed=False)
    found.begin(found.waiting[0], LABEL)
    pace = Pace(LABEL)
    pace.reached(0.0, "")
    now.seconds += 100
    pace.reached(
        0.25,
        "resnet34-w16/augment-crop/onnx/int8-u8s8-reduced epoch 3/14: loss 0.713, train F1 0.9113, validation F1 0.9",
    )
    lines = [line.plain for line in view(width, found, pace)]
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith(f"9 of {found.total} stages done")
    assert lines[0].endswith("  1:40"), "the rest is not known: no time left"
    assert "━" in lines[0]
    assert lines[1].endswith("25%, about 5 min left")
    assert lines[1].startswith("quanti")
    assert lines[1].startswith(pace.label) == (width >= 80)


def test_a_stage_that_has_just_begun_does_not_show_the_bar_of_the_one_before(tmp_path, now):
    found, pace = begun(load("quickstart", []), tmp_path), Pace("prepare")
    found.begin(found.waiting[0], "prepare")
    pace.reached(1.0, "decoded 1797 of 1797 images")
    found.end(made_by(found.current), computed=True)
    assert len(view(80, found, pace)) == 1
    found.begin(found.waiting[0], "train/lenet5")
    now.seconds += 3
    assert [line.plain for line in view(80, found, pace)][1:] == ["train/lenet5  0:03"]


def test_before_the_first_stage_and_after_the_last_the_terminal_says_what_is_done(tmp_path):
    assert [line.plain for line in view(80, None, Pace())] == ["starting"]
    study = load("quickstart", [])
    found = begun(study, tmp_path)
    while found.waiting:
        found.begin(found.waiting[0], LABEL)
        found.end(made_by(found.current), computed=False)
    assert [line.plain for line in view(80, found, Pace("aggregate"))][1:] == ["writing the report"]


def test_without_a_study_the_terminal_shows_the_measurement_alone(now):
    pace = Pace()
    pace.reached(0.5, "round 5 of 10, batch 1 (10 of 20 visits): 2 candidates in turns")
    lines = [line.plain for line in view(80, None, pace)]
    assert lines[0].startswith("working  ━") and lines[0].endswith("50%")
    assert lines[1].strip().startswith("round 5 of 10")


def test_logs_have_a_line_about_progress_in_ten_seconds_at_most_and_every_other_line(now):
    seen = []
    logger = logging.Logger("burnish")
    handler = logging.Handler()
    handler.emit = lambda record: seen.append((now.seconds, record.getMessage()))  # type: ignore[method-assign]
    handler.addFilter(logs.Sparse())
    logger.addHandler(handler)
    work = Work(None, None, logger)  # type: ignore[arg-type]
    for turn in range(400):
        work.progress(turn, 400, f"turn {turn}")
        if turn % 100 == 0:
            logger.info("stage %d", turn)
        now.seconds += 0.25
    assert [text for _, text in seen if text.startswith("stage")] == ["stage 0", "stage 100", "stage 200", "stage 300"]
    times = [at for at, text in seen if text.startswith("turn")]
    assert len(times) == 10
    assert min(b - a for a, b in pairwise(times)) >= 10


def test_details_stand_in_the_stages_own_file_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger("burnish"), "handlers", [])
    monkeypatch.setenv("TERM", "xterm-256color")
    logger = logging.getLogger("burnish.benchmark")
    for terminal in ("1", ""):
        monkeypatch.setenv("FORCE_COLOR", terminal)
        with console.shown():
            of_stage = stage_logs.StageLog(Context(out=str(tmp_path), run=f"run{terminal}"), "benchmark")
            logging.getLogger("burnish").addHandler(of_stage)
            logger.info("a candidate's accuracy", extra={"detail": True})
            logger.info("the stage is done")
            logging.getLogger("burnish").removeHandler(of_stage)
            of_stage.close()
        shown = capsys.readouterr().err
        assert "the stage is done" in shown and "accuracy" not in shown
        assert "accuracy" in (tmp_path / "runs" / f"run{terminal}" / "logs" / "benchmark.log").read_text()


def test_parts_of_a_stage_make_one_progress():
    shares = []
    logger = logging.Logger("burnish")
    handler = logging.Handler()
    handler.emit = lambda record: shares.append(record.progress[0] / record.progress[1])  # type: ignore[method-assign]
    logger.addHandler(handler)
    whole = Work(None, None, logger)  # type: ignore[arg-type]
    for number in range(3):
        for seed in range(2):
            for epoch in range(1, 5):
                whole.part(number / 3, (number + 1) / 3).part(seed / 2, (seed + 1) / 2).progress(epoch, 4, "epoch")
    assert shares == pytest.approx([n / 24 for n in range(1, 25)])
    whole.progress(0, 0, "nothing to do")
    assert shares[-1] == 1


def test_the_terminal_and_the_flow_read_the_same_progress():
    assert console.Progress is progress.Progress


def test_a_report_that_comes_after_the_stage_has_ended_is_left_out_without_a_word(monkeypatch):
    ended, said = threading.Event(), []

    def late(artifact, share, text):
        ended.set()
        # as httpx says it
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    monkeypatch.setattr(stage_logs, "_progress_artifact", late)
    monkeypatch.setattr(threading, "excepthook", said.append)
    handler = stage_logs.ProgressArtifact()
    handler.handle(logging.makeLogRecord({"msg": "half", "progress": (1, 2)}))
    assert ended.wait(10)
    handler.close()
    assert not handler._thread.is_alive()
    assert said == []

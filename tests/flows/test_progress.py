"""The progress of a study: its count of stages, its time left, and its lines in the terminal and in the logs."""

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
from tasks.records import Artifact, Context, Forms, Inspected, Preparation, Train, Trained, Variant

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


def new_progress(study: Study, out: Path) -> Progress:
    """Return the progress of a study of which no stage has been done."""
    return Progress(study, steps(study), out)


def result_of(step: Step) -> Any:
    """Return what a successful step returns: weights, or forms of every kind that another step may need."""
    weights = {"name": step.name, "model": step.model, "stage": step.stage, "artifact": FILE}
    if step.stage in ("train", "tune", "augment", "prune"):
        variant = Variant(**weights, format="safetensors")
        return Trained(variant=variant, train=Train(), validation_macro_f1=0.9)
    if step.stage == "inspect":
        return Inspected(preparation=Preparation(image_size=8))
    settings = ("", "s8s8", "qat-s8s8")
    forms = (Variant(**weights, format="onnx", setting=setting) for setting in settings)
    return Forms(variants=tuple(forms), tables={"ablations": FILE})


def walk(study: Study, out: Path, fails: Sequence[Step] = ()) -> list[str]:
    """Go through the steps of a study, of which those in `fails` fail, and return what is told at the end of each."""
    words: list[str] = []
    progress = new_progress(study, out)
    while progress.waiting:
        step = progress.waiting[0]
        progress.begin(step, step.name)
        assert progress.current == step
        words.append(progress.end(None if step in fails else result_of(step), computed=True))
    return words


@pytest.mark.parametrize("name", presets())
def test_every_stage_of_a_study_is_counted_once(name, tmp_path):
    study = load(name, [])
    words = walk(study, tmp_path)
    assert words == [f"{n} of {len(words)} stages" for n in range(1, len(words) + 1)]
    plan = steps(study)
    assert len({step.name for step in plan}) == len(plan) == len(words)
    given = [model for model in study.models if model.file]
    assert len([step for step in plan if step.stage == "train"]) == len(study.models) - len(given)
    first = "inspect" if given else "prepare"
    assert [step.stage for step in plan[:1] + plan[-1:]] == [first, "aggregate"]


def test_stages_that_need_a_failed_stage_leave_the_count(tmp_path):
    study = load("quickstart", ["models=['lenet5', {name='resnet34', width=8}]", "prune.ratios=[0.25, 0.5]"])
    plan = steps(study)
    export = next(step for step in plan if step.name == "export lenet5 prune-0.25")
    words = walk(study, tmp_path, fails=[export])
    # The export that failed is counted. The int8 forms and the engines of it are not.
    assert words[-1] == f"{len(plan) - 2} of {len(plan) - 2} stages"
    train = next(step for step in plan if step.stage == "train")
    words = walk(study, tmp_path, fails=[train])
    gone = len([step for step in plan if step.model == train.model]) - 1
    assert words[-1] == f"{len(plan) - gone} of {len(plan) - gone} stages"


def test_when_a_training_stage_fails_later_stages_use_the_weights_before_it(tmp_path):
    study = load("quickstart", ["models=['lenet5']"])
    plan = steps(study)
    failed = [step for step in plan if step.stage in ("tune", "augment")]
    assert len(walk(study, tmp_path, fails=failed)) == len(plan)
    export = next(step for step in plan if step.name == "export lenet5 best")
    trained = result_of(next(step for step in plan if step.stage == "train"))
    results = {"train lenet5": trained, "tune lenet5": None, "augment lenet5": None}
    assert export.inputs["parent"].taken_from(results) == trained.variant


def test_a_failed_variant_is_named_after_its_parent_and_its_stage():
    study = load("quickstart", ["models=['lenet5']", "prune.ratios=[0.5]"])
    parent = Variant(name="lenet5/prune-0.5", model="lenet5", stage="prune", format="safetensors", artifact=FILE)
    named = {step.name: step for step in steps(study)}
    export = named["export lenet5 prune-0.5"].failed.of({"parent": parent}, "failed", "no room")
    assert (export.name, export.parent, export.format) == ("lenet5/prune-0.5/export", "lenet5/prune-0.5", "onnx")
    train = named["train lenet5"].failed.of({}, "skipped", "no GPU")
    assert (train.name, train.parent, train.status, train.error) == ("lenet5/train", None, "skipped", "no GPU")


def test_a_failed_pruning_takes_only_the_steps_of_its_own_ratio_off_the_count(tmp_path):
    study = load("quickstart", ["models=['lenet5']", f"prune.ratios={[n / 20 for n in range(1, 12)]}"])
    plan = steps(study)
    pruned = next(step for step in plan if step.name == "prune lenet5 0.05")
    words = walk(study, tmp_path, fails=[pruned])
    assert len(words) == len(plan) - len([step for step in plan if step.name.endswith("lenet5 prune-0.05")])
    assert [step for step in plan if step.name.endswith("lenet5 prune-0.5")]


def test_time_left_is_known_only_from_an_earlier_run_of_the_same_settings(tmp_path, now):
    study = load("quickstart", ["models=['lenet5']"])
    first_run = new_progress(study, tmp_path)
    assert first_run.rest() is None
    while first_run.waiting:
        first_run.begin(first_run.waiting[0], LABEL)
        now.seconds += 7
        first_run.end(result_of(first_run.current), computed=True)
    second_run = new_progress(study, tmp_path)
    assert second_run.rest() == pytest.approx(7 * second_run.total)
    second_run.begin(second_run.waiting[0], "prepare")
    assert second_run.expected() == pytest.approx(7)
    longer = load("quickstart", ["models=['lenet5']", "train.epochs=99"])
    durations = Durations(longer, tmp_path)
    assert [p.stage for p in steps(longer) if durations.of(p) is None] == ["train", "tune", "augment", "prune"]
    assert new_progress(longer, tmp_path).rest() is None


@pytest.mark.parametrize("text", ["", "[]", '{"prepare": 3}', '{"prepare": ["x", "y"]}', "\0"])
def test_unreadable_durations_of_earlier_runs_are_ignored(tmp_path, text):
    study = load("quickstart", [])
    durations = Durations(study, tmp_path)
    durations.path.parent.mkdir(parents=True)
    durations.path.write_text(text)
    assert Durations(study, tmp_path).seconds == {}


def test_a_duration_that_cannot_be_written_is_a_warning_and_the_study_goes_on(tmp_path, caplog):
    (tmp_path / "store").write_text("a file in the way of the folder")
    assert walk(load("quickstart", ["models=['lenet5']"]), tmp_path)[0].startswith("1 of ")
    assert "how long prepare took could not be written" in caplog.text


def test_a_stage_estimates_its_time_left_after_its_second_report(now):
    pace = Pace("train/lenet5")
    assert pace.seconds_left(None) is None
    pace.reached(0.1, "epoch 1/10")
    assert pace.seconds_left(None) is None, "one report is not enough for a pace"
    now.seconds += 10
    pace.reached(0.2, "epoch 2/10")
    assert pace.seconds_left(None) == pytest.approx(80)
    now.seconds += 30
    assert pace.seconds_left(None) == pytest.approx(50)
    now.seconds += 200
    assert pace.seconds_left(None) is None, "the stage is long overdue, so its estimate was wrong"


def test_time_before_the_first_progress_does_not_count_in_a_stages_pace(now):
    pace = Pace("benchmark")
    for opened in (1, 2):
        pace.reached(0.0, f"opened {opened} of 2 candidates")
        now.seconds += 50
    pace.reached(0.0, "round 1 of 5")
    now.seconds += 10
    pace.reached(0.1, "round 1 of 5")
    assert pace.seconds_left(None) == pytest.approx(90)


def test_the_pace_of_a_resumed_stage_leaves_out_what_was_done_before(now):
    pace = Pace("train/lenet5")
    now.seconds += 1
    pace.reached(0.9, "epoch 27/30")
    now.seconds += 20
    pace.reached(0.95, "epoch 28/30")
    assert pace.seconds_left(None) == pytest.approx(20, rel=0.1)


def test_until_a_stage_has_a_pace_its_time_left_comes_from_an_earlier_run(now):
    pace = Pace("aggregate")
    now.seconds += 4
    assert pace.seconds_left(12.0) == pytest.approx(8)
    now.seconds += 15
    assert pace.seconds_left(12.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "5 s"), (12, "10 s"), (54, "55 s"), (58, "1 min"), (200, "3 min"), (3600, "1 h"), (4900, "1 h 20 min")],
)
def test_the_longer_a_duration_the_coarser_it_is_rounded(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_progress_lines_fit_the_terminals_width_and_keep_their_figures(tmp_path, now, width):
    study = load("quickstart", [])
    progress = new_progress(study, tmp_path)
    for _ in range(9):
        progress.begin(progress.waiting[0], LABEL)
        progress.end(result_of(progress.current), computed=False)
    progress.begin(progress.waiting[0], LABEL)
    pace = Pace(LABEL)
    pace.reached(0.0, "")
    now.seconds += 100
    pace.reached(
        0.25,
        "resnet34-w16/augment-crop/onnx/int8-u8s8-reduced epoch 3/14: loss 0.713, train F1 0.9113, validation F1 0.9",
    )
    lines = [line.plain for line in view(width, progress, pace)]
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith(f"9 of {progress.total} stages done")
    assert lines[0].endswith("  1:40"), "no time left is shown, because nothing is known of the stages to come"
    assert "━" in lines[0]
    assert lines[1].endswith("25%, about 5 min left")
    assert lines[1].startswith("quanti")
    assert lines[1].startswith(pace.label) == (width >= 80)


def test_a_stage_that_has_just_begun_does_not_show_the_previous_stages_bar(tmp_path, now):
    progress = new_progress(load("quickstart", []), tmp_path)
    pace = Pace("prepare")
    progress.begin(progress.waiting[0], "prepare")
    pace.reached(1.0, "decoded 1797 of 1797 images")
    progress.end(result_of(progress.current), computed=True)
    assert len(view(80, progress, pace)) == 1
    progress.begin(progress.waiting[0], "train/lenet5")
    now.seconds += 3
    assert [line.plain for line in view(80, progress, pace)][1:] == ["train/lenet5  0:03"]


def test_before_the_first_and_after_the_last_stage_the_terminal_says_what_happens(tmp_path):
    assert [line.plain for line in view(80, None, Pace())] == ["starting"]
    study = load("quickstart", [])
    progress = new_progress(study, tmp_path)
    while progress.waiting:
        progress.begin(progress.waiting[0], LABEL)
        progress.end(result_of(progress.current), computed=False)
    assert [line.plain for line in view(80, progress, Pace("aggregate"))][1:] == ["writing the report"]


def test_without_a_study_the_terminal_shows_only_the_measurement(now):
    pace = Pace()
    pace.reached(0.5, "round 5 of 10, batch 1 (10 of 20 visits): 2 candidates in turns")
    lines = [line.plain for line in view(80, None, pace)]
    assert lines[0].startswith("working  ━") and lines[0].endswith("50%")
    assert lines[1].strip().startswith("round 5 of 10")


def test_logs_have_at_most_one_progress_line_per_ten_seconds_and_every_other_line(now):
    lines = []
    logger = logging.Logger("burnish")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((now.seconds, record.getMessage()))  # type: ignore[method-assign]
    handler.addFilter(logs.Sparse())
    logger.addHandler(handler)
    work = Work(None, None, logger)  # type: ignore[arg-type]
    for turn in range(400):
        work.progress(turn, 400, f"turn {turn}")
        if turn % 100 == 0:
            logger.info("stage %d", turn)
        now.seconds += 0.25
    assert [text for _, text in lines if text.startswith("stage")] == ["stage 0", "stage 100", "stage 200", "stage 300"]
    times = [seconds for seconds, text in lines if text.startswith("turn")]
    assert len(times) == 10
    assert min(b - a for a, b in pairwise(times)) >= 10


def test_details_are_logged_only_in_the_stages_own_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger("burnish"), "handlers", [])
    monkeypatch.setenv("TERM", "xterm-256color")
    logger = logging.getLogger("burnish.benchmark")
    for terminal in ("1", ""):
        monkeypatch.setenv("FORCE_COLOR", terminal)
        with console.shown():
            stage_log = stage_logs.StageLog(Context(out=str(tmp_path), run=f"run{terminal}"), "benchmark")
            logging.getLogger("burnish").addHandler(stage_log)
            logger.info("a candidate's accuracy", extra={"detail": True})
            logger.info("the stage is done")
            logging.getLogger("burnish").removeHandler(stage_log)
            stage_log.close()
        printed = capsys.readouterr().err
        assert "the stage is done" in printed and "accuracy" not in printed
        assert "accuracy" in (tmp_path / "runs" / f"run{terminal}" / "logs" / "benchmark.log").read_text()


def test_the_parts_of_a_stage_make_one_share_that_rises_evenly():
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


def test_a_progress_report_that_is_sent_after_the_stages_end_is_dropped_silently(monkeypatch):
    ended = threading.Event()
    uncaught: list[Any] = []

    def send_too_late(artifact, share, text):
        ended.set()
        # httpx raises this for a client that was closed.
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    monkeypatch.setattr(stage_logs, "_progress_artifact", send_too_late)
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    handler = stage_logs.ProgressArtifact()
    handler.handle(logging.makeLogRecord({"msg": "half", "progress": (1, 2)}))
    assert ended.wait(10)
    handler.close()
    assert not handler._thread.is_alive()
    assert uncaught == []

"""The search's place in a study: after a first answer, and no longer than it may bring something."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from flows.plan import planned
from flows.presets import optimize
from flows.progress import Progress
from flows.searching import best_so_far, needless, since_better, without_trials
from flows.step import Step
from flows.steps import steps
from tasks.records import Artifact, Quantized, Scored, Study, Tried, Variant

FP32 = {"onnxruntime": 4.0, "openvino": 3.0}
BASE = Scored(setting="u8s8", look=0.1, divergence=0.1, drop=0.02, latencies={"onnxruntime": 2.0, "openvino": 1.5})
QUANTIZED = Quantized(variants=(), scored=(BASE,), fp32_latencies=FP32)
ARTIFACT = Artifact(path="objects/x", format="onnx", size_bytes=1, sha256="0" * 64)
REPORT = Path("report.html")
MAX_DROP = 0.005
SEARCHING = ("rank", "search", "choose", "configure")


def trial(number: int, drop: float | None = None, latency: float = 2.0, ended: str = "done") -> Tried:
    scored = Scored(setting="u8s8", look=0.1, divergence=drop, drop=drop, latencies={"onnxruntime": latency})
    return Tried(number=number, setting="u8s8", runtime="onnxruntime", kept=number, scored=scored, ended=ended)  # type: ignore[arg-type]


def study(**search: Any) -> Study:
    preset = optimize()
    return planned(preset.model_copy(update={"search": preset.search.model_copy(update=search)})).study


def progress_at_trials(tmp_path: Path, a_study: Study, tried: list[Tried]) -> tuple[Progress, Step]:
    """Return the progress of a study whose trials have ended so, and the step of the next trial."""
    progress = Progress(a_study, steps(a_study), tmp_path)
    progress.results = {"quantize model": QUANTIZED} | {f"search model {each.number}": each for each in tried}
    return progress, next(step for step in progress.plan if step.name == f"search model {len(tried) + 1}")


def test_a_first_answer_is_given_before_the_search_and_a_last_one_after_it() -> None:
    plan = [step.name for step in steps(study(trials=2))]
    first, last = plan.index("aggregate first"), plan.index("aggregate")
    assert plan[first - 1] == "benchmark first"
    search = plan[first + 1 : last - 1]
    chosen = search.index("choose model")
    assert search[chosen - 2 : chosen] == ["search model 1", "search model 2"]
    assert {name.split()[0] for name in search[: chosen - 2]} == {"rank"}
    assert {name.split()[0] for name in search[chosen + 1 :]} == {"configure"}


def test_without_trials_there_is_one_answer_and_no_search() -> None:
    assert not [step for step in steps(study(trials=0)) if step.first or step.stage in SEARCHING]


def test_a_study_that_quantizes_nothing_has_nothing_to_search() -> None:
    nothing = study().quantize.model_copy(update={"settings": (), "dynamic": False})
    plan = steps(study().model_copy(update={"quantize": nothing}))
    assert [step.stage for step in plan].count("benchmark") == 1


def test_trials_since_a_better_form_are_counted_from_the_last_that_is_allowed_and_faster() -> None:
    lossy, good, slower, left = trial(1, 0.02), trial(2, 0.004), trial(3, 0.001, 2.5), trial(4, None, ended="worse")
    assert since_better(QUANTIZED, [], MAX_DROP) == 0
    assert since_better(QUANTIZED, [lossy], MAX_DROP) == 1
    assert since_better(QUANTIZED, [lossy, good], MAX_DROP) == 0
    assert since_better(QUANTIZED, [lossy, good, slower, left], MAX_DROP) == 2


def test_the_search_ends_when_its_patience_is_over(tmp_path: Path) -> None:
    patient = study(patience=3, minutes=None)
    progress, step = progress_at_trials(tmp_path, patient, [trial(1, 0.02), trial(2, 0.02)])
    assert needless(step, patient, progress) == ""
    progress, step = progress_at_trials(tmp_path, patient, [trial(number, 0.02) for number in (1, 2, 3)])
    assert needless(step, patient, progress) == "3 trials in a row brought no better form"


def test_the_search_ends_when_nothing_is_left_to_try(tmp_path: Path) -> None:
    progress, step = progress_at_trials(tmp_path, study(), [Tried(number=1, ended="nothing left")])
    assert needless(step, study(), progress) == "nothing is left to try"


@pytest.mark.parametrize(("elapsed", "reason"), [(100, ""), (150, "its time is over")])
def test_no_trial_begins_that_would_not_leave_time_for_the_last_measurement(
    tmp_path: Path, elapsed: float, reason: str
) -> None:
    hurried = study(minutes=5, configure=False)
    progress, step = progress_at_trials(tmp_path, hurried, [trial(1, 0.02)])
    # A trial takes 20 s, and measuring is expected to take 1.4 times the 100 s of the first answer.
    progress.seconds = {"search model 1": 20.0, "benchmark first": 90.0, "aggregate first": 10.0}
    progress.started = time.monotonic() - elapsed
    assert needless(step, hurried, progress) == reason


def test_trials_leave_time_for_the_configurations_of_each_runtime(tmp_path: Path) -> None:
    hurried = study(minutes=5)
    progress, step = progress_at_trials(tmp_path, hurried, [trial(1, 0.02)])
    progress.seconds = {"search model 1": 20.0, "benchmark first": 90.0, "aggregate first": 10.0}
    configuring = [other for other in progress.plan if other.stage == "configure"]
    assert {other.inputs["runtime"] for other in configuring} >= {"onnxruntime", "openvino"}
    progress.started = time.monotonic() - (300 - 140 - 20 - 10 * len(configuring)) + 5
    assert needless(step, hurried, progress) == ""
    progress.started -= 10
    assert needless(step, hurried, progress) == "its time is over"
    # What is left is enough for a runtime's configurations.
    assert needless(configuring[0], hurried, progress) == ""
    progress.started -= 20 + 10 * len(configuring)
    assert needless(configuring[0], hurried, progress) == "its time is over"


def test_configurations_are_tried_of_runtimes_with_options_unless_the_study_says_otherwise() -> None:
    with_options = [step.inputs["runtime"] for step in steps(study()) if step.stage == "configure"]
    assert "eager" not in with_options and "onnxruntime" in with_options
    assert not [step for step in steps(study(configure=False)) if step.stage == "configure"]
    on_gpu = study().benchmark.model_copy(update={"devices": ("cuda:0",)})
    plan = steps(study().model_copy(update={"benchmark": on_gpu}))
    assert "choose" in {step.stage for step in plan} and "configure" not in {step.stage for step in plan}


def test_an_interrupted_search_says_the_fastest_form_that_is_accurate_enough_so_far() -> None:
    results = {
        "quantize model": QUANTIZED,
        "search model 1": trial(1, 0.02, 1.0),
        "search model 2": trial(2, 0.004, 1.8),
    }
    form = Variant(name="m/mixed", model="m", stage="search", format="onnx", artifact=ARTIFACT)
    results = {name: result.model_copy(update={"variant": form}) for name, result in results.items()}
    said = best_so_far(study(), {**results, "quantize model": QUANTIZED, "rank model": None}, REPORT)
    assert said.startswith(
        "the fastest form so far is m/mixed, 1.80 ms in onnxruntime, where fp32 takes 4.00 ms (2 trials);"
    )
    lossy = {"quantize model": QUANTIZED, "search model 1": trial(1, 0.02)}
    assert best_so_far(study(), lossy, REPORT).startswith(
        "no form so far is accurate enough (1 trial); the first answer stands"
    )


def test_layers_are_ranked_only_in_runtimes_in_which_int8_forms_are_timed(tmp_path: Path) -> None:
    a_study = study(minutes=None)
    progress, _ = progress_at_trials(tmp_path, a_study, [])
    ranks = {step.inputs["runtime"]: step for step in progress.plan if step.stage == "rank"}
    assert needless(ranks["onnxruntime"], a_study, progress) == ""
    progress.results["quantize model"] = QUANTIZED.model_copy(update={"fp32_latencies": {"openvino": 3.0}})
    assert needless(ranks["onnxruntime"], a_study, progress) == "no int8 form is timed in it"


def test_a_search_for_which_no_time_was_left_is_said(tmp_path: Path) -> None:
    progress, step = progress_at_trials(tmp_path, study(), [])
    ended = {"model": "its time is over"}
    assert "search for a faster form of model: give" in without_trials(progress.plan, progress.results, ended)
    assert without_trials(progress.plan, progress.results, {"model": "nothing is left to try"}) == ""
    assert without_trials(progress.plan, {**progress.results, step.name: trial(1, 0.02)}, ended) == ""


def test_the_first_trial_is_taken_to_last_no_longer_than_all_forms_that_were_quantized(tmp_path: Path) -> None:
    hurried = study(minutes=5, configure=False)
    progress, step = progress_at_trials(tmp_path, hurried, [])
    progress.seconds = {"benchmark first": 90.0, "aggregate first": 10.0}
    progress.started = time.monotonic() - 120
    assert needless(step, hurried, progress) == "its time is over"
    progress.seconds["quantize model"] = 30.0
    assert needless(step, hurried, progress) == ""

"""The steps of the search for forms, and when it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flows.step import DATA, ResultOf, ResultsOf, Step
from tasks import runtimes
from tasks.records import AUTO, Quantized, Tried
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flows.progress import Progress
    from tasks.records import Study

LEFT_OUT = ("rank", "search", "configure")
"""The stages of the search that are left out where they bring nothing or time is short. `choose` is quick."""
TIME_IS_OVER = "its time is over"
"""A step that would not end in time is left out for this reason, unless its result is stored already."""
BETTER = 1.01
"""A trial brings a better form where it is faster than all before it by more than this multiple."""
FIRST_TRIAL_SECONDS = 60.0
"""What a ranking or a trial is taken to last at most before one has ended. It is less where all int8 forms of the stage
quantize took less."""
CONFIGURING_SECONDS = 10.0
"""What is taken for trying the configurations of one runtime before it was done once."""
MEASURING = 1.4
"""The last measurement has some forms more than the first: it is taken to last this multiple of it."""


def searched(study: Study, plan: Sequence[Step]) -> list[Step]:
    """Return the steps of the search for every ONNX form that a plan quantizes."""
    return [step for quantize in plan if quantize.stage == "quantize" for step in _search_of(study, quantize)]


def _search_of(study: Study, quantize: Step) -> list[Step]:
    """Return the steps of the search for one ONNX form: rank its layers in each runtime, try, and choose."""
    where = quantize.name.removeprefix("quantize ")
    common: dict[str, Any] = {"parent": quantize.inputs["parent"], "quantized": ResultOf((quantize.name,))}
    ranks = [
        Step(
            stage="rank",
            name=f"rank {where} {runtime}",
            model=quantize.model,
            failed={},
            inputs={**common, "data": DATA, "runtime": runtime, "max_drop": study.quantize.max_drop},
        )
        for runtime in study.benchmark.runtimes
    ]
    ranked = ResultsOf(tuple(step.name for step in ranks))
    names = [f"search {where} {number}" for number in range(1, study.search.trials + 1)]
    trials = [
        Step(
            stage="search",
            name=name,
            model=quantize.model,
            failed={},
            inputs={
                **common,
                "data": DATA,
                "ranked": ranked,
                "earlier": ResultsOf(tuple(names[: number - 1])),
                "quantize": study.quantize,
                "settings": study.search,
                "number": number,
            },
        )
        for number, name in enumerate(names, 1)
    ]
    choose = Step(
        stage="choose",
        name=f"choose {where}",
        model=quantize.model,
        failed={},
        inputs={**common, "tried": ResultsOf(tuple(names)), "quantize": study.quantize, "settings": study.search},
    )
    on_cpu = not {"cpu", AUTO}.isdisjoint(study.benchmark.devices)
    configurations = _configurations(study, quantize, common, names) if study.search.configure and on_cpu else []
    return [*ranks, *trials, choose, *configurations]


def _configurations(study: Study, quantize: Step, common: dict[str, Any], trials: Sequence[str]) -> list[Step]:
    """Return one step per runtime, which opens its fastest form in several ways."""
    where = quantize.name.removeprefix("quantize ")
    return [
        Step(
            stage="configure",
            name=f"configure {where} {runtime}",
            model=quantize.model,
            failed={},
            inputs={
                **common,
                "data": DATA,
                "tried": ResultsOf(tuple(trials)),
                "chosen": ResultOf((f"choose {where}",)),
                "runtime": runtime,
                "others": tuple(name for name in study.benchmark.runtimes if name != runtime),
                "threads": study.benchmark.threads,
                "max_drop": study.quantize.max_drop,
            },
        )
        for runtime in study.benchmark.runtimes
        if runtime != AUTO and runtimes.options_of(runtime)
    ]


def needless(step: Step, study: Study, progress: Progress) -> str:
    """Return why a step of the search need not be called, in words; empty where it should be."""
    if step.stage not in LEFT_OUT:
        return ""
    if step.stage != "search" and step.inputs["runtime"] not in _quantized(step, progress).fp32_latencies:
        return "no int8 form is timed in it"
    if step.stage == "search" and (reason := _is_exhausted(step, study, progress.results)):
        return reason
    return TIME_IS_OVER if _is_late(step, study, progress) else ""


def without_trials(plan: Sequence[Step], results: Mapping[str, Any], left_out: Mapping[str, str]) -> str:
    """Return a sentence on the models for which no time was left to search; empty where there is none.

    Parameters
    ----------
    plan
        The steps that were not left out.
    left_out
        Label of a model -> why its search ended before its last trial.
    """
    tried = {step.model for step in plan if step.stage == "search" and results.get(step.name) is not None}
    models = [model for model, reason in left_out.items() if reason == TIME_IS_OVER and model not in tried]
    if not models:
        return ""
    return (
        f"No time was left to search for a faster form of {', '.join(models)}: give the same command more minutes "
        "(search.minutes, --minutes)."
    )


def best_so_far(study: Study, results: Mapping[str, Any], report: Path) -> str:
    """Return in words what the search has found, for a person who interrupts it.

    Parameters
    ----------
    results
        Name of each step that has ended -> its result, None where it failed.
    report
        The report of the first answer.
    """
    trials = [result for result in results.values() if isinstance(result, Tried) and result.scored is not None]
    best: tuple[float, str] | None = None
    for quantized in (result for result in results.values() if isinstance(result, Quantized)):
        names = {variant.setting: variant.name for variant in quantized.variants}
        forms = [(names.get(scored.setting, scored.setting), scored) for scored in quantized.scored]
        forms += [(trial.variant.name, trial.scored) for trial in trials if trial.variant and trial.scored]
        for name, scored in forms:
            if scored.drop is None or scored.drop > study.quantize.max_drop:
                continue
            for runtime, latency in scored.latencies.items():
                fp32 = sig(quantized.fp32_latencies[runtime])
                words = f"{name}, {sig(latency)} ms in {runtime}, where fp32 takes {fp32} ms"
                best = min(best or (latency, words), (latency, words))
    count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
    found = f"the fastest form so far is {best[1]}" if best else "no form so far is accurate enough"
    return (
        f"{found} ({count}); the first answer stands in {report}. With --minutes 1 the same command tries nothing "
        "more, and measures what was found"
    )


def _quantized(step: Step, progress: Progress) -> Quantized:
    result: Quantized = step.inputs["quantized"].taken_from(progress.results)
    return result


def _is_exhausted(step: Step, study: Study, results: Mapping[str, Any]) -> str:
    """Return why further trials would bring nothing, empty where they may."""
    tried: tuple[Tried, ...] = step.inputs["earlier"].taken_from(results)
    if tried and tried[-1].ended == "nothing left":
        return "nothing is left to try"
    quantized = step.inputs["quantized"].taken_from(results)
    if since_better(quantized, tried, study.quantize.max_drop) >= study.search.patience:
        return f"{study.search.patience} trials in a row brought no better form"
    return ""


def since_better(quantized: Quantized, tried: Sequence[Tried], max_drop: float) -> int:
    """Return how many trials have ended since the last that brought a faster form whose drop is allowed."""
    best = dict(quantized.fp32_latencies)
    count = 0
    for scored in (*quantized.scored, *(trial.scored for trial in tried)):
        count += 1
        if scored is None or scored.drop is None or scored.drop > max_drop:
            continue
        for runtime, latency in scored.latencies.items():
            if latency * BETTER < best[runtime]:
                best[runtime] = latency
                count = 0
    return min(count, len(tried))


def _is_late(step: Step, study: Study, progress: Progress) -> bool:
    """Return whether a step of the search, and what must come after it, would not end within the study's minutes."""
    if study.search.minutes is None:
        return False
    ended = progress.seconds
    (quantize,) = step.inputs["quantized"].steps
    first = min(FIRST_TRIAL_SECONDS, progress.seconds_of(quantize) or FIRST_TRIAL_SECONDS)
    trial = max((ended[name] for name in ended if name.startswith(("search ", "rank "))), default=first)
    configuring = {
        other.name: progress.seconds_of(other.name) or CONFIGURING_SECONDS
        for other in progress.waiting
        if other.stage == "configure"
    }
    needed = configuring[step.name] if step.stage == "configure" else trial + sum(configuring.values())
    measuring = MEASURING * sum(progress.seconds_of(name) for name in ("benchmark first", "aggregate first"))
    return time.monotonic() - progress.started + needed + measuring > 60 * study.search.minutes

"""Which int8 form goes on to the benchmark in a runtime: the fastest of those that are accurate enough."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks import runtimes
from tasks.machine import cores
from tasks.machine.causes import cause
from tasks.measure.clock import measure, warm_up
from tasks.records import Scored

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.forms.int8 import Scores
    from tasks.runtimes import Session

ROUNDS = 5
"""Times that each form is measured for its latency."""
TIE = 0.05
"""Forms whose latency is within this share of the fastest one's count as equally fast: the most accurate is chosen."""


@dataclass(kw_only=True)
class Form:
    """An int8 form, with what the search has found out about it."""

    setting: str
    format: str
    dynamic: bool
    """Whether it computes the ranges of activations in each query."""
    path: Path
    scores: Scores
    latencies: dict[str, float] = field(default_factory=dict)
    """Runtime -> median latency of one image, in milliseconds, where the runtime executes the form: its ratio to the
    fp32 parent times the parent's latency."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Runtime -> that latency as a multiple of the fp32 parent's."""


def scored(form: Form) -> Scored:
    """Return what the search compares of a form that was scored on all validation images."""
    return Scored(
        setting=form.setting,
        look=form.scores.look,
        divergence=form.scores.divergence,
        drop=form.scores.drop,
        latencies=form.latencies,
    )


def timed_runtimes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of a study's runtimes in which int8 forms are timed: they execute them, and run on this CPU.

    Where there is none, it is ONNX Runtime.
    """
    able = []
    for name in names:
        runtime = runtimes.load(name)
        if {"onnx", "openvino"} & set(runtime.FORMATS) and runtime.unavailable("cpu") is None:
            able.append(name)
    return tuple(able) or (runtimes.USUAL["onnx"],)


@dataclass(frozen=True)
class Timed:
    """Latencies of forms in one runtime, measured by turns with their fp32 parent."""

    parent_ms: float | None
    """The parent's median latency in milliseconds, None where no form was measured."""
    ratios: dict[str, float]
    """Name of a form -> its median latency as a multiple of the parent's."""
    refused: dict[str, str]
    """Name of a form -> why the runtime does not execute it."""


def time_in(runtime_name: str, fp32: Path, forms: dict[str, Path], image: np.ndarray, rounds: int = ROUNDS) -> Timed:
    """Measure the latency of forms, given by name, and of their fp32 parent in one runtime, for one image.

    Each form is measured by turns with the parent, so that a disturbance hits both alike. So the ratios of forms
    compare, and no more than two models are open at a time.
    """
    runtime = runtimes.load(runtime_name)
    runtime.load_library("cpu")
    parent = runtime.open(fp32, "cpu", 1, cores())
    parent_times: list[float] = []
    ratios: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, path in forms.items():
        try:
            session = runtime.open(path, "cpu", 1, cores())
            medians = by_turns((parent, session), image, rounds)
            session.close()
        except (ValueError, RuntimeError) as error:
            refused[name] = cause(error)
            continue
        parent_times += medians[0]
        ratios[name] = float(np.median(medians[1]) / np.median(medians[0]))
    parent.close()
    return Timed(float(np.median(parent_times)) / 1e6 if parent_times else None, ratios, refused)


def by_turns(
    sessions: tuple[Session, Session], image: np.ndarray, rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    """Return the median of each of some rounds of measuring both sessions, in nanoseconds."""
    medians: tuple[list[float], list[float]] = ([], [])
    # `measure` collects garbage first, which takes half a second among PyTorch's objects unless they are frozen.
    gc.freeze()
    try:
        for _ in range(rounds):
            for session, times in zip(sessions, medians, strict=True):
                call = partial(session.run, image)
                warm_up(call, 0.02)
                times.append(float(np.median(measure(call, 0.03, 5))))
    finally:
        gc.unfreeze()
    return medians


def choose(forms: list[Form], runtime: str, max_drop: float) -> tuple[Form, str]:
    """Return the form that is benchmarked in a runtime, and the reason: it is the fastest whose drop is allowed.

    Of forms that are equally fast (within 5 % of the fastest), the most accurate is chosen: the one with the smallest
    drop, then the one that diverges least from its parent. Where no form's drop is allowed, it is the most accurate of
    all. All forms have a latency in this runtime.
    """

    def accuracy(form: Form) -> tuple[float, float, float]:
        return form.scores.drop, form.scores.divergence, form.latencies[runtime]

    # A drop of exactly max_drop is allowed, whatever the rounding of floats makes of it.
    allowed = [form for form in forms if form.scores.drop <= max_drop + 1e-9]
    if not allowed:
        return min(forms, key=accuracy), f"no setting is within {max_drop:g} of top-1; most accurate"
    limit = min(form.latencies[runtime] for form in allowed) * (1 + TIE)
    tied = [form for form in allowed if form.latencies[runtime] <= limit]
    reason = f"fastest within {max_drop:g} of top-1"
    if len(tied) > 1:
        settings = ", ".join(form.setting for form in tied)
        reason = f"{reason}; of {len(tied)} settings equally fast ({settings}) the most accurate"
    return min(tied, key=accuracy), reason

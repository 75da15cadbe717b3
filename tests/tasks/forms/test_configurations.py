"""Configurations of a runtime: which are tried, beside which other, and which one is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.forms.configurations import ROUNDS, Compared, Configuration, Times, compared, times_of
from tests.support.models import onnx_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USUAL = Configuration(8)


def measured(latencies: dict[Configuration, float]) -> Callable[[Configuration, Configuration], Times]:
    """Return a function that measures two configurations, whose latencies are given; 1 where they are not."""

    def measure(one: Configuration, other: Configuration) -> Times:
        return [latencies.get(one, 1.0)] * ROUNDS, [latencies.get(other, 1.0)] * ROUNDS

    return measure


def tried(options: tuple[str, ...], latencies: dict[Configuration, float]) -> list[Compared]:
    return list(compared(USUAL, options, measured(latencies)))


def test_fewer_threads_are_tried_by_halves_and_then_each_option_beside_the_usual_configuration() -> None:
    trials = tried(("a", "b"), {})
    assert [trial.configuration for trial in trials] == [
        *(Configuration(threads) for threads in (4, 2, 1)),
        *(Configuration(8, (option,)) for option in ("a", "b")),
    ]
    assert {trial.against for trial in trials} == {USUAL}
    assert not any(trial.taken for trial in trials)


def test_what_is_clearly_faster_is_kept_and_the_rest_is_compared_with_it() -> None:
    quick = Configuration(4)
    with_a = Configuration(4, ("a",))
    trials = tried(("a", "b"), {quick: 0.8, with_a: 0.6, Configuration(4, ("a", "b")): 0.59})
    assert [trial.configuration for trial in trials if trial.taken] == [quick, with_a]
    assert [trial.against for trial in trials] == [USUAL, quick, quick, quick, with_a]
    assert trials[-1].configuration == Configuration(4, ("a", "b")) and trials[-1].ratio == pytest.approx(0.59 / 0.6)


def test_with_one_thread_only_options_are_tried() -> None:
    assert [trial.configuration.options for trial in compared(Configuration(1), ("a",), measured({}))] == [("a",)]


def test_a_configuration_that_is_slower_in_one_round_is_not_taken() -> None:
    def measure(one: Configuration, other: Configuration) -> Times:
        return [1.0] * ROUNDS, [0.5] * (ROUNDS - 1) + [1.1]

    (trial,) = compared(Configuration(1), ("a",), measure)
    assert (trial.ratio, trial.rounds_faster, trial.taken) == (0.5, ROUNDS - 1, False)


def test_a_configuration_that_fails_says_why_and_the_others_are_tried() -> None:
    def measure(one: Configuration, other: Configuration) -> Times:
        if "a" in other.options:
            raise RuntimeError("no such option")
        return [1.0] * ROUNDS, [0.5] * ROUNDS

    failed, good = compared(Configuration(1), ("a", "b"), measure)
    assert (failed.error, failed.taken) == ("RuntimeError: no such option", False)
    assert good.taken and good.against == Configuration(1)


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (Configuration(8), ()),
        (Configuration(1), ("1-thread",)),
        (Configuration(2, ("a",)), ("2-threads", "a")),
        (Configuration(8, ("a", "b")), ("a", "b")),
    ],
)
def test_a_configuration_is_named_by_what_differs_from_the_usual_one(
    configuration: Configuration, words: tuple[str, ...]
) -> None:
    assert configuration.difference(USUAL) == words


@pytest.mark.parametrize(("runtime", "option"), [("onnxruntime", "no-arena"), ("openvino", "no-pinning")])
def test_a_real_file_is_measured_in_two_configurations(runtime: str, option: str, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "model.onnx")
    image = np.zeros((1, 256), np.float32)
    times = times_of(runtime, path, image, (Configuration(2), Configuration(1, (option,))))
    assert [len(rounds) for rounds in times] == [ROUNDS, ROUNDS]
    assert all(nanoseconds > 0 for rounds in times for nanoseconds in rounds)

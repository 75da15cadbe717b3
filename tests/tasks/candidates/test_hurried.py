"""A visit that `benchmark.minutes` cut short is marked as hurried, and its conditions give that as the cause."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.candidates.candidate import Visit, conditions
from tasks.candidates.process import Effort, Spec, Worker
from tasks.machine.certificate import HURRIED

if TYPE_CHECKING:
    from pathlib import Path


def test_a_visit_is_hurried_where_its_time_limit_cuts_warm_up_or_measuring_short(tmp_path: Path) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((4, 1, 8, 8), np.float32))
    (tmp_path / "model").write_text(json.dumps({"milliseconds": [2.0], "classes": 10}))
    spec = Spec(
        runtime="null",
        path=str(tmp_path / "model"),
        device="cpu",
        threads=1,
        batch_sizes=(1,),
        pool=str(tmp_path / "pool.npy"),
    )
    worker = Worker(spec, tmp_path / "log")

    def is_hurried(**effort: float | int | None) -> bool:
        worker.warm_up("latency", 1, Effort(**effort), [])  # type: ignore[arg-type]
        worker.turn(1)
        return bool(worker.finish(tmp_path / "visit.npz")["hurried"])

    try:
        worker.receive()
        quick_effort = {"warmup_seconds": 0.1, "min_seconds": 0.05, "min_queries": 5}
        assert not is_hurried(**quick_effort, limit=None)
        assert not is_hurried(**quick_effort, limit=60.0)
        assert is_hurried(**quick_effort | {"min_seconds": 30.0}, limit=0.3)
        assert is_hurried(**quick_effort | {"min_queries": 5000}, limit=0.3)
        assert is_hurried(**quick_effort | {"warmup_seconds": 30.0}, limit=0.3)
    finally:
        worker.kill()


@pytest.mark.parametrize(("hurried", "named"), [((True, True, False), True), ((True, False, False), False)])
def test_conditions_name_the_time_limit_where_it_cut_most_visits_short(hurried: tuple[bool, ...], named: bool) -> None:
    certificate = {"foreign_cpu": 0.5, "gpu_trouble": None}
    visits = [
        Visit(
            np.array([1]),
            np.array([1]),
            None,
            1,
            {"stable": False, "hurried": visit_hurried, "certificate": certificate},
        )
        for visit_hurried in hurried
    ]
    unstable, differing, foreign = (conditions(visits, [100, 230, 105]) or "").split("; ")
    assert (HURRIED in unstable, HURRIED in differing) == (named, named)
    assert foreign == "other processes used 50% of the cores", (
        "load by other processes has another remedy than more minutes"
    )

"""Rounds of a benchmark that was interrupted: each finished round is kept, and a new start goes on after the last."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.store import replace, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Benchmark
    from tasks.rounds import Job

STATE = ("provider", "baseline", "open_seconds", "started", "error")
"""Fields of a job that outlive its process."""


def _asked(jobs: list[Job], settings: Benchmark) -> str:
    """What rounds must have been measured for to count."""
    return json.dumps(
        [settings.model_dump(mode="json"), [[job.label, asdict(job.spec)] for job in jobs]], sort_keys=True
    )


def save(folder: Path, number: int, jobs: list[Job], settings: Benchmark) -> None:
    """Keep round `number` (from 0); the JSON file, written last, says that it is whole."""
    arrays: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    for index, job in enumerate(jobs):
        visits = {}
        for size, of_size in job.visits.items():
            if len(of_size) <= number:  # it failed
                continue
            visit = of_size[number]
            arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"] = visit.samples, visit.turns
            if visit.gpu is not None:
                arrays[f"{index}-{size}-gpu"] = visit.gpu
            visits[size] = {"process": visit.process, "answer": visit.answer}
        state = {name: getattr(job, name) for name in STATE}
        told.append({"visits": visits, "errors": job.errors, **state})
    np.savez(folder / "round.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its own options
    replace(folder / "round.npz", folder / f"round-{number}.npz")
    write_text(folder / f"round-{number}.json", json.dumps({"asked": _asked(jobs, settings), "jobs": told}))


def load(folder: Path, jobs: list[Job], settings: Benchmark) -> int:
    """Give jobs what finished rounds found out; returns how many there are. Rounds of anything else do not count."""
    from tasks.rounds import Visit

    number = 0
    while (folder / f"round-{number}.json").exists():
        told = json.loads((folder / f"round-{number}.json").read_text())
        if told["asked"] != _asked(jobs, settings):
            break
        with np.load(folder / f"round-{number}.npz") as arrays:
            for index, (job, kept) in enumerate(zip(jobs, told["jobs"], strict=True)):
                for size, visit in kept["visits"].items():
                    samples, turns = arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"]
                    found = Visit(samples, turns, arrays.get(f"{index}-{size}-gpu"), visit["process"], visit["answer"])
                    job.visits.setdefault(int(size), []).append(found)
                for name in STATE:
                    setattr(job, name, kept[name])
                job.errors = {int(size): error for size, error in kept["errors"].items()}
        number += 1
    return number

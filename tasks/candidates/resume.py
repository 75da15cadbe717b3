"""Rounds of a benchmark that was interrupted: each finished round is kept, and a new start goes on after the last."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.machine.durable import Series

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from tasks.candidates.jobs import Job
    from tasks.records import Benchmark

STATE = ("provider", "baseline", "open_seconds", "started", "error")
"""Fields of a job that outlive its process."""


def _rounds(folder: Path) -> Series:
    """A file per round, from 0: samples as arrays, and `jobs`, JSON of everything else."""
    return Series(folder, "round", ".npz")


def _asked(jobs: list[Job], settings: Benchmark) -> str:
    """What rounds must have been measured for to count."""
    return json.dumps(
        [settings.model_dump(mode="json"), [[job.label, asdict(job.spec)] for job in jobs]], sort_keys=True
    )


def save(folder: Path, number: int, jobs: list[Job], settings: Benchmark) -> None:
    """Keep round `number` (from 0), whole or not at all; not where a candidate was killed in it or before.

    Candidates' rounds are compared in pairs, so that from there on all are measured again.
    """
    if any(job.killed for job in jobs):
        return
    arrays: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    for index, job in enumerate(jobs):
        visits = {}
        for size, of_size in job.visits.items():
            # it failed
            if len(of_size) <= number:
                continue
            visit = of_size[number]
            arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"] = visit.samples, visit.turns
            if visit.gpu is not None:
                arrays[f"{index}-{size}-gpu"] = visit.gpu
            visits[size] = {"process": visit.process, "answer": visit.answer}
        state = {name: getattr(job, name) for name in STATE}
        told.append({"visits": visits, "errors": job.errors, **state})
    arrays["jobs"] = np.array(json.dumps({"asked": _asked(jobs, settings), "jobs": told}))
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its own options
    _rounds(folder).write(number, lambda file: file.write(packed.getbuffer()))


def load(folder: Path, jobs: list[Job], settings: Benchmark, log: logging.Logger) -> int:
    """Give jobs what finished rounds found out; returns how many there are. Rounds of anything else do not count, nor
    do those from the first damaged one on.
    """
    number = 0
    for kept in _rounds(folder).files():
        if kept.number != number:
            break
        if not kept.intact():
            log.warning(
                "round %d of an interrupted benchmark is damaged (%s does not hold what its name says) and removed; "
                "it and later rounds are measured again",
                number + 1,
                kept.path.name,
            )
            kept.path.unlink()
            break
        if not _take(kept.path, jobs, settings):
            break
        number += 1
    return number


def _take(path: Path, jobs: list[Job], settings: Benchmark) -> bool:
    """Give jobs what one round found out, if it was measured for the same."""
    from tasks.candidates.jobs import Visit

    with np.load(path) as arrays:
        told = json.loads(arrays["jobs"].item())
        if told["asked"] != _asked(jobs, settings):
            return False
        for index, (job, kept) in enumerate(zip(jobs, told["jobs"], strict=True)):
            for size, visit in kept["visits"].items():
                samples, turns = arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"]
                found = Visit(samples, turns, arrays.get(f"{index}-{size}-gpu"), visit["process"], visit["answer"])
                job.visits.setdefault(int(size), []).append(found)
            for name in STATE:
                setattr(job, name, kept[name])
            job.errors = {int(size): error for size, error in kept["errors"].items()}
    return True

"""Finished rounds on disk: a benchmark that was interrupted continues after the last of them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.candidates.candidate import Visit
from tasks.machine.durable import Series

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from tasks.candidates.candidate import Candidate
    from tasks.records import Benchmark

STATE = ("provider", "baseline", "open_seconds", "started", "error")
"""Fields of a candidate that outlive its process."""


def _files(folder: Path) -> Series:
    """Return the files of a folder's rounds: one per round, counted from 0.

    A file has the samples of the round's visits as arrays, and everything else as JSON in the array `candidates`.
    """
    return Series(folder, "round", ".npz")


def _purpose(candidates: list[Candidate], settings: Benchmark) -> str:
    """Return what a round is measured for. A round counts only for a benchmark whose purpose is the same."""
    specs = [[candidate.label, asdict(candidate.spec)] for candidate in candidates]
    return json.dumps([settings.model_dump(mode="json"), specs], sort_keys=True)


def save(folder: Path, number: int, candidates: list[Candidate], settings: Benchmark) -> None:
    """Write round `number` (counted from 0) to disk, whole or not at all.

    It is not written where a candidate was killed in this round or before it. The rounds of the candidates are compared
    in pairs, so from there on all candidates are measured again.
    """
    if any(candidate.killed for candidate in candidates):
        return
    arrays: dict[str, np.ndarray] = {}
    states: list[dict[str, Any]] = []
    for index, candidate in enumerate(candidates):
        visits = {}
        for size, visits_of_size in candidate.visits.items():
            if len(visits_of_size) <= number:
                # The candidate failed before it was visited in this round.
                continue
            visit = visits_of_size[number]
            arrays[f"{index}-{size}-samples"] = visit.samples
            arrays[f"{index}-{size}-turns"] = visit.turns
            if visit.gpu is not None:
                arrays[f"{index}-{size}-gpu"] = visit.gpu
            visits[size] = {"process": visit.process, "answer": visit.answer}
        state = {name: getattr(candidate, name) for name in STATE}
        states.append({"visits": visits, "errors": candidate.errors, **state})
    text = json.dumps({"purpose": _purpose(candidates, settings), "states": states})
    arrays["candidates"] = np.array(text)
    packed = io.BytesIO()
    # NumPy's stub takes the arrays for savez's own options.
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    _files(folder).write(number, lambda file: file.write(packed.getbuffer()))


def load(folder: Path, candidates: list[Candidate], settings: Benchmark, log: logging.Logger) -> int:
    """Give the candidates the visits of the finished rounds in a folder, and return how many rounds these are.

    Rounds that were measured for anything else do not count, nor does a damaged round or any after it.
    """
    number = 0
    for file in _files(folder).files():
        if file.number != number:
            break
        if not file.intact():
            log.warning(
                "round %d of an interrupted benchmark is damaged (%s does not hold what its name says) and removed; "
                "it and later rounds are measured again",
                number + 1,
                file.path.name,
            )
            file.path.unlink()
            break
        if not _take(file.path, candidates, settings):
            break
        number += 1
    return number


def _take(path: Path, candidates: list[Candidate], settings: Benchmark) -> bool:
    """Give the candidates the visits of one round. Return False where it was measured for anything else."""
    with np.load(path) as arrays:
        if "candidates" not in arrays:
            # Another version of burnish wrote it.
            return False
        content = json.loads(arrays["candidates"].item())
        if content["purpose"] != _purpose(candidates, settings):
            return False
        for index, (candidate, state) in enumerate(zip(candidates, content["states"], strict=True)):
            for size, about in state["visits"].items():
                visit = Visit(
                    samples=arrays[f"{index}-{size}-samples"],
                    turns=arrays[f"{index}-{size}-turns"],
                    gpu=arrays.get(f"{index}-{size}-gpu"),
                    process=about["process"],
                    answer=about["answer"],
                )
                candidate.visits.setdefault(int(size), []).append(visit)
            for name in STATE:
                setattr(candidate, name, state[name])
            candidate.errors = {int(size): error for size, error in state["errors"].items()}
    return True

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

    from tasks.candidates.candidate import Candidate
    from tasks.records import Benchmark

STATE = ("provider", "baseline", "open_seconds", "started", "error")
"""Fields of a candidate that outlive its process."""


def _rounds(folder: Path) -> Series:
    """A file per round, from 0: samples as arrays, and `candidates`, JSON of everything else."""
    return Series(folder, "round", ".npz")


def _asked(candidates: list[Candidate], settings: Benchmark) -> str:
    """What rounds must have been measured for to count."""
    return json.dumps(
        [settings.model_dump(mode="json"), [[candidate.label, asdict(candidate.spec)] for candidate in candidates]],
        sort_keys=True,
    )


def save(folder: Path, number: int, candidates: list[Candidate], settings: Benchmark) -> None:
    """Keep round `number` (from 0), whole or not at all; not where a candidate was killed in it or before.

    Candidates' rounds are compared in pairs, so that from there on all are measured again.
    """
    if any(candidate.killed for candidate in candidates):
        return
    arrays: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    for index, candidate in enumerate(candidates):
        visits = {}
        for size, of_size in candidate.visits.items():
            # it failed
            if len(of_size) <= number:
                continue
            visit = of_size[number]
            arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"] = visit.samples, visit.turns
            if visit.gpu is not None:
                arrays[f"{index}-{size}-gpu"] = visit.gpu
            visits[size] = {"process": visit.process, "answer": visit.answer}
        state = {name: getattr(candidate, name) for name in STATE}
        told.append({"visits": visits, "errors": candidate.errors, **state})
    arrays["candidates"] = np.array(json.dumps({"asked": _asked(candidates, settings), "candidates": told}))
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its own options
    _rounds(folder).keep(number, lambda file: file.write(packed.getbuffer()))


def load(folder: Path, candidates: list[Candidate], settings: Benchmark, log: logging.Logger) -> int:
    """Give the candidates the visits of finished rounds, and return how many rounds these are. Rounds of anything else
    do not count, nor do those from the first damaged one on.
    """
    number = 0
    for kept in _rounds(folder).kept():
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
        if not _take(kept.path, candidates, settings):
            break
        number += 1
    return number


def _take(path: Path, candidates: list[Candidate], settings: Benchmark) -> bool:
    """Give candidates what one round found out, if it was measured for the same."""
    from tasks.candidates.candidate import Visit

    with np.load(path) as arrays:
        told = json.loads(arrays["candidates"].item())
        if told["asked"] != _asked(candidates, settings):
            return False
        for index, (candidate, kept) in enumerate(zip(candidates, told["candidates"], strict=True)):
            for size, visit in kept["visits"].items():
                samples, turns = arrays[f"{index}-{size}-samples"], arrays[f"{index}-{size}-turns"]
                found = Visit(samples, turns, arrays.get(f"{index}-{size}-gpu"), visit["process"], visit["answer"])
                candidate.visits.setdefault(int(size), []).append(found)
            for name in STATE:
                setattr(candidate, name, kept[name])
            candidate.errors = {int(size): error for size, error in kept["errors"].items()}
    return True

"""Files from which a later run resumes, with a bit flipped or the end cut off: this is noticed, told, and not used."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks import tune
from tasks.caching.work import Work
from tasks.candidates import resume
from tasks.candidates.candidate import Candidate, Visit
from tasks.candidates.process import Spec
from tasks.records import Artifact, Benchmark, Choice, Model, Range, Train, Tune, Variant
from tasks.training import loop
from tasks.training.checkpoints import Checkpoints
from tasks.training.fit import Fitted, fit
from tasks.training.state import Training
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.trainings import training_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LENET = Model(name="lenet5")
QUICK = Train(epochs=4, patience=4, batch_size=32, learning_rate=0.05)


def damages(content: bytes, count: int) -> Iterator[bytes]:
    """Yield the content with one bit flipped, and the content cut off, at each of `count` places."""
    for place in np.linspace(0, len(content) - 1, count).astype(int):
        yield content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        yield content[:place]


class Interrupted(Exception):
    """Ends a training in the middle, as a signal would."""


def train_lenet(work: Work, data: Any, on_epoch: Callable[[int, float], None] | None = None) -> Fitted:
    network, architecture = fresh(LENET, data, 0)
    return fit(training_of(work, architecture, data, QUICK, "lenet5"), network, on_epoch)


def interrupt_in_epoch_3(epoch: int, score: float) -> None:
    if epoch == 3:
        raise Interrupted


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "count", "continuation"),
    [(_flip, 1, "on after epoch 2"), (_tear, 1, "on after epoch 2"), (_empty, 2, "back to the beginning")],
)
def test_training_with_a_damaged_checkpoint_goes_on_from_the_last_good_one_or_anew(
    tmp_path, monkeypatch, caplog, damage, count, continuation
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    data = digits(Work.at(tmp_path))
    undisturbed = train_lenet(Work.at(tmp_path), data)
    work = Work.at(tmp_path)
    with pytest.raises(Interrupted):
        train_lenet(work, data, interrupt_in_epoch_3)
    checkpoints = sorted(work.scratch.glob("*.pt"))
    assert [path.name.split(".")[1] for path in checkpoints] == ["2", "3"]
    for path in checkpoints[2 - count :]:
        damage(path)
    assert train_lenet(work, data).artifact == undisturbed.artifact
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == count
    assert all("\n" not in line and line.endswith(f"training goes {continuation}") for line in warnings), warnings


def test_every_damage_to_a_checkpoint_is_noticed(tmp_path, caplog):
    import torch

    checkpoints = Checkpoints(tmp_path, "lenet5/train", 0)
    for epoch in (1, 2):
        checkpoints.save(epoch, {"epoch": epoch, "model": {"weight": torch.arange(1000.0)}})
    before, newest = (file.path for file in checkpoints.series.files())
    content = newest.read_bytes()
    log = logging.getLogger("burnish.test")
    assert checkpoints.newest(log) == newest
    for damaged in damages(content, 100):
        newest.write_bytes(damaged)
        caplog.clear()
        assert checkpoints.newest(log) == before
        assert "the checkpoint after epoch 2 is damaged" in caplog.text
        assert not newest.exists()


def _search_rows(work: Work, data: Any) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Search with six trials, and return the rows of the trials, without their seconds, and of their epochs."""
    space = {"learning_rate": Range(low=0.01, high=0.2, log=True), "label_smoothing": Choice(values=(0.0, 0.1))}
    rows, epochs = tune.search(work, LENET, data, QUICK, Tune(trials=6, epochs=3, space=space))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows], epochs


def _fit_by_formula(training: Training, network: Any, on_epoch: Callable[[int, float], None]) -> Fitted:
    """Stand in for a training, with scores that depend on the settings alone."""
    scores = [1 / (1 + 10 * abs(training.settings.learning_rate - 0.08)) * epoch / 3 for epoch in (1, 2, 3)]
    for epoch, score in enumerate(scores, 1):
        on_epoch(epoch, score)
    no_weights = Artifact(path="", sha256="", size_bytes=0, format="")
    return Fitted(no_weights, scores[-1], 0.0, [{"trial": int(training.variant.rpartition("-")[2])}] * 3)


def test_a_search_resumed_with_a_damaged_journal_gives_the_undisturbed_result(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tune, "fit", _fit_by_formula)
    monkeypatch.setattr(tune, "fresh", lambda model, data, seed: (None, {}))
    work = Work.at(tmp_path)
    data = digits(work)
    undisturbed = _search_rows(work, data)
    assert len(undisturbed[0]) == 6
    assert {row["stopped_early"] for row in undisturbed[0]} == {True, False}
    content = (work.scratch / "trials.log").read_bytes()
    assert _search_rows(work, data) == undisturbed and not caplog.records
    lines = content.splitlines(keepends=True)
    # A process that is killed between two operations leaves whole lines, which are no damage.
    first_lines = [b"".join(lines[:count]) for count in range(len(lines))]
    for journal in (*first_lines, *damages(content, 12)):
        caplog.clear()
        shutil.rmtree(work.scratch)
        work.scratch.mkdir()
        (work.scratch / "trials.log").write_bytes(journal)
        assert _search_rows(work, data) == undisturbed, len(journal)
        assert ("trials.log is damaged from line" in caplog.text) == (journal not in first_lines)
        caplog.clear()
        assert _search_rows(work, data) == undisturbed and not caplog.records, (
            "the trials that were repeated are in the journal again"
        )


def _candidates(rounds: int) -> list[Candidate]:
    """Return two candidates that were measured in this many rounds."""
    candidates = []
    for name in ("a", "b"):
        spec = Spec(runtime="null", path=name, device="cpu", threads=1, batch_sizes=(1, 4), pool="pool.npy")
        artifact = Artifact(path=name, sha256="", size_bytes=1, format="null")
        candidate = Candidate(
            Variant(name=name, model=name, stage="file", format="null", artifact=artifact), "null", "cpu", spec
        )
        for number in range(rounds):
            for size in (1, 4):
                samples = np.arange(40) + 100 * number + size
                candidate.visits.setdefault(size, []).append(
                    Visit(samples, np.array([20, 20]), None, number, {"level": 1.0})
                )
        candidates.append(candidate)
    return candidates


def _visits_as_json(candidates: list[Candidate], rounds: int) -> str:
    return json.dumps(
        [
            [candidate.label, size, visit.samples.tolist(), visit.process, visit.answer]
            for candidate in candidates
            for size in candidate.visits
            for visit in candidate.visits[size][:rounds]
        ]
    )


def test_a_resumed_benchmark_counts_the_rounds_before_a_damaged_one(tmp_path, caplog):
    settings, log = Benchmark(rounds=4), logging.getLogger("burnish.test")
    measured = _candidates(3)
    for number in range(3):
        resume.save(tmp_path, number, measured, settings)
    files = sorted(tmp_path.iterdir())
    contents = [path.read_bytes() for path in files]
    for number, content in enumerate(contents):
        for damaged in damages(content, 40):
            for path, good in zip(files, contents, strict=True):
                path.write_bytes(good)
            files[number].write_bytes(damaged)
            caplog.clear()
            candidates = _candidates(0)
            assert resume.load(tmp_path, candidates, settings, log) == number
            assert _visits_as_json(candidates, 3) == _visits_as_json(measured, number)
            (warning,) = (record.getMessage() for record in caplog.records)
            assert warning.startswith(f"round {number + 1} of an interrupted benchmark is damaged")
    for path, good in zip(files, contents, strict=True):
        path.write_bytes(good)
    resume.save(tmp_path, 1, measured, settings)
    assert len(list(tmp_path.iterdir())) == 2, "rounds after the one that is measured again are removed"

"""What a disk does to files that a later run goes on from: flipped and torn, they are noticed, said, and never used."""

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
    """The content with one bit flipped at `count` places, and cut off at as many."""
    for place in np.linspace(0, len(content) - 1, count).astype(int):
        yield content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        yield content[:place]


class Cut(Exception):
    pass


def trained(work: Work, data: Any, on_epoch: Callable[[int, float], None] | None = None) -> Fitted:
    network, architecture = fresh(LENET, data, 0)
    return fit(training_of(work, architecture, data, QUICK, "lenet5"), network, on_epoch)


def cut_off(epoch: int, score: float) -> None:
    if epoch == 3:
        raise Cut


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "count", "goes"),
    [(_flip, 1, "on after epoch 2"), (_tear, 1, "on after epoch 2"), (_empty, 2, "back to the beginning")],
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_or_the_beginning_used(
    tmp_path, monkeypatch, caplog, damage, count, goes
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    data = digits(Work.at(tmp_path))
    whole = trained(Work.at(tmp_path), data)
    work = Work.at(tmp_path)
    with pytest.raises(Cut):
        trained(work, data, cut_off)
    kept = sorted(work.scratch.glob("*.pt"))
    assert [path.name.split(".")[1] for path in kept] == ["2", "3"]
    for path in kept[2 - count :]:
        damage(path)
    assert trained(work, data).artifact == whole.artifact
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == count
    assert all("\n" not in line and line.endswith(f"training goes {goes}") for line in said), said


def test_every_damage_to_a_checkpoint_is_noticed(tmp_path, caplog):
    import torch

    checkpoints = Checkpoints(tmp_path, "lenet5/train", 0)
    for epoch in (1, 2):
        checkpoints.save(epoch, {"epoch": epoch, "model": {"weight": torch.arange(1000.0)}})
    before, newest = (kept.path for kept in checkpoints.series.files())
    content = newest.read_bytes()
    log = logging.getLogger("burnish.test")
    assert checkpoints.newest(log) == newest
    for bad in damages(content, 100):
        newest.write_bytes(bad)
        caplog.clear()
        assert checkpoints.newest(log) == before
        assert "the checkpoint after epoch 2 is damaged" in caplog.text
        assert not newest.exists()


def _searched(work: Work, data: Any) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of a search of six trials, without what time each took, and of its epochs."""
    space = {"learning_rate": Range(low=0.01, high=0.2, log=True), "label_smoothing": Choice(values=(0.0, 0.1))}
    rows, epochs = tune.search(work, LENET, data, QUICK, Tune(trials=6, epochs=3, space=space))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows], epochs


def _scored(training: Training, network: Any, on_epoch: Callable[[int, float], None]) -> Fitted:
    """In place of a training, which is tried apart: scores that depend on the settings alone."""
    scores = [1 / (1 + 10 * abs(training.settings.learning_rate - 0.08)) * epoch / 3 for epoch in (1, 2, 3)]
    for epoch, score in enumerate(scores, 1):
        on_epoch(epoch, score)
    nothing = Artifact(path="", sha256="", size_bytes=0, format="")
    return Fitted(nothing, scores[-1], 0.0, [{"trial": int(training.variant.rpartition("-")[2])}] * 3)


def test_a_damaged_tuning_journal_gives_the_undisturbed_search(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tune, "fit", _scored)
    monkeypatch.setattr(tune, "fresh", lambda model, data, seed: (None, {}))
    work = Work.at(tmp_path)
    data = digits(work)
    whole = _searched(work, data)
    assert len(whole[0]) == 6
    assert {row["stopped_early"] for row in whole[0]} == {True, False}
    content = (work.scratch / "trials.log").read_bytes()
    assert _searched(work, data) == whole and not caplog.records
    lines = content.splitlines(keepends=True)
    # ended by the kernel between two operations
    torn = [b"".join(lines[:count]) for count in range(len(lines))]
    for bad in (*torn, *damages(content, 12)):
        caplog.clear()
        shutil.rmtree(work.scratch)
        work.scratch.mkdir()
        (work.scratch / "trials.log").write_bytes(bad)
        assert _searched(work, data) == whole, len(bad)
        assert ("trials.log is damaged from line" in caplog.text) == (bad not in torn)
        caplog.clear()
        assert _searched(work, data) == whole and not caplog.records, "what was redone is whole"


def _candidates(rounds: int) -> list[Candidate]:
    """Two candidates after so many rounds."""
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


def _told(candidates: list[Candidate], rounds: int) -> str:
    return json.dumps(
        [
            [candidate.label, size, visit.samples.tolist(), visit.process, visit.answer]
            for candidate in candidates
            for size in candidate.visits
            for visit in candidate.visits[size][:rounds]
        ]
    )


def test_of_the_rounds_of_a_benchmark_those_before_a_damaged_one_count(tmp_path, caplog):
    settings, log = Benchmark(rounds=4), logging.getLogger("burnish.test")
    whole = _candidates(3)
    for number in range(3):
        resume.save(tmp_path, number, whole, settings)
    files = sorted(tmp_path.iterdir())
    contents = [path.read_bytes() for path in files]
    for number, content in enumerate(contents):
        for bad in damages(content, 40):
            for path, good in zip(files, contents, strict=True):
                path.write_bytes(good)
            files[number].write_bytes(bad)
            caplog.clear()
            candidates = _candidates(0)
            assert resume.load(tmp_path, candidates, settings, log) == number
            assert _told(candidates, 3) == _told(whole, number)
            (said,) = (record.getMessage() for record in caplog.records)
            assert said.startswith(f"round {number + 1} of an interrupted benchmark is damaged")
    for path, good in zip(files, contents, strict=True):
        path.write_bytes(good)
    resume.save(tmp_path, 1, whole, settings)
    assert len(list(tmp_path.iterdir())) == 2, "rounds after one that is measured again are another machine's weather"

"""A full disk: a real one, of each size, in each place that writes; what a person reads is one sentence."""

from __future__ import annotations

import errno
import logging
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flows.cli import main
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.candidates.process import Images, Spec, Worker
from tasks.export import export
from tasks.machine import room, space
from tasks.machine.durable import Series
from tasks.machine.space import DiskFull
from tasks.prepare import prepare
from tasks.records import Data, Export, Model, Train
from tasks.tables import expectations
from tasks.training import loop
from tasks.training.fit import fit
from tasks.training.journal import Journal
from tasks.training.weights import fresh
from tests.support.command import SHORT, Burnish
from tests.support.digits import digits, stored_model
from tests.support.disks import fill
from tests.support.trainings import training_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SENTENCE = (
    r"the disk of {} is full: only \S+ (bytes|kB) of \S+ (kB|MB) are free.*; make room there or choose another "
    r"folder with"
    r" --out, and the same command goes on"
)
LENET = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}


def sentence(error: BaseException | str, folder: Path) -> None:
    """Assert that it is one line that names the folder, the room and what to do."""
    told = str(error)
    assert re.search(SENTENCE.format(re.escape(str(folder))), told), told
    assert "\n" not in told


def test_decoding_says_what_is_missing_before_it_begins(disk):
    folder = disk("300k")
    with pytest.raises(DiskFull, match=r"and 1797 decoded images take 345 kB, so \S+ kB are missing;") as told:
        prepare(Work(Store(folder / "out" / "store"), folder), Data())
    sentence(told.value, folder / "out")


def test_a_file_system_without_preallocation_is_filled_with_zeros(disk, monkeypatch):
    def unsupported(handle: int, start: int, count: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    folder = disk("4m")
    with (folder / "a").open("wb") as file:
        space.reserve(file, folder, 3_000_000, "images")
        assert room.Place(folder, "").free < 1_300_000
        file.write(b"x")
    assert (folder / "a").read_bytes() == b"x" + bytes(2_999_999)
    with (folder / "b").open("wb") as file, pytest.raises(DiskFull, match=r"images take 2 MB, so \S+ kB are missing"):
        space.reserve(file, folder, 2_000_000, "images")
    assert (folder / "b").stat().st_size == 0


# of one write, or of several
@pytest.mark.parametrize("size", [300, 3_000, 30_000, 300_000, 3_000_000])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_it(disk, size):
    import torch

    folder = disk("1m")
    series = Series(folder / "scratch", "training", ".pt")
    series.write(1, lambda file: torch.save({"epoch": 1}, file))
    fill(folder, 0 if size < 5_000 else min(size // 2, 900_000) // 4096 * 4096)
    for _ in range(2):
        with pytest.raises(DiskFull) as told:
            series.write(
                2, lambda file: torch.save({"model": torch.zeros(size // 4), "more": torch.ones(size // 4)}, file)
            )
        sentence(told.value, folder / "scratch")
        (kept,) = series.files()
        assert kept.number == 1 and kept.intact()
        assert list(kept.path.parent.iterdir()) == [kept.path]


def test_a_training_on_a_full_disk_goes_on_when_there_is_room(disk, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    folder, settings = disk("3m"), Train(epochs=4, patience=4, batch_size=32, learning_rate=0.05)

    def trained(work: Work, on_epoch: Callable[[int, float], None] | None = None) -> Any:
        network, architecture = fresh(Model(name="lenet5"), data, 0)
        return fit(training_of(work, architecture, data, settings, "lenet5"), network, on_epoch)

    work = Work.at(tmp_path)
    data = digits(work)
    whole = trained(work)
    work = Work(work.store, folder / "scratch")
    with pytest.raises(DiskFull) as told:
        trained(work, lambda epoch, score: fill(folder, 8192) if epoch == 1 else None)
    sentence(told.value, folder / "scratch")
    (folder / "filling").unlink()
    assert trained(work).artifact == whole.artifact
    assert "resumed after epoch 1" in caplog.text


@pytest.mark.parametrize("left", [0, 4096, 16384, 65536, 90112])
def test_a_form_that_does_not_fit_ends_the_study_and_is_no_failed_variant(disk, left):
    folder = disk("4m")
    work = Work(Store(folder / "out" / "store"), folder)
    parent, data = stored_model(work, "lenet5", **LENET), digits(work)
    fill(folder, left)
    with pytest.raises(DiskFull) as told:
        export(work, data, parent, Export(formats=("torchscript", "onnx")))
    sentence(told.value, folder / "out")


def test_a_table_that_does_not_fit(disk):
    folder = disk("1m")
    work = Work(Store(folder / "out" / "store"), folder)
    work.rows("trials", [])
    fill(folder, 4096)
    with pytest.raises(DiskFull) as told:
        work.rows("predictions", ({"variant": f"{n * 7919 % 9973}"} for n in range(9000)))
    sentence(told.value, folder / "out")


def test_data_docs_that_do_not_fit_end_without_a_traceback_a_page(disk, tmp_path, capfd):
    folder, checks = disk("4m"), expectations.Checks()
    work = Work.at(tmp_path)
    checks.validate({"trials": work.store.get(work.rows("trials", []))})
    fill(folder, 100_000)
    with pytest.raises(DiskFull) as told, space.watched(folder):
        checks.build_docs(folder / "docs")
    sentence(told.value, folder)
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["filling"]


def test_the_tuning_journal_goes_on_after_a_full_disk(disk):
    folder = disk("1m")
    log = logging.getLogger("burnish.test")
    journal = Journal(folder / "trials.log", log)
    journal.append_logs([{"number": 0}])
    fill(folder, 0)
    with pytest.raises(DiskFull) as told, space.watched(folder):
        journal.append_logs([{"number": n, "words": "x" * 1000} for n in range(1, 9)])
    sentence(told.value, folder)
    (folder / "filling").unlink()
    journal.append_logs([{"number": 1}])
    assert Journal(folder / "trials.log", log).operations == [{"number": 0}, {"number": 1}]


def test_a_candidate_says_that_the_disk_is_full(disk, tmp_path):
    folder, rows = disk("1m"), 400
    model = tmp_path / "model"
    model.write_text('{"milliseconds": [0.1], "classes": 1000}')
    arrays = {
        "pool": np.zeros((8, 1, 8, 8), np.float32),
        "rows": np.arange(rows),
        "images": np.zeros((rows, 8, 8, 1), np.uint8),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    images = Images(
        images=str(tmp_path / "images.npy"), rows=str(tmp_path / "rows.npy"), mean=(0,), std=(1,), batch_size=8
    )
    spec = Spec(
        runtime="null",
        path=str(model),
        device="cpu",
        threads=1,
        batch_sizes=(8,),
        pool=str(tmp_path / "pool.npy"),
        images=images,
    )
    fill(folder, 0)
    # nor has its log any room
    process = Worker(spec, folder / "candidate.log")
    try:
        process.receive()
        with pytest.raises(DiskFull) as told:
            process.ask("evaluate", out=str(folder / "logits.npy"))
    finally:
        process.kill()
    sentence(told.value, folder)


def test_a_disk_without_room_for_another_name_says_so(tmp_path, disk):
    folder = disk("1m,nr_inodes=6")
    with pytest.raises(DiskFull, match="no more file can be made, although"), space.watched(folder):
        for number in range(9):
            (folder / str(number)).touch()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("parquet: underlying IO error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 15040 vs 14928"),
        RuntimeError("parquet: File out of specification: Invalid thrift: protocol error"),
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
        ValueError("not complete and could not be downloaded: [Errno 28] No space left on device"),
    ],
    ids=str,
)
def test_whatever_a_library_says_of_a_full_disk_is_one_sentence(disk, error):
    folder = disk("1m")
    fill(folder, 0)
    with pytest.raises(DiskFull) as told, space.watched(folder):
        raise error
    sentence(told.value, folder)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (345_128, "345 kB"),
        (999_999, "1 MB"),
        (1.84e9, "1.84 GB"),
        (5e15, "5e+03 TB"),
    ],
)
def test_sizes_read_well(count, words):
    assert room.size(int(count)) == words


def test_what_is_no_full_disk_stays_what_it_is(disk, tmp_path):
    folder = disk("1m")
    with pytest.raises(RuntimeError, match="unexpected pos"), space.watched(tmp_path, folder):
        raise RuntimeError("unexpected pos")
    fill(folder, 0)
    for mistake in (ValueError("train.epochs: 0"), KeyboardInterrupt()):
        with pytest.raises(type(mistake)), space.watched(folder):
            raise mistake


def test_no_room_for_prefects_database_is_said_before_a_server_is_started(disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", str(disk("4m") / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["run", "quickstart", "--out", str(tmp_path / "out")]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "/disk/prefect is full: only 4.19 MB of 4.19 MB are free and the database takes 8.39 MB" in told
    assert "with the variable PREFECT_HOME, and the same command goes on" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(disk, server):
    burnish = Burnish(disk("1200k") / "out", server)
    told = burnish.run(*SHORT, code=1).stderr.splitlines()
    sentence(told[-1], burnish.out)
    assert told[-1].startswith("burnish: the disk of ")
    others = [line for line in told[:-1] if not re.match(r"\d\d:\d\d:\d\d INFO ", line)]
    assert not others, "that one line is all that is said of it"
    disk("64m")
    burnish.run(*SHORT)
    assert burnish.why()["prepare"] == "hit"
    empty = [path for path in burnish.out.rglob("*") if path.is_file() and not path.stat().st_size]
    assert not empty

"""On a full disk, whatever was writing ends with one sentence that a person understands, and can continue."""

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


def assert_one_sentence(error: BaseException | str, folder: Path) -> None:
    """Assert that an error is one line that names the folder, the free space and what to do."""
    text = str(error)
    assert re.search(SENTENCE.format(re.escape(str(folder))), text), text
    assert "\n" not in text


def test_a_disk_too_small_for_the_decoded_images_is_refused_before_decoding(disk):
    folder = disk("300k")
    with pytest.raises(DiskFull, match=r"and 1797 decoded images take 345 kB, so \S+ kB are missing;") as error:
        prepare(Work(Store(folder / "out" / "store"), folder), Data())
    assert_one_sentence(error.value, folder / "out")


def test_space_is_reserved_with_zeros_where_the_file_system_cannot_preallocate(disk, monkeypatch):
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


# Small checkpoints take a single write, large ones several.
@pytest.mark.parametrize("size", [300, 3_000, 30_000, 300_000, 3_000_000])
def test_a_checkpoint_that_does_not_fit_leaves_the_previous_one_intact(disk, size):
    import torch

    folder = disk("1m")
    series = Series(folder / "scratch", "training", ".pt")
    series.write(1, lambda file: torch.save({"epoch": 1}, file))
    fill(folder, 0 if size < 5_000 else min(size // 2, 900_000) // 4096 * 4096)
    for _ in range(2):
        with pytest.raises(DiskFull) as error:
            series.write(
                2, lambda file: torch.save({"model": torch.zeros(size // 4), "more": torch.ones(size // 4)}, file)
            )
        assert_one_sentence(error.value, folder / "scratch")
        (previous,) = series.files()
        assert previous.number == 1 and previous.intact()
        assert list(previous.path.parent.iterdir()) == [previous.path]


def test_training_on_a_full_disk_resumes_when_there_is_room(disk, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    folder, settings = disk("3m"), Train(epochs=4, patience=4, batch_size=32, learning_rate=0.05)

    def train_network(work: Work, on_epoch: Callable[[int, float], None] | None = None) -> Any:
        network, architecture = fresh(Model(name="lenet5"), data, 0)
        return fit(training_of(work, architecture, data, settings, "lenet5"), network, on_epoch)

    work = Work.at(tmp_path)
    data = digits(work)
    uninterrupted = train_network(work)
    work = Work(work.store, folder / "scratch")
    with pytest.raises(DiskFull) as error:
        train_network(work, lambda epoch, score: fill(folder, 8192) if epoch == 1 else None)
    assert_one_sentence(error.value, folder / "scratch")
    (folder / "filling").unlink()
    assert train_network(work).artifact == uninterrupted.artifact
    assert "resumed after epoch 1" in caplog.text


@pytest.mark.parametrize("free_bytes", [0, 4096, 16384, 65536, 90112])
def test_a_form_that_does_not_fit_ends_the_stage_instead_of_failing_one_variant(disk, free_bytes):
    folder = disk("4m")
    work = Work(Store(folder / "out" / "store"), folder)
    parent, data = stored_model(work, "lenet5", **LENET), digits(work)
    fill(folder, free_bytes)
    with pytest.raises(DiskFull) as error:
        export(work, data, parent, Export(formats=("torchscript", "onnx")))
    assert_one_sentence(error.value, folder / "out")


def test_a_table_that_does_not_fit_is_reported_in_one_sentence(disk):
    folder = disk("1m")
    work = Work(Store(folder / "out" / "store"), folder)
    work.rows("trials", [])
    fill(folder, 4096)
    with pytest.raises(DiskFull) as error:
        work.rows("predictions", ({"variant": f"{n * 7919 % 9973}"} for n in range(9000)))
    assert_one_sentence(error.value, folder / "out")


def test_data_docs_that_do_not_fit_end_without_a_traceback_per_page(disk, tmp_path, capfd):
    folder, checks = disk("4m"), expectations.Checks()
    work = Work.at(tmp_path)
    checks.validate({"trials": work.store.get(work.rows("trials", []))})
    fill(folder, 100_000)
    with pytest.raises(DiskFull) as error, space.watched(folder):
        checks.build_docs(folder / "docs")
    assert_one_sentence(error.value, folder)
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["filling"]


def test_the_tuning_journal_continues_after_a_full_disk(disk):
    folder = disk("1m")
    log = logging.getLogger("burnish.test")
    journal = Journal(folder / "trials.log", log)
    journal.append_logs([{"number": 0}])
    fill(folder, 0)
    with pytest.raises(DiskFull) as error, space.watched(folder):
        journal.append_logs([{"number": n, "words": "x" * 1000} for n in range(1, 9)])
    assert_one_sentence(error.value, folder)
    (folder / "filling").unlink()
    journal.append_logs([{"number": 1}])
    assert Journal(folder / "trials.log", log).operations == [{"number": 0}, {"number": 1}]


def test_a_worker_process_reports_that_the_disk_is_full(disk, tmp_path):
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
    # The process's log has no room either.
    process = Worker(spec, folder / "candidate.log")
    try:
        process.receive()
        with pytest.raises(DiskFull) as error:
            process.ask("evaluate", out=str(folder / "logits.npy"))
    finally:
        process.kill()
    assert_one_sentence(error.value, folder)


def test_a_disk_without_free_inodes_is_reported_as_such(tmp_path, disk):
    folder = disk("1m,nr_inodes=6")
    with pytest.raises(DiskFull, match="no more file can be made, although"), space.watched(folder):
        for number in range(9):
            (folder / str(number)).touch()


@pytest.mark.parametrize(
    "library_error",
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
def test_an_error_of_any_library_on_a_full_disk_becomes_one_sentence(disk, library_error):
    folder = disk("1m")
    fill(folder, 0)
    with pytest.raises(DiskFull) as error, space.watched(folder):
        raise library_error
    assert_one_sentence(error.value, folder)


@pytest.mark.parametrize(
    ("count", "text"),
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
def test_sizes_are_written_with_up_to_three_digits_and_a_unit(count, text):
    assert room.size(int(count)) == text


def test_an_error_that_is_not_about_a_full_disk_stays_as_it_is(disk, tmp_path):
    folder = disk("1m")
    with pytest.raises(RuntimeError, match="unexpected pos"), space.watched(tmp_path, folder):
        raise RuntimeError("unexpected pos")
    fill(folder, 0)
    for mistake in (ValueError("train.epochs: 0"), KeyboardInterrupt()):
        with pytest.raises(type(mistake)), space.watched(folder):
            raise mistake


def test_missing_room_for_prefects_database_is_reported_before_a_server_is_started(disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", str(disk("4m") / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["run", "quickstart", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "/disk/prefect is full: only 4.19 MB of 4.19 MB are free and the database takes 8.39 MB" in line
    assert "with the variable PREFECT_HOME, and the same command goes on" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_on_a_full_disk_ends_in_one_line_and_continues_when_there_is_room(disk, server):
    burnish = Burnish(disk("1200k") / "out", server)
    lines = burnish.run(*SHORT, code=1).stderr.splitlines()
    assert_one_sentence(lines[-1], burnish.out)
    assert lines[-1].startswith("burnish: the disk of ")
    other_lines = [line for line in lines[:-1] if not re.match(r"\d\d:\d\d:\d\d INFO ", line)]
    assert not other_lines, "no other line but log messages is printed"
    disk("64m")
    burnish.run(*SHORT)
    assert burnish.why()["prepare"] == "hit"
    empty_files = [path for path in burnish.out.rglob("*") if path.is_file() and not path.stat().st_size]
    assert not empty_files

"""The sweep at the start of a run removes the files that dead runs have left, and no file of a live run."""

import errno
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

from tasks.caching.store import Store
from tasks.caching.sweep import KEEP_DAYS, sweep
from tasks.machine import locks
from tasks.machine.files import lock_of
from tasks.machine.locks import held, release, take
from tests.support.programs import command, environment

LOG = logging.getLogger("burnish")


def files_below(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def start_worker(out: Path) -> subprocess.Popen:
    """Start a process that works in every kind of folder, and return when all of its files are written."""
    process = subprocess.Popen(command("at_work", out), env=environment(), text=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_live_runs_files_stay_and_of_a_killed_runs_files_only_its_scratch_folder_stays(tmp_path):
    process = start_worker(tmp_path)
    written_files = files_below(tmp_path)
    assert len(written_files) == 7
    sweep(tmp_path, LOG)
    assert files_below(tmp_path) == written_files
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sweep(tmp_path, LOG)
    assert files_below(tmp_path) == {"scratch/0123456789abcdef/file", "scratch/0123456789abcdef.lock"}


def test_a_scratch_folder_is_removed_when_its_stage_has_a_result_or_after_a_week(tmp_path, caplog):
    scratch, results = tmp_path / "scratch", tmp_path / "store" / "results"
    for name in ("a" * 16, "b" * 16, "c" * 16):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "checkpoint").write_text("epoch 3")
    (scratch / f"{'d' * 16}.lock").touch()
    results.mkdir(parents=True)
    (results / ("a" * 64)).touch()
    old = time.time() - (KEEP_DAYS + 1) * 86_400
    for path in (scratch / ("b" * 16) / "checkpoint", scratch / ("b" * 16)):
        os.utime(path, (old, old))
    with caplog.at_level("INFO", "burnish"):
        sweep(tmp_path, LOG)
    assert files_below(scratch) == {f"{'c' * 16}/checkpoint"}
    assert [r.getMessage() for r in caplog.records] == [
        f"removed 2 files and folders that interrupted runs had left in {tmp_path}"
    ]
    with held(lock_of(scratch / ("c" * 16))):
        (results / ("c" * 64)).touch()
        sweep(tmp_path, LOG)
        assert (scratch / ("c" * 16) / "checkpoint").exists()


def test_a_folder_that_cannot_be_removed_is_reported_and_ends_nothing(tmp_path, caplog, monkeypatch):
    (tmp_path / "store" / "tmp" / "dead").mkdir(parents=True)

    def fail(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("tasks.caching.sweep.remove", fail)
    sweep(tmp_path, LOG)
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning == (
        f"{tmp_path / 'store' / 'tmp' / 'dead'} was left by an interrupted run and cannot be removed: "
        "Operation not permitted"
    )


def test_a_removed_lock_file_is_not_taken_for_the_new_lock_of_the_same_path(tmp_path):
    path = tmp_path / "lock"
    first = take(path)
    assert first is not None
    assert take(path) is None
    # Opened before the file is removed, as a process that waits for the lock opens it.
    removed_file = os.open(path, os.O_RDWR)
    release(first, path)
    second = take(path)
    assert second is not None
    assert os.fstat(removed_file).st_ino != os.fstat(second).st_ino
    assert take(path) is None
    os.close(removed_file)
    release(second, path)
    assert not path.exists()


def test_of_many_processes_one_at_a_time_holds_a_lock(tmp_path):
    assert locks.POLL_SECONDS <= 0.2
    processes = [subprocess.Popen(command("lock_often"), cwd=tmp_path, env=environment()) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_storing_equal_content_again_leaves_the_files_that_a_reader_may_have_open(tmp_path):
    store = Store(tmp_path / "store")
    artifacts = []
    for _ in range(2):
        with store.temporary() as folder:
            (folder / "site").mkdir()
            (folder / "site" / "a").write_text("same")
            artifacts.append(store.put(folder / "site", "folder"))
            assert not (folder / "site").exists()
        if len(artifacts) == 1:
            inode = (store.get(artifacts[0]) / "a").stat().st_ino
    assert artifacts[0] == artifacts[1]
    assert (store.get(artifacts[1]) / "a").stat().st_ino == inode


def test_on_a_file_system_without_locks_the_store_works_warns_and_the_sweep_removes_nothing(
    tmp_path, caplog, monkeypatch
):
    def flock(handle, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    store = Store(tmp_path / "store")
    for _ in range(2):
        with store.temporary() as folder:
            (folder / "file").write_text("at work")
            sweep(tmp_path, LOG)
            assert (folder / "file").exists()
            store.put(folder / "file", "text")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning.startswith(f"the file system of {tmp_path / 'store' / 'tmp'} has no locks: ")

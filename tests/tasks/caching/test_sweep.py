"""What dead runs left is removed at the next start, and nothing of a live one."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tasks.caching.store import Store
from tasks.caching.sweep import KEEP_DAYS, sweep
from tasks.machine.files import lock_of
from tasks.machine.locks import held, release, take
from tests.support.paths import ROOT

LOG = logging.getLogger("burnish")

WORKER = """
import sys, time
from pathlib import Path
from tasks.machine.locks import held
from tasks.caching.store import Store
from tasks.machine.files import beside, lock_of, make_folder
out = Path(sys.argv[1])
scratch = make_folder(out / "scratch" / "0123456789abcdef")
target = out / "tables" / "trials" / "run.parquet"
with Store(out / "store").temporary() as one, beside(target) as two, held(lock_of(scratch)):
    for folder in (one, two, scratch):
        (folder / "file").write_text("at work")
    (out / "store" / "results").mkdir()
    with held(out / "store" / "results" / ".tmp-1") as handle:
        print("ready", flush=True)
        time.sleep(60)
"""


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def worker(out: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_live_process_works_on_stays_and_what_a_killed_one_left_goes_but_for_what_it_would_go_on_from(tmp_path):
    process = worker(tmp_path)
    before = files(tmp_path)
    assert len(before) == 7
    sweep(tmp_path, LOG)
    assert files(tmp_path) == before
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sweep(tmp_path, LOG)
    assert files(tmp_path) == {"scratch/0123456789abcdef/file", "scratch/0123456789abcdef.lock"}


def test_a_scratch_folder_goes_when_its_stage_is_finished_or_after_a_week(tmp_path, caplog):
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
    assert files(scratch) == {f"{'c' * 16}/checkpoint"}
    assert [r.getMessage() for r in caplog.records] == [
        f"removed 2 files and folders that interrupted runs had left in {tmp_path}"
    ]
    with held(lock_of(scratch / ("c" * 16))):
        (results / ("c" * 64)).touch()
        sweep(tmp_path, LOG)
        assert (scratch / ("c" * 16) / "checkpoint").exists()


def test_what_cannot_be_removed_is_said_and_ends_nothing(tmp_path, caplog, monkeypatch):
    (tmp_path / "store" / "tmp" / "dead").mkdir(parents=True)

    def broken(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("tasks.caching.sweep.remove", broken)
    sweep(tmp_path, LOG)
    (warned,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warned == (
        f"{tmp_path / 'store' / 'tmp' / 'dead'} was left by an interrupted run and cannot be removed: "
        "Operation not permitted"
    )


def test_a_lock_whose_file_its_holder_has_removed_is_not_taken_for_the_new_one(tmp_path):
    path = tmp_path / "lock"
    first = take(path)
    assert first is not None
    assert take(path) is None
    # opened before it is removed, as by one that waits
    late = os.open(path, os.O_RDWR)
    release(first, path)
    second = take(path)
    assert second is not None
    assert os.fstat(late).st_ino != os.fstat(second).st_ino
    assert take(path) is None
    os.close(late)
    release(second, path)
    assert not path.exists()


def test_a_lock_is_held_by_one_of_many_at_a_time(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tasks.machine.locks import held
for _ in range(100):
    with held(Path("lock")):
        handle = os.open("inside", os.O_CREAT | os.O_EXCL)
        os.close(handle)
        os.unlink("inside")
"""
    from tasks.machine import locks

    assert locks.POLL_SECONDS <= 0.2
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                code.replace(
                    "from tasks.machine.locks import held",
                    "from tasks.machine import locks; held = locks.held; locks.POLL_SECONDS = 0.0005",
                ),
            ],
            cwd=tmp_path,
        )
        for _ in range(4)
    ]
    assert [run.wait(120) for run in runs] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_not_taken_from_under_a_reader(tmp_path):
    store = Store(tmp_path / "store")
    kept = []
    for _ in range(2):
        with store.temporary() as folder:
            (folder / "site").mkdir()
            (folder / "site" / "a").write_text("same")
            kept.append(store.put(folder / "site", "folder"))
            assert not (folder / "site").exists()
        if len(kept) == 1:
            inode = (store.get(kept[0]) / "a").stat().st_ino
    assert kept[0] == kept[1]
    assert (store.get(kept[1]) / "a").stat().st_ino == inode


def test_without_locks_work_is_done_and_said_and_nothing_is_removed(tmp_path, caplog, monkeypatch):
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
    (warned,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warned.startswith(f"the file system of {tmp_path / 'store' / 'tmp'} has no locks: ")

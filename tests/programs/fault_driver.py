"""Makes operations of the small study fail one after another, or the power, and prints what each fault led to.

tests/flows/test_faults.py starts it with tests/support/shim.cpp loaded. The arguments are FOLDER MODE:FIRST:STEP ... It
prints a line of JSON per fault, for every STEPth operation from FIRST on. The mode "power" starts child processes, so a
test gives it a driver of its own.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import logging
import os
import shutil
import stat
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.caching import results
from tasks.caching.keys import sources
from tasks.machine.space import DiskFull
from tests.support.faults import ENDED, Fault, Shim
from tests.support.small_study import Run

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = {
    "once-EIO": Fault(error=errno.EIO),
    "once-ENOSPC": Fault(error=errno.ENOSPC),
    "lasting-EIO": Fault(error=errno.EIO, lasting=True),
    "lasting-ENOSPC": Fault(error=errno.ENOSPC, lasting=True),
    "power": Fault(),
}
FIRST = "small-20260101-000001"
"""Name of the first run in a folder."""


class Synced:
    """Copies of what survives a loss of power: the content of files and the names in folders as they were last synced.

    The copies lie in the folder `copies`, each under the inode of its file or folder.
    """

    def __init__(self, root: Path, copies: Path) -> None:
        self.root = root
        self.copies = copies
        for folder in ("files", "folders", "inodes"):
            (copies / folder).mkdir(parents=True)
        self._copy_names(root, root.stat().st_ino)

    def _copy_names(self, folder: str | Path, inode: int) -> None:
        with os.scandir(folder) as entries:
            names = {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
        (self.copies / "folders" / str(inode)).write_text(json.dumps(names))

    def watch(self) -> None:
        """Copy from now on what this process syncs."""
        fsync = os.fsync
        mkdir = os.mkdir

        def fsync_and_copy(file: Any) -> None:
            handle = file if isinstance(file, int) else file.fileno()
            fsync(handle)
            path = str(Path(f"/proc/self/fd/{handle}").readlink())
            if Path(path).is_relative_to(self.root):
                self._copy(path, os.fstat(handle))

        def mkdir_and_forget(path: Any, *more: Any, **options: Any) -> None:
            mkdir(path, *more, **options)
            # The new folder may have the inode of a folder that was removed.
            if Path(path).absolute().is_relative_to(self.root):
                (self.copies / "folders" / str(Path(path).stat().st_ino)).unlink(missing_ok=True)

        os.fsync = fsync_and_copy
        os.mkdir = mkdir_and_forget

    def _copy(self, path: str, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            self._copy_names(path, status.st_ino)
            return
        link = self.copies / "inodes" / str(status.st_ino)
        if not link.exists():
            # While the link exists, no other file gets this inode.
            os.link(path, link)
        shutil.copyfile(path, self.copies / "files" / str(status.st_ino))

    def rebuild(self, target: Path, keep_names: bool) -> None:
        """Make in `target` the folder as it is after the loss of power.

        With `keep_names`, all names in folders survive, although content that was not synced is lost.
        """
        self._rebuild_folder(self.root, self.root.stat().st_ino, target, keep_names)

    def _rebuild_folder(self, source: Path, inode: int, target: Path, keep_names: bool) -> None:
        target.mkdir()
        if keep_names:
            entries = {p.name: (p.lstat().st_ino, p.is_dir()) for p in source.iterdir()}
        else:
            synced = self.copies / "folders" / str(inode)
            entries = json.loads(synced.read_text()) if synced.exists() else {}
        for name, (entry_inode, is_folder) in entries.items():
            if is_folder:
                self._rebuild_folder(source / name, entry_inode, target / name, keep_names)
            else:
                content = self.copies / "files" / str(entry_inode)
                (target / name).write_bytes(content.read_bytes() if content.exists() else b"")


def state(out: Path, run: str) -> dict[str, Any]:
    """Return everything that a run publishes: its files as hexadecimal digits, and the rows of its tables."""
    folder = out / "runs" / run
    published = {
        p.relative_to(folder).as_posix(): p.read_bytes().hex()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.relative_to(folder).parts[0] not in ("why", "logs")
    }
    tables = {p.parent.name: pl.read_parquet(p).rows() for p in sorted((out / "tables").glob(f"*/{run}.parquet"))}
    return json.loads(json.dumps({"files": published, "tables": tables}))


def leftovers(out: Path) -> list[str]:
    """Return the files that no run may leave behind: temporary files and locks."""
    paths = (*out.glob("store/tmp/*"), *out.glob("scratch/*"), *out.rglob(".tmp-*"), *out.rglob("*.lock"))
    return sorted({str(path.relative_to(out)) for path in paths})


def call_here(function: Callable[[], Any], answer_file: Path) -> dict[str, Any]:
    """Do as `call_in_child` in this process. This serves for faults that do not end the process."""
    try:
        return {"code": 0, **json.loads(json.dumps(function()))}
    except BaseException:
        return {"code": 1, "error": traceback.format_exc()}


def call_in_child(function: Callable[[], Any], answer_file: Path) -> dict[str, Any]:
    """Call a function in a forked process, in which everything is imported, and return its result and exit code."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer_file.write_text(json.dumps(function()))
            code = 0
        except BaseException:
            answer_file.write_text(json.dumps({"error": traceback.format_exc()}))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, **(json.loads(answer_file.read_text()) if code in (0, 1) else {})}


class Trial:
    """One fault in a study of its own, and the same command twice afterwards."""

    def __init__(self, base: Path, shim: Shim, power: bool) -> None:
        self.base = base
        self.shim = shim
        self.power = power
        # What an undisturbed study publishes.
        self.reference: dict[str, Any] | None = None
        self._call = call_in_child if power else call_here
        self.out = base / "out"
        # The names of the stages that were computed and stored before the fault.
        self.finished_stages = base / "finished"
        self.answer_file = base / "answer"

    def call(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function, in a child process if the power is to fail, and return its result and exit code."""
        return self._call(function, self.answer_file)

    def _note_stage(self, name: str) -> None:
        with self.finished_stages.open("a") as file:
            file.write(f"{name}\n")

    def run_with_fault(self, fault: Fault, synced: Synced | None) -> dict[str, Any]:
        """Run the study in which something fails. Return the error's message, or what the study published."""
        if synced:
            synced.watch()
        run = Run(self.out, self._note_stage)
        self.shim.arm(self.out, fault)
        try:
            run()
        except DiskFull as error:
            return {"said": str(error)}
        finally:
            count, fired, first_failure = self.shim.counts()
            self.shim.arm(None, Fault())
            (self.base / "count").write_text(json.dumps([count, fired, first_failure]))
        return {"state": state(self.out, run.context.run)}

    def run_twice_more(self, out: Path) -> dict[str, Any]:
        """Run the same command twice: the first run goes on, the second must find every result stored."""
        finished = self.finished_stages.read_text().split() if self.finished_stages.exists() else []
        second_run = Run(out, lambda name: None)
        second_run()
        repeated = sorted(set(second_run.computed) & set(finished))
        published = state(out, second_run.context.run)
        third_run = Run(out, lambda name: None)
        third_run()
        return {
            "repeated": repeated,
            "computed": third_run.computed,
            "state": published,
            "leftovers": leftovers(out),
        }

    def problems_afterwards(self, *outs: Path) -> list[str]:
        """Run the same command twice more in each of these folders, and return what is wrong afterwards."""
        answer = self.call(lambda: {str(out): self.run_twice_more(out) for out in outs})
        if answer["code"]:
            return [f"the same command fails: {answer.get('error', answer['code'])}"]
        problems = []
        for name, after in ((out.name, answer[str(out)]) for out in outs):
            if after["repeated"]:
                problems.append(f"{name}: computed again although they were finished: {after['repeated']}")
            if after["computed"]:
                problems.append(f"{name}: computed by the third run: {after['computed']}")
            if after["leftovers"]:
                problems.append(f"{name}: left behind: {after['leftovers']}")
            if after["state"] != self.reference:
                problems.append(f"{name}: published something else than an undisturbed study: {after['state']}")
        return problems

    def run(self, fault: Fault) -> dict[str, Any]:
        """Let a fault happen in a new study, and return what is wrong afterwards."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.out.mkdir(parents=True)
        synced = Synced(self.out, self.base / "synced") if self.power else None
        answer = self.call(lambda: self.run_with_fault(fault, synced))
        _, fired, first_failure = self.shim.counts() if self.power else json.loads((self.base / "count").read_text())
        self.shim.arm(None, Fault())
        outs = [self.out]
        problems: list[str] = []
        if synced:
            outs += [self.base / "names-lost", self.base / "names-kept"]
            synced.rebuild(outs[1], keep_names=False)
            synced.rebuild(outs[2], keep_names=True)
            if answer["code"] == 0:
                # The power failed after the study's end, so everything that it published must survive.
                survived = self.call(lambda: state(outs[1], FIRST))
                if survived != {"code": 0, **(self.reference or {})}:
                    problems.append(f"something is lost after the study's end, this survived: {survived}")
            elif answer["code"] != ENDED:
                problems.append(f"the study did not end at operation {fault.nth}: {answer}")
        elif answer["code"]:
            problems.append(f"the study failed without a message for the user: {answer['error']}")
        elif "state" in answer and answer["state"] != self.reference:
            problems.append(f"the study ended well but published something else: {answer['state']}")
        problems += self.problems_afterwards(*outs)
        return {"fired": bool(fired), "what": first_failure, "said": answer.get("said", ""), "wrong": problems}


def _warm_up() -> None:
    """Import and read whatever a study needs, once for all children. No thread may be started here."""
    import optuna
    import torch

    import tasks.training.journal

    assert optuna and tasks.training.journal
    torch.save({"weights": [1.0]}, io.BytesIO())
    sources("tests.support.small_study")
    # Nobody edits the code meanwhile, and reading it all again after every stage takes a quarter of a study's time.
    results.edited = lambda modules: []  # type: ignore[assignment]
    gc.collect()
    # Without this, the garbage collector writes to the memory that children share, so that it is copied.
    gc.freeze()
    gc.disable()


def main() -> None:
    base = Path(sys.argv[1])
    logging.getLogger("burnish").setLevel(logging.INFO)
    logging.getLogger("burnish").propagate = False
    shim = Shim(Path(os.environ["SHIM_STATE"]))
    shim.arm(None, Fault())
    _warm_up()
    for spec in sys.argv[2:]:
        mode, first, step = spec.split(":")
        fault = MODES[mode]
        trial = Trial(base, shim, mode == "power")
        shutil.rmtree(base, ignore_errors=True)
        trial.out.mkdir(parents=True)
        undisturbed = trial.call(lambda trial=trial: trial.run_with_fault(Fault(), None))  # type: ignore[misc]
        assert undisturbed["code"] == 0, undisturbed["error"]
        total = json.loads((base / "count").read_text())[0]
        trial.reference = undisturbed["state"]
        for nth in range(int(first), total + 1 + trial.power, int(step)):
            outcome = trial.run(Fault(nth, fault.error, fault.lasting))
            print(json.dumps({"mode": mode, "nth": nth, "total": total, **outcome}), flush=True)


if __name__ == "__main__":
    main()

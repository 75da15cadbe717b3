"""Lets every operation of the small study fail in turn, or the power, and says what came of it.

tests/flows/test_faults.py starts it with tests/support/shim.cpp loaded. The arguments are FOLDER MODE:FIRST:STEP ... It
prints a JSON line per fault, for every STEPth operation from FIRST on. "power" starts children, so it has a process of
its own.
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
    """What a loss of power leaves of a folder: content of files, and names in folders, as they were last synced."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root, self.kept = root, kept
        for folder in ("files", "folders", "inodes"):
            (kept / folder).mkdir(parents=True)
        self._names(root, root.stat().st_ino)

    def _names(self, folder: str | Path, inode: int) -> None:
        with os.scandir(folder) as entries:
            names = {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
        (self.kept / "folders" / str(inode)).write_text(json.dumps(names))

    def watch(self) -> None:
        """From now on, note what is synced in this process."""
        fsync, mkdir = os.fsync, os.mkdir

        def noted(file: Any) -> None:
            handle = file if isinstance(file, int) else file.fileno()
            fsync(handle)
            path = str(Path(f"/proc/self/fd/{handle}").readlink())
            if Path(path).is_relative_to(self.root):
                self._note(path, os.fstat(handle))

        def made(path: Any, *more: Any, **options: Any) -> None:
            mkdir(path, *more, **options)
            # its inode may be that of one which was removed
            if Path(path).absolute().is_relative_to(self.root):
                (self.kept / "folders" / str(Path(path).stat().st_ino)).unlink(missing_ok=True)

        os.fsync, os.mkdir = noted, made

    def _note(self, path: str, found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            self._names(path, found.st_ino)
            return
        held = self.kept / "inodes" / str(found.st_ino)
        if not held.exists():
            # so that no other file gets the number
            os.link(path, held)
        shutil.copyfile(path, self.kept / "files" / str(found.st_ino))

    def rebuild(self, target: Path, names_last: bool) -> None:
        """Make in `target` what is left. `names_last`: all names are, although the content of what was not synced is
        lost."""
        self._folder(self.root, self.root.stat().st_ino, target, names_last)

    def _folder(self, source: Path, inode: int, target: Path, names_last: bool) -> None:
        target.mkdir()
        if names_last:
            found = {p.name: (p.lstat().st_ino, p.is_dir()) for p in source.iterdir()}
        else:
            synced = self.kept / "folders" / str(inode)
            found = json.loads(synced.read_text()) if synced.exists() else {}
        for name, (inner, is_folder) in found.items():
            if is_folder:
                self._folder(source / name, inner, target / name, names_last)
            else:
                content = self.kept / "files" / str(inner)
                (target / name).write_bytes(content.read_bytes() if content.exists() else b"")


def state(out: Path, run: str) -> dict[str, Any]:
    """Everything that a run publishes."""
    folder = out / "runs" / run
    published = {
        p.relative_to(folder).as_posix(): p.read_bytes().hex()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.relative_to(folder).parts[0] not in ("why", "logs")
    }
    tables = {p.parent.name: pl.read_parquet(p).rows() for p in sorted((out / "tables").glob(f"*/{run}.parquet"))}
    return json.loads(json.dumps({"files": published, "tables": tables}))


def leftovers(out: Path) -> list[str]:
    """What should not be there after a run."""
    wrong = (*out.glob("store/tmp/*"), *out.glob("scratch/*"), *out.rglob(".tmp-*"), *out.rglob("*.lock"))
    return sorted({str(path.relative_to(out)) for path in wrong})


def called(do: Callable[[], Any], told: Path) -> dict[str, Any]:
    """As `forked`, in this process: for faults that do not end it."""
    try:
        return {"code": 0, **json.loads(json.dumps(do()))}
    except BaseException:
        return {"code": 1, "error": traceback.format_exc()}


def forked(do: Callable[[], Any], told: Path) -> dict[str, Any]:
    """What a child says, with its exit code: a process of its own, which has imported everything already."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            told.write_text(json.dumps(do()))
            code = 0
        except BaseException:
            told.write_text(json.dumps({"error": traceback.format_exc()}))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, **(json.loads(told.read_text()) if code in (0, 1) else {})}


class Trial:
    """One fault in a study of its own."""

    def __init__(self, base: Path, shim: Shim, power: bool) -> None:
        self.base, self.shim, self.power = base, shim, power
        self.reference: dict[str, Any] | None = None
        self.start = forked if power else called
        self.out = base / "out"
        self.ended = base / "ended"

    def _note(self, name: str) -> None:
        with self.ended.open("a") as file:
            file.write(f"{name}\n")

    def first(self, fault: Fault, synced: Synced | None) -> dict[str, Any]:
        """The run in which something fails."""
        if synced:
            synced.watch()
        run = Run(self.out, self._note)
        self.shim.arm(self.out, fault)
        try:
            run()
        except DiskFull as error:
            return {"said": str(error)}
        finally:
            count, fired, what = self.shim.counts()
            self.shim.arm(None, Fault())
            (self.base / "count").write_text(json.dumps([count, fired, what]))
        return {"state": state(self.out, run.context.run)}

    def again(self, out: Path) -> dict[str, Any]:
        """The same command, twice: the first goes on, the second finds everything."""
        ended = self.ended.read_text().split() if self.ended.exists() else []
        run = Run(out, lambda name: None)
        run()
        twice = sorted(set(run.computed) & set(ended))
        found = state(out, run.context.run)
        last = Run(out, lambda name: None)
        last()
        return {"twice": twice, "computed": last.computed, "state": found, "left": leftovers(out)}

    def wrong(self, *outs: Path) -> list[str]:
        """What is not as it should be after the same command, in each of these folders."""
        told = self.start(lambda: {str(out): self.again(out) for out in outs}, self.base / "told")
        if told["code"]:
            return [f"the same command fails: {told.get('error', told['code'])}"]
        found = []
        for name, one in ((out.name, told[str(out)]) for out in outs):
            found += [f"{name}: computed again although it was finished: {one['twice']}"] if one["twice"] else []
            found += [f"{name}: computed a third time: {one['computed']}"] if one["computed"] else []
            found += [f"{name}: left: {one['left']}"] if one["left"] else []
            found += [f"{name}: another result: {one['state']}"] if one["state"] != self.reference else []
        return found

    def run(self, fault: Fault) -> dict[str, Any]:
        """Let it fail, then look."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.out.mkdir(parents=True)
        synced = Synced(self.out, self.base / "synced") if self.power else None
        told = self.start(lambda: self.first(fault, synced), self.base / "told")
        _, fired, what = self.shim.counts() if self.power else json.loads((self.base / "count").read_text())
        self.shim.arm(None, Fault())
        outs = [self.out]
        wrong: list[str] = []
        if synced:
            outs += [self.base / "names-lost", self.base / "names-kept"]
            synced.rebuild(outs[1], names_last=False)
            synced.rebuild(outs[2], names_last=True)
            # the power fails after the end: everything that was published is there
            if told["code"] == 0:
                found = self.start(lambda: state(outs[1], FIRST), self.base / "told")
                wrong += [] if found == {"code": 0, **(self.reference or {})} else [f"lost after its end: {found}"]
            elif told["code"] != ENDED:
                wrong.append(f"it did not end at operation {fault.nth}: {told}")
        elif told["code"]:
            wrong.append(f"not one sentence: {told['error']}")
        elif "state" in told and told["state"] != self.reference:
            wrong.append(f"ended well with another result: {told['state']}")
        wrong += self.wrong(*outs)
        return {"fired": bool(fired), "what": what, "said": told.get("said", ""), "wrong": wrong}


def _warm_up() -> None:
    """Import and read whatever a study needs, once: children have it. No thread may be started here."""
    import optuna
    import torch

    import tasks.training.journal

    assert optuna and tasks.training.journal
    torch.save({"weights": [1.0]}, io.BytesIO())
    sources("tests.support.small_study")
    gc.collect()
    # or collecting garbage copies the memory that children share
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
        whole = trial.start(lambda trial=trial: trial.first(Fault(), None), base / "told")  # type: ignore[misc]
        assert whole["code"] == 0, whole["error"]
        total = json.loads((base / "count").read_text())[0]
        trial.reference = whole["state"]
        for nth in range(int(first), total + 1 + trial.power, int(step)):
            told = trial.run(Fault(nth, fault.error, fault.lasting))
            print(json.dumps({"mode": mode, "nth": nth, "total": total, **told}), flush=True)


if __name__ == "__main__":
    main()

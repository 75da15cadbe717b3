"""burnish's own entry in the comparison: what `burnish optimize` answers for the given file and images."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from compare.entries import Entry, given_file
from compare.kept import BURNISH, ROOT, code, folder_of
from flows.runs.choice import chosen_run, stored_variant
from tasks import tables
from tasks.tables.variants import options_in

if TYPE_CHECKING:
    from pathlib import Path

    from compare.models import Given
    from tasks.caching.work import Work

MAX_DROP = 0.005
"""How much less accurate than the given file burnish's answer may be: half a point, as by default."""


def burnish(work: Work, given: Given, options: tuple[str, ...], place: Path) -> Entry:
    """Run `burnish optimize` on the images as the peers get them, and return its winner.

    A folder below `place` gets its artifacts and its output. Where the same command of the same code has ended before,
    its answer is taken from there, because another call would go on searching for as long again.

    Parameters
    ----------
    options
        Further options of the command.
    """
    stored = given_file(work, given)
    arguments = (*_images(given), f"--max-drop={100 * MAX_DROP:g}", *options)
    folder = folder_of(place, code(*BURNISH), str(stored), *arguments)
    ended = folder / "seconds.json"
    if not ended.exists():
        # burnish calls a given model by its file's name, which in the store is a hash.
        file = shutil.copyfile(stored, folder / f"{given.variant.model}.onnx")
        started = time.perf_counter()
        command = [sys.executable, "-m", "flows", "optimize", str(file), *arguments, "--out", str(folder)]
        with (folder / "log.txt").open("wb") as output:
            status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False).returncode
        if status:
            return _failed(f"exit code {status}; see {_log(folder)}")
        ended.write_text(json.dumps(time.perf_counter() - started), encoding="utf-8")
    return answer(folder, options, json.loads(ended.read_text(encoding="utf-8")))


def answer(folder: Path, options: tuple[str, ...], seconds: float) -> Entry:
    """Return the winner of the newest run in a folder of artifacts.

    Where every candidate was measured under bad conditions there is no winner, and the provisional best is returned.
    """
    run = chosen_run(folder, None, "result.json")
    rows = tables.read(folder, "summary", run).collect().to_dicts()
    by_role = {row["role"]: row for row in rows}
    row = by_role.get("winner") or by_role.get("provisional")
    if row is None:
        return _failed(f"no form is accurate enough, or all are slower than the given file; see {_log(folder)}")
    variant = stored_variant(folder, run, row["variant"])
    form = row["variant"].removeprefix(f"{row['model']}/").replace("/", "-")
    return Entry(
        name=f"burnish/{form}",
        settings=f"the {row['role']} of `{shlex.join(('burnish', 'optimize', *options))}`",
        runtimes=(row["runtime"],),
        path=variant.path,
        threads=variant.row["threads"],
        options=options_in(variant.row),
        seconds=seconds,
    )


def _log(folder: Path) -> str:
    """Return where the command's output is, below the folder of the comparison."""
    return f"{folder.parent.name}/{folder.name}/log.txt"


def _failed(error: str) -> Entry:
    return Entry(name="burnish", settings="`burnish optimize`", error=error)


def _images(given: Given) -> list[str]:
    """Return the options that make burnish split the images, and calibrate with them, as the comparison does."""
    settings = given.images.model_dump(mode="json", exclude_none=True, exclude={"kind", "path"})
    return [
        f"--data={given.images.path}",
        *(f"--set=data.{name}={json.dumps(value)}" for name, value in settings.items()),
        f"--set=quantize.calibration_images={given.calibration_images}",
    ]

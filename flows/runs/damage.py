"""Find damaged files of a run before anything reads them, and tell the user which command makes them anew.

A run that has ended leaves `SHA256SUMS` in its folder, which `sha256sum -c` reads too. Older versions left no such
file; the files of their runs are read as a whole instead, which finds truncated files, but not every changed byte.
"""

from __future__ import annotations

import json
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.caching.store import Corrupt
from tasks.machine.files import file_sha256, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUMS = "SHA256SUMS"
FILES = ("study.toml", "environment.json", "result.json")
"""Files in the folder of every run that has ended, beside its tables."""
SPREADSHEETS = ("benchmark_results.csv", "benchmark_results_marked.csv")
"""Files of a run that its report names and no command reads. The second exists only where rows were marked."""


class Damaged(Exception):
    """A file of a run is not what the run wrote. The message is one line, with the command that makes the file anew."""


def record(out: Path, run: str) -> None:
    """Write the SHA-256 of the run's tables, of `FILES`, and of those of `SPREADSHEETS` that exist."""
    folder = out / "runs" / run
    paths = {name: folder / name for name in FILES}
    paths |= {name: folder / name for name in SPREADSHEETS if (folder / name).exists()}
    paths |= {_name(path): path for path in (out / "tables").glob(f"*/{run}.parquet")}
    lines = [f"{file_sha256(path)}  {name}\n" for name, path in sorted(paths.items())]
    write_text(folder / SUMS, "".join(lines))


def check(out: Path, run: str, tables: Iterable[str] | None = None) -> None:
    """Check that the files of a run are what it wrote.

    Parameters
    ----------
    out, run
        The folder of artifacts, and the run's name.
    tables
        Names of the tables to check beside `FILES`; None checks all files and tables of the run. A file that does not
        exist, and that the run did not list, is not checked.

    Raises
    ------
    Damaged
        If a file is gone, or is not what the run wrote.
    """
    folder = out / "runs" / run
    sums = _sums(out, run)
    if tables is None:
        names = {*FILES, *SPREADSHEETS, *sums, *(_name(path) for path in (out / "tables").glob(f"*/{run}.parquet"))}
    else:
        names = {*FILES, *(_name(out / "tables" / table / f"{run}.parquet") for table in tables)}
    for name in sorted(names):
        path = folder / name if name in (*FILES, *SPREADSHEETS) else out / name.removeprefix("../../")
        if name in sums and not path.exists():
            raise _damaged(out, run, path, "is gone")
        if name in sums and file_sha256(path) != sums[name]:
            raise _damaged(out, run, path, "is damaged (its SHA-256 is not what the run wrote down)")
        if path.exists() and name not in sums:
            reason = _unreadable(path)
            if reason:
                raise _damaged(out, run, path, f"is damaged ({reason})")


def explanations(out: Path, run: str) -> list[dict[str, Any]]:
    """Return what each stage of a run wrote about its cache: hit or computed, and what differed. The oldest is first.

    Raises
    ------
    Damaged
        If a file is not what a stage writes.
    """
    explained = []
    for path in (out / "runs" / run / "why").glob("*.json"):
        try:
            stage = json.loads(path.read_text())
        except (ValueError, RecursionError):
            stage = None
        is_whole = isinstance(stage, dict) and isinstance(stage.get("differs"), list)
        if not is_whole or not isinstance(stage.get("at"), float):
            raise _damaged(out, run, path, "is damaged (not what a stage writes)")
        explained.append(stage)
    return sorted(explained, key=lambda stage: stage["at"])


def check_profiles(out: Path, run: str) -> None:
    """Check that the run's profiles can be read, and raise `Damaged` if one cannot."""
    import polars as pl

    from tasks.profiling.profile import read

    for file in (out / "runs" / run / "profiles").glob("*/profile.json"):
        try:
            read(file.parent)
        except (pl.exceptions.PolarsError, ValueError, LookupError, TypeError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Damaged(
                f"a file in {file.parent} is damaged ({reason}); burnish profile makes the folder anew, and without "
                "the folder the report is written too"
            ) from None


@contextmanager
def anew(out: Path, run: str) -> Iterator[None]:
    """Where a stored file turns out to be gone or changed, raise `Damaged` with the command that makes it anew."""
    try:
        yield
    except Corrupt as error:
        raise Damaged(f"{error}; {_remedy(out, run)}") from None


def _name(table: Path) -> str:
    """Return the path of a table relative to the run's folder, as SHA256SUMS lists it."""
    return f"../../tables/{table.parent.name}/{table.name}"


def _damaged(out: Path, run: str, path: Path, problem: str) -> Damaged:
    return Damaged(f"{path} {problem}; {_remedy(out, run, study_lost=path.name == 'study.toml')}")


def _remedy(out: Path, run: str, *, study_lost: bool = False) -> str:
    """Return the command that makes the files of a run anew, in a sentence."""
    study = f"{out / 'runs' / run / 'study.toml'} --out {out}"
    if study_lost:
        study = "PRESET|FILE.toml, as it was started"
    return f"a new run makes it anew, and computes only what is not stored: burnish run {study}"


def _sums(out: Path, run: str) -> dict[str, str]:
    """Return the SHA-256 of each file that the run listed, by name; empty for a run of an older version."""
    path = out / "runs" / run / SUMS
    if not path.exists():
        return {}
    sums = {}
    for line in path.read_text(errors="replace").splitlines():
        sha256, space, name = line.partition("  ")
        if not space or len(sha256) != 64:
            raise _damaged(out, run, path, "is damaged (no list of SHA-256 sums)")
        sums[name] = sha256
    if not set(FILES) <= sums.keys():
        raise _damaged(out, run, path, "is damaged (it ends too early)")
    return sums


def _unreadable(path: Path) -> str | None:
    """Return why a file of a run cannot be read as a whole; None where it can."""
    import polars as pl

    from tasks.tables.csv_view import CSV_COLUMNS

    try:
        if path.suffix == ".parquet":
            pl.read_parquet(path, glob=False)
        elif path.suffix == ".csv":
            if pl.read_csv(path, infer_schema=False).columns[: len(CSV_COLUMNS)] != list(CSV_COLUMNS):
                return "not the columns that it is written with"
        elif path.suffix == ".json":
            if not isinstance(json.loads(path.read_text()), dict):
                return "no JSON object"
        elif "name" not in tomllib.loads(path.read_text()):
            return "it has no name"
    except (pl.exceptions.PolarsError, ValueError, OSError, RecursionError) as error:
        return (str(error).strip().splitlines() or ["empty"])[0]
    return None

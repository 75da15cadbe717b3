"""Files of a run that are damaged: found before they are read, and said together with what makes them anew.

A run that has ended leaves `SHA256SUMS` in its folder, which `sha256sum -c` reads too. Files of a run without it, as
older versions left them, are read as a whole instead; that finds what is torn, not every byte that has changed.
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
SPREADSHEETS = ("benchmark_results.csv", "benchmark_results_marked.csv")
"""Files of a run that a report names, and no command reads; the second is there where rows were marked."""


class Damaged(Exception):
    """A file of a run is not what the run wrote; the message is one line with what makes it anew."""


def record(out: Path, run: str) -> None:
    """Write down the SHA-256 of the run's tables, of `FILES` and of those of `SPREADSHEETS` that are there."""
    folder = out / "runs" / run
    named = {name: folder / name for name in FILES}
    named |= {name: folder / name for name in SPREADSHEETS if (folder / name).exists()}
    named |= {_name(path): path for path in (out / "tables").glob(f"*/{run}.parquet")}
    lines = [f"{file_sha256(path)}  {name}\n" for name, path in sorted(named.items())]
    write_text(folder / SUMS, "".join(lines))


def check(out: Path, run: str, tables: Iterable[str] | None = None) -> None:
    """Make sure that `FILES` and tables of a run (None: all it has) are what it wrote; what is not there is not
    checked.

    Raises
    ------
    Damaged
        If one is not.
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
            why = _unreadable(path)
            if why:
                raise _damaged(out, run, path, f"is damaged ({why})")


def explanations(out: Path, run: str) -> list[dict[str, Any]]:
    """What the run's tasks wrote about hits and what differed, in the order of their time.

    Raises
    ------
    Damaged
        If one is not what a task writes.
    """
    told = []
    for path in (out / "runs" / run / "why").glob("*.json"):
        try:
            one = json.loads(path.read_text())
            known = isinstance(one, dict) and isinstance(one.get("differs"), list) and isinstance(one.get("at"), float)
        except (ValueError, RecursionError):
            known = False
        if not known:
            raise _damaged(out, run, path, "is damaged (not what a task wrote)")
        told.append(one)
    return sorted(told, key=lambda one: one["at"])


def check_profiles(out: Path, run: str) -> None:
    """Make sure that the run's profiles can be read; `Damaged` if one cannot."""
    import polars as pl

    from tasks.profiling.profile import read

    for file in (out / "runs" / run / "profiles").glob("*/profile.json"):
        try:
            read(file.parent)
        except (pl.exceptions.PolarsError, ValueError, LookupError, TypeError, OSError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Damaged(
                f"a file in {file.parent} is damaged ({why}); burnish profile makes the folder anew, and without "
                "the folder the report is written too"
            ) from None


@contextmanager
def anew(out: Path, run: str) -> Iterator[None]:
    """Say of a stored file that is gone or has changed what makes it anew."""
    try:
        yield
    except Corrupt as error:
        raise Damaged(f"{error}; {_command(out, run)}") from None


def _name(table: Path) -> str:
    return f"../../tables/{table.parent.name}/{table.name}"


def _damaged(out: Path, run: str, path: Path, what: str) -> Damaged:
    return Damaged(f"{path} {what}; {_command(out, run, path.name == 'study.toml')}")


def _command(out: Path, run: str, lost: bool = False) -> str:
    study = "PRESET|FILE.toml, as it was started" if lost else f"{out / 'runs' / run / 'study.toml'} --out {out}"
    return f"a new run makes it anew, and computes only what is not stored: burnish run {study}"


def _sums(out: Path, run: str) -> dict[str, str]:
    path = out / "runs" / run / SUMS
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(errors="replace").splitlines():
        sha256, space, name = line.partition("  ")
        if not space or len(sha256) != 64:
            raise _damaged(out, run, path, "is damaged (no list of SHA-256 sums)")
        found[name] = sha256
    if not set(FILES) <= found.keys():
        raise _damaged(out, run, path, "is damaged (it ends too early)")
    return found


def _unreadable(path: Path) -> str | None:
    """Why a file of a run cannot be read as a whole, or None."""
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

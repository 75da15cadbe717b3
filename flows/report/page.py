"""The HTML report of a run, from its published tables, study.toml and environment.json."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from flows.report.contents import LINKED, Contents
from flows.report.graphs import graphs
from flows.report.pictures import load_images
from flows.report.profiles import profiles
from flows.report.sections import SECTIONS
from flows.runs.so_far import stages, tables_so_far
from flows.runs.unfinished import unfinished
from tasks.machine.files import write_text
from tasks.records import Study

if TYPE_CHECKING:
    import polars as pl

    from flows.report.grids import Row

WANTED = (
    "datasets",
    "ablations",
    "epochs",
    "seeds",
    "trials",
    "variants",
    "evaluations",
    "predictions",
    "latencies",
    "benchmarks",
    "throughputs",
    "gpu_times",
    "scenarios",
    "certificates",
    "memory",
    "environments",
    "summary",
)
"""Tables that the report reads. It says which of them are missing."""
OF_GIVEN_MODELS = ("preparations", "layers", "search", "configurations")
"""Tables that have rows in studies of given models, or with a search, and that older versions of burnish did not write:
it is not said where they are missing."""
MANY_ROWS = ("predictions", "latencies")
"""Tables of so many rows that they are read lazily."""


def page(contents: Contents) -> str:
    """Return the report as HTML, complete in itself; a table that is missing is said to be so."""
    from jinja2 import Environment, FileSystemLoader

    shown: Row = {"missing": [name for name in WANTED if name not in contents.tables]}
    for section in SECTIONS:
        shown |= section(contents)
    folder = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.get_template("report.html.j2").render(shown)


def tables_of(out: Path, run: str) -> dict[str, pl.DataFrame | pl.LazyFrame]:
    """Return a run's published tables; those of `MANY_ROWS` are not read yet."""
    from tasks import tables

    published: dict[str, pl.DataFrame | pl.LazyFrame] = {}
    for name in (*WANTED, *OF_GIVEN_MODELS):
        if (out / "tables" / name / f"{run}.parquet").is_file():
            table = tables.read(out, name, run)
            published[name] = table if name in MANY_ROWS else table.collect()
    return published


def contents_of(out: Path, run: str) -> Contents:
    """Read all that the report of a run is made of. A run without results has the tables of the stages that ended.

    Raises
    ------
    ValueError
        If there is no such run.
    """
    folder = out / "runs" / run
    if not (folder / "study.toml").is_file():
        raise ValueError(f"no run {run!r} in {out}: {folder / 'study.toml'} is not there")
    tables, reason = tables_of(out, run), unfinished(out, run)
    if reason and not tables:
        left, damaged = tables_so_far(out, run)
        tables = {name: table if name in MANY_ROWS else table.collect() for name, table in left.items()}
        reason += "".join(f"; {file}" for file in damaged)
    environment = folder / "environment.json"
    datasets = tables.get("datasets")
    return Contents(
        tables=tables,
        study=Study.model_validate(tomllib.loads((folder / "study.toml").read_text())),
        environment=json.loads(environment.read_text()) if environment.is_file() else {},
        run=run,
        profiles=profiles(folder),
        images=load_images(out, datasets.lazy().collect() if datasets is not None else None),
        exported=graphs(out, tables),
        unfinished=reason,
        begun=stages(out, run) if reason else (),
        files=[name for name in LINKED if (folder / name).is_file()],
    )


def render(out: Path, run: str) -> Path:
    """Write `<out>/runs/<run>/report.html` and return its path.

    Raises
    ------
    ValueError
        If there is no such run.
    """
    target = Path(out) / "runs" / run / "report.html"
    write_text(target, page(contents_of(Path(out), run)))
    return target

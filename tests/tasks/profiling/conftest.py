"""Fixtures of the profiles' tests: a run with the forms of one small ResNet, and its profile in each runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from flows.settings import to_toml
from tasks import tables
from tasks.caching.work import Work
from tasks.export import export
from tasks.profiling.profile import Profile
from tasks.records import Export, Study
from tasks.tables import frames
from tests.support.digits import digits, stored_model
from tests.support.profiles import RESNET, RUN, RUNTIMES, profile_of
from tests.support.shared import made_once


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts folder of a run whose tables name the stored weights and forms of one small ResNet."""
    shared = made_once(tmp_path_factory, "profiled-run", _write_run)
    # Tests write profiles and tables into the folder, so that each process has a copy.
    return shutil.copytree(shared, tmp_path_factory.mktemp("profiled") / "artifacts")


def _write_run(out: Path) -> None:
    """Write the stored files and the tables of the run."""
    work = Work.at(out, "profile")
    parent = stored_model(work, "resnet34-w16", **RESNET)
    forms = export(work, digits(work), parent, Export(images=8)).variants
    rows = [
        {
            "name": variant.name,
            "model": variant.model,
            "stage": variant.stage,
            "format": variant.format,
            "precision": "fp32",
            "path": variant.artifact.path,
            "sha256": variant.artifact.sha256,
            "size_bytes": variant.artifact.size_bytes,
            "status": "ok",
        }
        for variant in (parent, *forms)
        if variant.artifact
    ]
    failed = rows[0] | {"name": "resnet34-w16/failed", "path": None, "status": "failed", "error": "no such luck"}
    dataset = {
        "split": "train",
        "rows": 9,
        "image_size": 8,
        "channels": 1,
        "source": "digits",
        "classes": 1,
        "class_rows_min": 9,
        "class_rows_max": 9,
        "class_rows": [9],
        "class_names": ["one"],
        "dropped_rows": [],
        "dropped_reasons": [],
        "layout": "digits",
        "left_out": [],
    }
    for name, content in (("variants", [*rows, failed]), ("datasets", [dataset])):
        (out / "tables" / name).mkdir(parents=True)
        frames.frame(name, content).write_parquet(out / "tables" / name / f"{RUN}.parquet")
    (out / "runs" / RUN).mkdir(parents=True)
    (out / "runs" / RUN / "study.toml").write_text(to_toml(Study(name="small")))


@pytest.fixture(scope="session")
def files(run: Path) -> dict[str, Path]:
    """Path of the stored file per format."""
    rows = tables.read(run, "variants", RUN).filter(pl.col("status") == "ok").collect()
    return {row["format"]: run / "store" / row["path"] for row in rows.to_dicts()}


@pytest.fixture(scope="session", params=list(RUNTIMES))
def result(request: pytest.FixtureRequest, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profile_of(files, request.param, tmp_path_factory.mktemp("made"))

"""What a key counts of the code: an edit that changes nothing of what a stage executes computes nothing anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TRAININGS = {"ablate", "train", "tune", "augment", "prune", "qat"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that a test may edit."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("flows", "tasks", "models", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def before(project: Path) -> dict[str, dict[str, str]]:
    return counted(project)


def counted(project: Path) -> dict[str, dict[str, str]]:
    """Stage -> module -> hash, for the project in a folder."""
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "tests.programs.stage_sources"]
    done = subprocess.run(command, env=environment, cwd=project, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def computed_anew(project: Path, before: dict[str, dict[str, str]], file: str, old: str, new: str) -> set[str]:
    """The stages whose key an edit of one file changes."""
    path = project / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} has changed: choose another edit"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    try:
        after = counted(project)
    finally:
        path.write_text(text, encoding="utf-8")
    assert after.keys() == before.keys()
    return {stage for stage in after if after[stage] != before[stage]}


TYPES_ALONE = "if TYPE_CHECKING:\n"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tasks/training/loop.py", "import copy\n", "# Another comment.\nimport copy\n"),
        ("tasks/training/batches.py", '"""', '"""Another docstring. '),
        ("tasks/records/_train.py", '    """', '    """Another text in the form. '),
        ("tasks/training/loop.py", TYPES_ALONE, f"{TYPES_ALONE}    from tasks.tables import data_docs\n\n"),
        ("flows/report/report.html.j2", "<h2", "<h2 class=another"),
        ("flows/report/charts.py", "import ", "import sys\nimport "),
    ],
)
def test_what_no_stage_executes_belongs_to_no_key(project, before, file: str, old: str, new: str) -> None:
    assert computed_anew(project, before, file, old, new) == set()


def test_the_look_of_the_data_docs_belongs_to_the_last_stage_alone(project, before) -> None:
    changed = computed_anew(project, before, "tasks/tables/data_docs.py", "STYLE = ", "COLOUR = 1\nSTYLE = ")
    assert changed == {"aggregate"}


def test_what_is_said_of_a_column_belongs_to_what_reads_the_tables(project, before) -> None:
    changed = computed_anew(project, before, "tasks/tables/schema/shared.py", '"name of the variant"', '"its name"')
    assert changed == {"serve", "aggregate"}


def test_the_order_of_batches_belongs_to_what_trains(project, before) -> None:
    changed = computed_anew(project, before, "tasks/training/batches.py", "import numpy", "import math\nimport numpy")
    assert changed == TRAININGS


def test_the_clock_belongs_to_what_measures(project, before) -> None:
    changed = computed_anew(project, before, "tasks/measure/clock.py", "import gc", "import math\nimport gc")
    # quantize times its forms to choose one of them
    assert changed == {"quantize", "benchmark", "serve"}


def test_the_type_of_a_column_belongs_to_whatever_writes_rows(project, before) -> None:
    changed = computed_anew(
        project, before, "tasks/tables/schema/column.py", "pl.Int64, about, null", "pl.Int32, about, null"
    )
    assert changed == set(before)

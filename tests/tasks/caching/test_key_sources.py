"""Which edits of the code change the keys of which stages: those whose executed code differs, and no others."""

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
def original_hashes(project: Path) -> dict[str, dict[str, str]]:
    return source_hashes(project)


def source_hashes(project: Path) -> dict[str, dict[str, str]]:
    """Return the hash of each module that a stage executes, per stage and module, for a copy of the project."""
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "tests.programs.stage_sources"]
    process = subprocess.run(command, env=environment, cwd=project, text=True, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def stages_with_a_new_key(
    project: Path, original_hashes: dict[str, dict[str, str]], file: str, old: str, new: str
) -> set[str]:
    """Return the stages whose key changes when `old` in one file becomes `new`. The file is restored."""
    path = project / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} no longer contains {old!r}; choose another edit for this test"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    try:
        edited_hashes = source_hashes(project)
    finally:
        path.write_text(text, encoding="utf-8")
    assert edited_hashes.keys() == original_hashes.keys()
    return {stage for stage in edited_hashes if edited_hashes[stage] != original_hashes[stage]}


TYPES_ONLY = "if TYPE_CHECKING:\n"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tasks/training/loop.py", "import copy\n", "# Another comment.\nimport copy\n"),
        ("tasks/training/batches.py", '"""', '"""Another docstring. '),
        ("tasks/records/_train.py", '    """', '    """Another text in the form. '),
        (
            "tasks/training/loop.py",
            TYPES_ONLY,
            f"{TYPES_ONLY}    from tasks.tables import data_docs\n\n",
        ),
        ("flows/report/report.html.j2", "<h2", "<h2 class=another"),
        ("flows/report/charts.py", "import ", "import sys\nimport "),
    ],
)
def test_an_edit_of_what_no_stage_executes_changes_no_key(
    project, original_hashes, file: str, old: str, new: str
) -> None:
    assert stages_with_a_new_key(project, original_hashes, file, old, new) == set()


def test_an_edit_of_the_data_docs_changes_the_key_of_aggregate_alone(project, original_hashes) -> None:
    stages = stages_with_a_new_key(
        project, original_hashes, "tasks/tables/data_docs.py", "STYLE = ", "COLOUR = 1\nSTYLE = "
    )
    assert stages == {"aggregate"}


def test_an_edit_of_a_columns_description_changes_the_keys_of_stages_that_read_tables(project, original_hashes) -> None:
    stages = stages_with_a_new_key(
        project, original_hashes, "tasks/tables/schema/shared.py", '"name of the variant"', '"its name"'
    )
    assert stages == {"serve", "aggregate"}


def test_an_edit_of_the_batches_changes_the_keys_of_stages_that_train(project, original_hashes) -> None:
    stages = stages_with_a_new_key(
        project, original_hashes, "tasks/training/batches.py", "import numpy", "import math\nimport numpy"
    )
    assert stages == TRAININGS


def test_an_edit_of_the_clock_changes_the_keys_of_stages_that_measure(project, original_hashes) -> None:
    stages = stages_with_a_new_key(
        project, original_hashes, "tasks/measure/clock.py", "import gc", "import math\nimport gc"
    )
    # The quantize stage is among them, because it times its forms to choose one.
    assert stages == {"quantize", "benchmark", "serve"}


def test_an_edit_of_a_columns_type_changes_the_key_of_every_stage(project, original_hashes) -> None:
    stages = stages_with_a_new_key(
        project, original_hashes, "tasks/tables/schema/column.py", "pl.Int64, about, null", "pl.Int32, about, null"
    )
    assert stages == set(original_hashes)

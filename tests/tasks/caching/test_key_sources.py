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
    from collections.abc import Iterator
    from pathlib import Path

TRAININGS = {"ablate", "train", "tune", "augment", "prune", "qat"}


class Project:
    """A copy of the project that a test may edit, and the process that hashes its code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("flows", "tasks", "models", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.stage_sources"],
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.original_hashes = self.hashes()

    def hashes(self) -> dict[str, dict[str, str]]:
        """Return the hash of each module that a stage executes, per stage and module."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that hashes the code has ended; its standard error says why"
        hashes: dict[str, dict[str, str]] = json.loads(answer)
        return hashes

    def stages_with_a_new_key(self, file: str, old: str, new: str) -> set[str]:
        """Return the stages whose key changes when `old` in one file becomes `new`. The file is restored."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        times = path.stat()
        assert old in text, f"{file} no longer contains {old!r}; choose another edit for this test"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        try:
            hashes = self.hashes()
        finally:
            path.write_text(text, encoding="utf-8")
            # Python recognises the bytecode of the edited file by the time at which that was written.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert hashes.keys() == self.original_hashes.keys()
        return {stage for stage in hashes if hashes[stage] != self.original_hashes[stage]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    copied = Project(tmp_path_factory.mktemp("project"))
    yield copied
    copied.process.communicate()


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
def test_an_edit_of_what_no_stage_executes_changes_no_key(project: Project, file: str, old: str, new: str) -> None:
    assert project.stages_with_a_new_key(file, old, new) == set()


def test_an_edit_of_the_data_docs_changes_the_key_of_aggregate_alone(project: Project) -> None:
    stages = project.stages_with_a_new_key("tasks/tables/data_docs.py", "STYLE = ", "COLOUR = 1\nSTYLE = ")
    assert stages == {"aggregate"}


def test_an_edit_of_a_columns_description_changes_the_keys_of_stages_that_read_tables(project: Project) -> None:
    stages = project.stages_with_a_new_key("tasks/tables/schema/shared.py", '"name of the variant"', '"its name"')
    assert stages == {"serve", "aggregate"}


def test_an_edit_of_the_batches_changes_the_keys_of_stages_that_train(project: Project) -> None:
    stages = project.stages_with_a_new_key("tasks/training/batches.py", "import numpy", "import math\nimport numpy")
    assert stages == TRAININGS


def test_an_edit_of_the_clock_changes_the_keys_of_stages_that_measure(project: Project) -> None:
    stages = project.stages_with_a_new_key("tasks/measure/clock.py", "import gc", "import math\nimport gc")
    # Those that make int8 forms, rank layers, search and configure are among them, because they time forms.
    assert stages == {"quantize", "rank", "search", "configure", "benchmark", "serve"}


def test_an_edit_of_a_columns_type_changes_the_key_of_every_stage(project: Project) -> None:
    stages = project.stages_with_a_new_key(
        "tasks/tables/schema/column.py", "pl.Int64, about, null", "pl.Int32, about, null"
    )
    assert stages == set(project.original_hashes)

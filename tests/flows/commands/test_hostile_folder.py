"""Every command works in a folder in which the user has packages and modules with the names of those of burnish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import SHORT
from tests.support.prefect_home import prefect_home

NAMES = (
    "tasks",
    "models",
    "flows",
    "torch",
    "numpy",
    "polars",
    "onnx",
    "onnxruntime",
    "pydantic",
    "prefect",
    "uvicorn",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a Prefect home, and with packages that end the program when they are imported."""
    hostile_folder = tmp_path_factory.mktemp("hostile")
    prefect_home(hostile_folder / "home")
    for name in NAMES:
        source = f"raise SystemExit('the user\\'s own {name} was imported')"
        if name in ("tasks", "models", "flows"):
            (hostile_folder / name).mkdir()
            (hostile_folder / name / "__init__.py").write_text(source)
        else:
            (hostile_folder / f"{name}.py").write_text(source)
    return hostile_folder


def burnish(folder: Path, *arguments: str) -> str:
    """Run the installed command in the folder, with Prefect's home in it, and return what it printed."""
    command = Path(sys.executable).with_name("burnish")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PREFECT_API_URL")}
    done = subprocess.run(
        [str(command), *arguments],
        cwd=folder,
        env=environment | {"PREFECT_HOME": str(folder / "home")},
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert "the user's own" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("arguments", ["--help", "presets", "show quickstart", "completion bash"])
def test_commands_that_compute_nothing_do_not_import_the_users_packages(folder: Path, arguments: str) -> None:
    assert burnish(folder, *arguments.split())


@pytest.mark.slow
def test_a_run_and_the_commands_after_it_do_not_import_the_users_packages(folder: Path) -> None:
    settings = [f"--set={setting}" for setting in (*SHORT, "train.processes=2", "train.batch_size=32")]
    assert "report: out/runs/" in burnish(folder, "run", "quickstart", "--out", "out", *settings)
    assert burnish(folder, "why", "--out", "out").startswith("run quickstart-")
    assert burnish(folder, "report", "--out", "out").strip().endswith("report.html")
    assert "profile: out/runs/" in burnish(folder, "profile", "--out", "out", "--queries", "5")
    (model,) = (folder / "out" / "runs").glob("*/models/lenet5-train-onnx.onnx")
    shape = ("--input-shape", "1,8,8", "--out", "out")
    assert "onnxruntime" in burnish(folder, "bench", str(model), "--rounds", "2", "--seconds", "0.2", *shape)

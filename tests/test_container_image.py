"""The container's image works: the Dockerfile's steps are executed in a folder that stands for the image's root."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tasks.tables.csv_view import CSV_COLUMNS
from tests.support.command import SHORT
from tests.support.dockerfile import context, steps
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE_FOLDERS = ("/opt/burnish", "/home/burnish", "/results")
"""Folders of the image that the Dockerfile names."""


class Image:
    """Executes the Dockerfile's steps in a folder that stands for the image's root.

    The two steps that change the system itself are not executed. Instead of what `apt-get` installs, this machine's
    compiler is used. Instead of `useradd`, the user's home is created, and where the tests run as root, the entry point
    runs as user 1000, who need not exist.
    """

    def __init__(self, root: Path, device: str) -> None:
        self.root = root
        self.cwd = root
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
        # This user's home holds the cache that the builder mounts at /root/.cache, and the package index's settings.
        inherited = {
            key: value
            for key, value in os.environ.items()
            if re.match(r"PIP_|UV_|SSL_CERT|HOME$|https?_proxy", key, re.I)
        }
        self.environment = inherited | {"PATH": f"{root / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        self.entrypoint: list[str] = []
        self.user: int | None = None
        self.files = root / "context"
        for name in context():
            (self.files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.files / name)
        for folder in IMAGE_FOLDERS[:2]:
            Path(self.in_root(folder)).mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        self.environment["TMPDIR"] = str(root / "tmp")
        for instruction, value in steps(device):
            getattr(self, f"_{instruction.lower()}", lambda value: None)(value)

    def in_root(self, text: str) -> str:
        """Return a text in which the image's folders are replaced by folders below the root."""
        return re.sub(
            "|".join(rf"(?<![\w/]){folder}\b" for folder in IMAGE_FOLDERS), lambda match: f"{self.root}{match[0]}", text
        )

    def _workdir(self, value: str) -> None:
        self.cwd = Path(self.in_root(value))

    def _env(self, value: str) -> None:
        for pair in shlex.split(value):
            key, _, text = pair.partition("=")
            self.environment[key] = self.in_root(string.Template(text).substitute(self.environment))

    def _user(self, value: str) -> None:
        if os.geteuid() == 0:
            self.user = int(value)
            try:
                self.execute([str(self.root / "bin" / "python"), "-c", ""])
            except PermissionError:
                # Python lies in root's home, which user 1000 may not read.
                self.user = None

    def _entrypoint(self, value: str) -> None:
        self.entrypoint = [self.in_root(word) for word in json.loads(value)]

    def _copy(self, value: str) -> None:
        *sources, target = value.split()
        for source in sources:
            if (self.files / source).is_dir():
                shutil.copytree(self.files / source, self.cwd / target, dirs_exist_ok=True)
            else:
                shutil.copy(self.files / source, self.cwd / target)

    def _run(self, value: str) -> None:
        steps_to_run = [step for step in value.split("&&") if step.split()[0] not in ("apt-get", "useradd", "rm")]
        if "-r requirements.txt" in value and not os.environ.get("BURNISH_WHOLE_IMAGE"):
            uv = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--dry-run", "--python", sys.executable]
            completed = self.execute([*uv, "-r", "requirements.txt"])
            if "Would make no changes" not in completed.stdout:
                pytest.skip("these tests do not run in the environment that requirements.txt describes")
            site = next((self.cwd / ".venv" / "lib").glob("python3*")) / "site-packages"
            # This environment's packages come first on the path, before what venv installed (setuptools).
            (site / "environment.pth").write_text(
                f"import sys; sys.path.insert(0, {sysconfig.get_path('purelib')!r})\n"
            )
        elif steps_to_run:
            completed = self.execute(["/bin/sh", "-ec", self.in_root("&&".join(steps_to_run))])
            assert completed.returncode == 0, f"{value}\n{completed.stdout}"

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **self.surroundings()
        )

    def surroundings(self) -> dict[str, Any]:
        """Return the working folder, environment and user as arguments of subprocess's functions."""
        identity = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        return {"cwd": self.cwd, "env": self.environment, "stdin": subprocess.DEVNULL, **identity}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="burnish-image-") as folder:
        # User 1000 must be able to read the folder.
        Path(folder).chmod(0o755)
        yield Image(Path(folder), "cpu")


@pytest.fixture(scope="module")
def results(image: Image) -> Path:
    """The results folder after the entry point has run a tiny study."""
    settings = [f"--set={setting}" for setting in SHORT]
    completed = image.execute([*image.entrypoint, "study", "quickstart", *settings])
    assert completed.returncode == 0, completed.stdout[-5000:]
    return image.root / "results"


@pytest.mark.slow
def test_the_image_runs_a_study_that_leaves_the_table_a_report_and_a_profile(image: Image, results: Path) -> None:
    assert (results / "benchmark_results.csv").read_text().splitlines()[0] == ",".join(CSV_COLUMNS)
    table = pl.read_csv(results / "benchmark_results.csv")
    assert set(table["device"]) == {"cpu"}
    summary = pl.read_parquet(results / "tables" / "summary.parquet")
    assert len(summary) == len(table)
    # On a busy machine some rows are marked. Their times stand in a second file.
    marked = summary["conditions"].is_not_null()
    assert table["latency_ms_per_batch"].is_null().to_list() == marked.to_list()
    assert (results / "benchmark_results_marked.csv").is_file() == bool(marked.any())
    assert "lenet5" in (results / "report.html").read_text()
    assert list(results.glob("profiles/lenet5_train-eager/tensorboard/*.pt.trace.json"))
    code = "import tasks; print(tasks.__file__)"
    imported_file = image.execute([f"{image.cwd}/.venv/bin/python", "-c", code]).stdout.strip()
    assert imported_file == f"{image.cwd}/tasks/__init__.py", "the study must run with the image's copy of the code"


@pytest.mark.slow
def test_tensorboard_in_the_image_shows_the_profile_at_port_6006(image: Image, results: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 6006)) == 0:
            pytest.skip("port 6006 is taken")
    process = subprocess.Popen(
        [*image.entrypoint, "tensorboard"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **image.surroundings()
    )
    try:
        deadline, tags = time.monotonic() + 60, {}
        while not tags and time.monotonic() < deadline:
            time.sleep(1)
            assert process.poll() is None
            try:
                with urllib.request.urlopen("http://127.0.0.1:6006/data/plugin/images/tags", timeout=30) as answer:
                    tags = json.load(answer)
            except OSError:
                continue
        assert {name for images in tags.values() for name in images} == {"flame", "operators"}
    finally:
        process.terminate()
        process.wait(30)

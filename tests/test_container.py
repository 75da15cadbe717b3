"""The container's files pass their linters, and the Dockerfile has the instructions that it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dockerfile import context, steps
from tests.support.paths import ROOT

BIN = Path(sys.executable).parent
SCRIPTS = ("build_and_run.sh", "container.sh")


@pytest.mark.parametrize("file", ["Dockerfile", "flows/commands/deployed/Dockerfile"])
def test_hadolint_accepts_the_dockerfile(file: str) -> None:
    if not (BIN / "hadolint").exists():
        pytest.skip("hadolint has no wheel for this machine")
    completed = subprocess.run([BIN / "hadolint", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("file", SCRIPTS)
def test_shellcheck_accepts_the_script_which_is_executable(file: str) -> None:
    completed = subprocess.run([BIN / "shellcheck", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert completed.returncode == 0, completed.stdout
    assert os.access(ROOT / file, os.X_OK)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_dockerfile_names_a_python_version_a_plain_user_and_tensorboards_port(device: str) -> None:
    instructions = steps(device)
    kinds = [instruction for instruction, _ in instructions]
    assert "ADD" not in kinds
    values = dict(instructions)
    image, _, version = values["FROM"].partition(":")
    assert image == "python", "the base image has its short name, without a registry's address"
    assert re.fullmatch(r"\d+\.\d+-slim", version)
    assert values["USER"] == "1000"
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert values["EXPOSE"] == "6006"
    assert not re.search(r"https?:|://", (ROOT / "Dockerfile").read_text())


def test_every_copied_file_is_in_git_and_passes_dockerignore() -> None:
    files = context()
    instructions = steps("cpu") + steps("cuda")
    sources = [source for kind, value in instructions if kind == "COPY" for source in value.split()[:-1]]
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
    copied_folders = {source.partition("/")[0] for source in sources}
    assert {file.partition("/")[0] for file in files} == copied_folders, ".dockerignore passes only what COPY uses"


def test_the_image_installs_the_makefiles_uv_and_the_pinned_requirements() -> None:
    uv = re.compile(r"uv==[\d.]+")
    assert uv.findall((ROOT / "Dockerfile").read_text()) == uv.findall((ROOT / "Makefile").read_text())
    for device, requirements in (("cpu", "requirements.txt"), ("cuda", "requirements-gpu.txt")):
        installs = [value for kind, value in steps(device) if kind == "RUN" and "-r requirements" in value]
        assert [value.split("-r ")[1] for value in installs] == [requirements]
        assert "--no-deps" in installs[0], "the file lists every package; an omitted dependency must stay out"

"""The container's files: they are linted, and the Dockerfile says what it must."""

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
def test_hadolint_has_nothing_to_say(file: str) -> None:
    if not (BIN / "hadolint").exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([BIN / "hadolint", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", SCRIPTS)
def test_shellcheck_has_nothing_to_say(file: str) -> None:
    done = subprocess.run([BIN / "shellcheck", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(ROOT / file, os.X_OK)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_image_has_a_named_version_a_plain_user_and_tensorboards_port(device: str) -> None:
    told = steps(device)
    kinds = [instruction for instruction, _ in told]
    assert "ADD" not in kinds
    values = dict(told)
    image, _, version = values["FROM"].partition(":")
    assert image == "python", "an ordinary short name: no registry's address"
    assert re.fullmatch(r"\d+\.\d+-slim", version)
    assert values["USER"] == "1000"
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert values["EXPOSE"] == "6006"
    assert not re.search(r"https?:|://", (ROOT / "Dockerfile").read_text())


def test_everything_that_is_copied_is_in_git_and_reaches_the_builder() -> None:
    files = context()
    told = steps("cpu") + steps("cuda")
    sources = [source for kind, value in told if kind == "COPY" for source in value.split()[:-1]]
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
    named = {source.partition("/")[0] for source in sources}
    assert {file.partition("/")[0] for file in files} == named, ".dockerignore lets through what nothing copies"


def test_the_image_installs_as_the_makefile_does() -> None:
    uv = re.compile(r"uv==[\d.]+")
    assert uv.findall((ROOT / "Dockerfile").read_text()) == uv.findall((ROOT / "Makefile").read_text())
    for device, pinned in (("cpu", "requirements.txt"), ("cuda", "requirements-gpu.txt")):
        installs = [value for kind, value in steps(device) if kind == "RUN" and "-r requirements" in value]
        assert [value.split("-r ")[1] for value in installs] == [pinned]
        assert "--no-deps" in installs[0], "the list is whole; what it leaves out is not brought back"

"""Reads, without a container engine, what the Dockerfile says and which files reach the builder."""

from __future__ import annotations

import io
import re
import subprocess

import pytest

from tests.support.paths import ROOT

# a lent GPU machine may lack it
dockerfile_parse = pytest.importorskip("dockerfile_parse")


def steps(device: str) -> list[tuple[str, str]]:
    """(instruction, value) of the image for a device and of what it is built on, flags of the builder left out."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile").read_bytes()))
    for one in parser.structure:
        instruction, value = one["instruction"], re.sub(r"^(--\S+\s+)+", "", one["value"])
        if instruction == "FROM":
            image, _, name = value.replace("${DEVICE}", device).partition(" AS ")
            stages[name] = [*stages.get(image, [(instruction, image)])]
        elif instruction not in ("COMMENT", "ARG"):
            stages[name].append((instruction, value))
    return stages[name]


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()


def context() -> list[str]:
    """Tracked files that .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is left out but what is named"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    return [path for path in tracked() if path.partition("/")[0] in named]

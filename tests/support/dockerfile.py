"""Reads the Dockerfile's instructions, and which files reach the builder, without a container engine."""

from __future__ import annotations

import io
import re
import subprocess

import pytest

from tests.support.paths import ROOT

# A machine that is lent for its GPU may lack this package.
dockerfile_parse = pytest.importorskip("dockerfile_parse")


def steps(device: str) -> list[tuple[str, str]]:
    """Return the (instruction, value) pairs of the image for a device, those of its base stages first.

    Flags of the builder, such as `--mount`, are left out of the values.
    """
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile").read_bytes()))
    for parsed in parser.structure:
        instruction, value = parsed["instruction"], re.sub(r"^(--\S+\s+)+", "", parsed["value"])
        if instruction == "FROM":
            image, _, name = value.replace("${DEVICE}", device).partition(" AS ")
            stages[name] = [*stages.get(image, [(instruction, image)])]
        elif instruction not in ("COMMENT", "ARG"):
            stages[name].append((instruction, value))
    return stages[name]


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()


def context() -> list[str]:
    """Return the tracked files that .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", ".dockerignore must first ignore everything"
    exceptions = {line.removeprefix("!") for line in lines if line.startswith("!")}
    return [path for path in tracked() if path.partition("/")[0] in exceptions]

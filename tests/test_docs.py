"""README and docs/: every link leads somewhere, and every burnish command is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.commands.arguments import parser
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Burnish's commands in a page's blocks of code, with continued lines joined and comments left out."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("burnish ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_taken(page: Path) -> None:
    top = parser()
    for line in commands(page):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        assert top.parse_args(words[1:]).command == words[1], line


def test_there_are_commands_to_take() -> None:
    assert len([line for page in PAGES for line in commands(page)]) > 30


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120

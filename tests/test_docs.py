"""README and docs/: every link leads to a file, and the command line accepts every burnish command in the examples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.commands.arguments import parser
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Return the burnish commands in a page's code blocks, with continued lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("burnish ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_line_accepts_every_command(page: Path) -> None:
    command_line = parser()
    for line in commands(page):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        assert command_line.parse_args(words[1:]).command == words[1], line


def test_the_pages_hold_more_than_thirty_commands() -> None:
    assert len([line for page in PAGES for line in commands(page)]) > 30


def test_the_readme_has_fewer_than_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120

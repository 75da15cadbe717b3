"""A shell offers what burnish's command line takes at each place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flows.presets import presets
from tasks.tables import frames
from tests.support import factory
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def script() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "completion", "bash"], cwd=ROOT, text=True, capture_output=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, another file, and the results of two runs elsewhere than in artifacts/."""
    here = tmp_path_factory.mktemp("here")
    (here / "mine.toml").touch()
    (here / "notes.txt").touch()
    rows = factory.rows_of_tables()["variants"]
    for time, (run, some) in enumerate({"older-1": rows[:2], "newer-2": rows[2:4]}.items()):
        (here / "out" / "runs" / run).mkdir(parents=True)
        (here / "out" / "runs" / run / "study.toml").touch()
        os.utime(here / "out" / "runs" / run / "study.toml", (time, time))
        (here / "out" / "tables" / "variants").mkdir(parents=True, exist_ok=True)
        frames.frame("variants", some).write_parquet(here / "out" / "tables" / "variants" / f"{run}.parquet")
    return here


def made(number: int) -> set[str]:
    rows = factory.rows_of_tables()["variants"][2 * number : 2 * number + 2]
    return {row["name"] for row in rows if row["status"] == "ok"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("burnish be", {"bench"}),
        ("burnish run --ag", {"--again"}),
        ("burnish run quickstart --again benc", {"benchmark"}),
        ("burnish run quickstart --skip qu", {"quantize"}),
        ("burnish bench a.onnx --runtime torch_", {"torch_compile", "torch_compile_max"}),
        ("burnish run ''", {*presets(), "mine.toml", "out"}),
        ("burnish run mi", {"mine.toml"}),
        ("burnish report --out out ''", {"older-1", "newer-2"}),
        ("burnish deploy --out out --variant ''", made(1)),
        ("burnish deploy --out=out older-1 --variant ''", made(0)),
        ("burnish profile --out out ''", {*made(1), "mine.toml", "notes.txt", "out"}),
    ],
)
def test_bash_offers_what_is_taken(script: str, folder: Path, typed: str, offered: set[str]) -> None:
    words = shlex.split(typed)
    ask = (
        f'COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_burnish; printf "%s\\n" '
        f'"${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"],
        text=True,
        capture_output=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_offer_presets_and_stages(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "completion", shell], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert "quickstart cifar10-small" in done.stdout
    assert "ablate tune augment prune quantize qat build serve" in done.stdout

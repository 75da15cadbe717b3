"""Shell completion offers the words that burnish's command line accepts at each place."""

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
    """A working folder with a study, a text file, and the results of two runs in out/ instead of artifacts/."""
    working_folder = tmp_path_factory.mktemp("working")
    (working_folder / "mine.toml").touch()
    (working_folder / "notes.txt").touch()
    rows = factory.rows_of_tables()["variants"]
    for modified_at, (run, variants) in enumerate({"older-1": rows[:2], "newer-2": rows[2:4]}.items()):
        (working_folder / "out" / "runs" / run).mkdir(parents=True)
        (working_folder / "out" / "runs" / run / "study.toml").touch()
        os.utime(working_folder / "out" / "runs" / run / "study.toml", (modified_at, modified_at))
        (working_folder / "out" / "tables" / "variants").mkdir(parents=True, exist_ok=True)
        frames.frame("variants", variants).write_parquet(
            working_folder / "out" / "tables" / "variants" / f"{run}.parquet"
        )
    return working_folder


def finished_variants(number: int) -> set[str]:
    """Return the names of a run's variants that did not fail. Run 0 is older-1, run 1 is newer-2."""
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
        ("burnish deploy --out out --variant ''", finished_variants(1)),
        ("burnish deploy --out=out older-1 --variant ''", finished_variants(0)),
        ("burnish optimize --for th", {"throughput"}),
        ("burnish optimize --out out ''", {*finished_variants(1), "out"}),
        ("burnish profile --out out ''", {*finished_variants(1), "mine.toml", "notes.txt", "out"}),
    ],
)
def test_bash_offers_the_words_that_the_command_accepts(
    script: str, folder: Path, typed: str, offered: set[str]
) -> None:
    words = shlex.split(typed)
    completion = (
        f'COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_burnish; printf "%s\\n" '
        f'"${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{completion}"],
        text=True,
        capture_output=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_zsh_and_tcsh_offer_presets_and_stages(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "completion", shell], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert "quickstart cifar10-small" in done.stdout
    assert "ablate tune augment prune quantize qat build search serve" in done.stdout

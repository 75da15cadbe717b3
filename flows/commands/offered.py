"""Print the names that a shell's completion offers: ``python -m flows.commands.offered KIND WORD...``.

KIND is `runs` or `variants`; one name is printed per line. The words are those of the command line so far, which may
name the folder (--out) and the run.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def runs(out: Path) -> list[str]:
    """Return the names of the runs in a folder, the oldest first."""
    studies = list((out / "runs").glob("*/study.toml"))
    return [path.parent.name for path in sorted(studies, key=lambda path: path.stat().st_mtime)]


def variants(out: Path, words: Sequence[str]) -> list[str]:
    """Return the names of the variants of a run: the one that the words name, or else the newest."""
    from tasks import tables

    known = runs(out)
    named = [word for word in words if word in known] or known[-1:]
    if not named:
        return []
    table = tables.read(out, "variants", named[-1]).collect()
    return table.filter(table["status"] == "ok")["name"].unique(maintain_order=True).to_list()


def main(kind: str, words: Sequence[str]) -> None:
    """Print the names of one kind."""
    folders = [after for word, after in pairwise(words) if word == "--out"]
    folders += [word.removeprefix("--out=") for word in words if word.startswith("--out=")]
    out = Path(folders[-1] if folders else "artifacts").expanduser()
    print("\n".join(runs(out) if kind == "runs" else variants(out, words)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

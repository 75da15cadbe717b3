"""`make compare-peers`: what burnish and its peers make of the same model and images, measured in one run.

The page docs/PEERS.md says what is compared and gets the table; tests/reference/peers.parquet gets all columns. Those
of other models stay there. What an earlier comparison has quantized is not quantized again; everything is measured
anew. With --smoke a small network is compared in a few rounds, which shows in minutes that all works, and page and
reference stay as they are.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

import polars as pl

from compare import models, table
from compare.comparison import FULL, OPTIONS, SMOKE, SMOKE_OPTIONS, compare
from compare.entries import PYTHON
from compare.kept import ROOT
from flows.terminal.console import shown

PAGE = ROOT / "docs" / "PEERS.md"
USUAL = "efficientnet-lite0"
PARQUET = ROOT / "tests" / "reference" / "peers.parquet"


def main() -> None:
    """Make the model, compare, and write the table."""
    arguments = _arguments()
    if not PYTHON.exists():
        sys.exit("the peers' environment, .venv-peers, is missing; `make compare-peers` makes it and calls this")
    folder = arguments.out / ("smoke" if arguments.smoke else arguments.model)
    make, settings, usual = models.MODELS[arguments.model], FULL, OPTIONS
    page, parquet = PAGE, PARQUET
    if arguments.smoke:
        make, settings, usual = models.small_lenet, SMOKE, SMOKE_OPTIONS
        page, parquet = folder / PAGE.name, folder / PARQUET.name
    with shown():
        work, given = models.kept(make, folder / "given", arguments.data)
        rows = compare(work, given, settings, folder, tuple(arguments.options) or usual)
    rows = [row | {"command": _command(arguments)} for row in rows]
    if arguments.smoke:
        shutil.copyfile(PAGE, page)
    parquet.parent.mkdir(exist_ok=True)
    earlier = pl.read_parquet(parquet) if parquet.exists() and not arguments.smoke else None
    table.joined(earlier, table.frame(rows)).write_parquet(parquet)
    # The page shows what is stored, and nothing else.
    text = table.sections(pl.read_parquet(parquet).to_dicts())
    table.write_section(page, text)
    print(f"{table.section(rows)}\nwritten: {page} and {parquet}; the files that were measured are in {folder}")


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that makes the same comparison."""
    chosen = "" if arguments.model == USUAL else f" MODEL={arguments.model}"
    which = " SMOKE=1" if arguments.smoke else chosen
    return f"make compare-peers{which}" + (f' OPTIMIZE="{shlex.join(arguments.options)}"' if arguments.options else "")


def _arguments() -> argparse.Namespace:
    shared = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(prog="python -m compare", description=__doc__)
    parser.add_argument("--model", choices=tuple(models.MODELS), default=USUAL, help="(default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a small network and few rounds")
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder of images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "compare", help="folder for model files")
    parser.add_argument(
        "options", nargs="*", help=f"after --: options of burnish optimize (default: {' '.join(OPTIONS)})"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

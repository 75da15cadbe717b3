"""`make compare-peers`: what burnish and its peers make of the same model and images, measured in one run.

The page docs/PEERS.md says what is compared and gets the table; docs/peers.parquet gets all columns. With --smoke a
small network is compared in a few rounds, which shows in minutes that all works, and the docs stay as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from compare import models, table
from compare.comparison import FULL, SMOKE, SMOKE_OPTIONS, compare
from compare.entries import PYTHON, ROOT
from flows.terminal.console import shown
from tasks.caching.work import Work

PAGE = ROOT / "docs" / "PEERS.md"
PARQUET = ROOT / "docs" / "peers.parquet"


def main() -> None:
    """Make the model, compare, and write the table."""
    arguments = _arguments()
    if not PYTHON.exists():
        sys.exit("the peers' environment, .venv-peers, is missing; `make compare-peers` makes it and calls this")
    folder = arguments.out / ("smoke" if arguments.smoke else "lite0")
    # The files of an earlier comparison are of no use; those of this one stay for a look.
    shutil.rmtree(folder, ignore_errors=True)
    work = Work.at(folder, "compare")
    with shown():
        if arguments.smoke:
            rows, answer = compare(work, models.small_resnet(work, arguments.data), SMOKE, folder, SMOKE_OPTIONS)
        else:
            rows, answer = compare(work, models.efficientnet_lite0(work, arguments.data), FULL, folder)
    shutil.rmtree(work.scratch)
    page, parquet = PAGE, PARQUET
    if arguments.smoke:
        page, parquet = folder / PAGE.name, folder / PARQUET.name
        shutil.copyfile(PAGE, page)
    text = table.section(rows, answer)
    table.write_section(page, text)
    table.frame(rows).write_parquet(parquet)
    print(f"{text}\nwritten: {page} and {parquet}; the files that were measured are in {folder}")


def _arguments() -> argparse.Namespace:
    shared = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(prog="python -m compare", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small network and few rounds")
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder of images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "compare", help="folder for model files")
    return parser.parse_args()


if __name__ == "__main__":
    main()

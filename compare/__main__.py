"""`make compare-peers`: what burnish and its peers make of the same model and images, measured in one run.

The page docs/PEERS.md says what is compared and gets the table; docs/peers.parquet gets all columns. With --smoke a
small network is compared in a few rounds, which shows in minutes that all works, and the docs stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from compare import models, table
from compare.answer import burnish
from compare.entries import PYTHON, ROOT, as_given, of_peers
from compare.measure import against, environment, measure
from tasks.caching.work import Work
from tasks.records import Benchmark

Row = dict[str, Any]
PAGE = ROOT / "docs" / "PEERS.md"
PARQUET = ROOT / "docs" / "peers.parquet"
FULL = Benchmark(
    runtimes=("onnxruntime", "openvino", "openvino_bf16"),
    devices=("cpu",),
    batch_sizes=(1,),
    throughput=False,
    rounds=5,
    min_seconds=0.5,
    min_queries=64,
    minutes=20,
)
"""How each form is measured: with a fresh process in each round, as in the preset `optimize`. On a quiet machine the
measurements take about ten minutes; on a busy one they are cut short."""
QUICK = {"rounds": 2, "processes": 1, "min_seconds": 0.05, "min_queries": 8, "warmup_seconds": 0.1}
SMOKE = FULL.model_copy(update=QUICK)
"""As `FULL`, in seconds per form: the figures are not to be trusted."""


def main() -> None:
    """Make the model, let all quantize it, measure everything together, and write the table."""
    arguments = _arguments()
    if not PYTHON.exists():
        sys.exit("the peers' environment is missing; `make compare-peers` makes it and calls this")
    given_by, settings, name = (
        (models.small_resnet, SMOKE, "smoke") if arguments.smoke else (models.efficientnet_lite0, FULL, "lite0")
    )
    folder = arguments.out / name
    # The files of the comparison before are of no use; those of this one stay for a look.
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "peers").mkdir(parents=True)
    work = Work.at(folder, "compare")
    given = given_by(work, arguments.data)
    fp32 = as_given(work, given)
    own = burnish(work, given)
    peers, peer_libraries = of_peers(work, given, folder / "peers")
    about = environment() | {
        "model": given.title,
        "date": time.strftime("%Y-%m-%d"),
        "rounds_asked": settings.rounds,
        "calibration_images": given.calibration_images,
        "test_images": given.data.test_rows,
        "peer_libraries": json.dumps(peer_libraries),
    }
    rows = [row | about for row in measure(work, given, [fp32, *own, *peers], settings)]
    answer = _compare(rows, settings)
    text = table.section(rows, answer)
    page, parquet = (folder / "PEERS.md", folder / "peers.parquet") if arguments.smoke else (PAGE, PARQUET)
    if arguments.smoke:
        shutil.copyfile(PAGE, page)
    table.write_section(page, text)
    table.frame(rows).write_parquet(parquet)
    shutil.rmtree(work.scratch)
    print(text)
    print(f"written: {page} and {parquet}; the files that were measured are in {folder}")


def _arguments() -> argparse.Namespace:
    shared = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(prog="make compare-peers", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small network and few rounds")
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder of images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "compare", help="folder for model files")
    return parser.parse_args()


def _compare(rows: list[Row], settings: Benchmark) -> Row | None:
    """Compare every row with fp32 in ONNX Runtime and with burnish's answer, in place; return the answer's row."""
    fp32 = rows[0]
    assert (fp32["form"], fp32["runtime"]) == ("given", "onnxruntime")
    if fp32["status"] != "ok":
        raise RuntimeError(f"the given file could not be measured: {fp32['error']}")
    for row in rows[1:]:
        row.update(against(row, fp32, settings, "fp32"))
    answer = table.answer_of(rows)
    if answer is not None:
        for row in rows:
            row.update(against(row, answer, settings, "burnish"))
    return answer


if __name__ == "__main__":
    main()

"""Let burnish and its peers quantize the same file, and measure all that they made in one run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from compare import table
from compare.answer import burnish
from compare.entries import as_given, of_peers
from compare.measure import against, environment, measure
from tasks.records import Benchmark

if TYPE_CHECKING:
    from pathlib import Path

    from compare.models import Given
    from tasks.caching.work import Work

Row = dict[str, Any]
FULL = Benchmark(
    runtimes=("onnxruntime", "openvino", "openvino_bf16"),
    devices=("cpu",),
    batch_sizes=(1,),
    throughput=False,
    rounds=5,
    min_seconds=0.5,
    min_queries=64,
    minutes=6,
)
"""How each form is measured: with a fresh process in each round, as in the preset `optimize`. Where six minutes are too
short for it, each measurement has fewer queries."""
OPTIONS: tuple[str, ...] = ("--minutes", "5")
"""Options of `burnish optimize`, unless the user has others. With the peers and the measurements, the comparison then
takes about a quarter of an hour."""
QUICK = {"rounds": 2, "processes": 1, "min_seconds": 0.05, "min_queries": 8, "warmup_seconds": 0.1}
SMOKE = FULL.model_copy(update=QUICK)
"""As `FULL`, in about a second per form: the figures are not to be trusted."""
SMOKE_OPTIONS = (
    "--for",
    "size",
    "--set=search.trials=1",
    *(f"--set=benchmark.{name}={value}" for name, value in QUICK.items()),
)
"""Options with which `burnish optimize` measures as briefly. The smallest form wins, because these latencies say too
little to name a winner."""


def compare(work: Work, given: Given, settings: Benchmark, folder: Path, options: tuple[str, ...]) -> list[Row]:
    """Return one row per form and runtime, each compared with fp32 and with burnish's answer.

    `folder` gets the files that are made and what their makers print; it keeps them for the next comparison. `options`
    are further ones of `burnish optimize`.
    """
    # The load is that of other programs now, and that of quantizers when they have ended.
    about = environment()
    fp32 = as_given(work, given)
    work.log.info("burnish optimizes")
    own = burnish(work, given, options, folder / "burnish")
    peers, peer_libraries = of_peers(work, given, folder / "peers")
    about |= {
        "model": given.title,
        "date": time.strftime("%Y-%m-%d"),
        "rounds_asked": settings.rounds,
        "calibration_images": given.calibration_images,
        "test_images": given.data.test_rows,
        "peer_libraries": json.dumps(peer_libraries),
    }
    rows = [row | about for row in measure(work, given, [fp32, own, *peers], settings)]
    relate(rows, settings)
    return rows


def relate(rows: list[Row], settings: Benchmark) -> None:
    """Compare every row with fp32 in ONNX Runtime, the first row, and with burnish's answer, in place."""
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

"""Publishes a table of 200,000 rows and kills itself before the table is published.

Arguments: the artifacts folder, and the moment of its death. At "sync" everything is written and nothing is renamed. At
"copy" only a part of the bytes is written.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tasks import tables
from tasks.machine import files
from tasks.tables.frames import frame

out = Path(sys.argv[1])
moment = sys.argv[2]
source = out / "fragment.parquet"


def die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def copy_a_part_and_die(source: Path, target: Path, *more: Any, **options: Any) -> None:
    Path(target).write_bytes(Path(source).read_bytes()[:1000])
    os.kill(os.getpid(), signal.SIGKILL)


columns = {"variant": "v", "runtime": "r", "device": "cpu", "batch_size": 1, "round": 1}
frame("latencies", [{**columns, "query": n, "latency_ms": 1.0} for n in range(200_000)]).write_parquet(source)
if moment == "sync":
    files.sync = die
else:
    shutil.copyfile = shutil.copy = shutil.copy2 = copy_a_part_and_die  # type: ignore[assignment]
tables.publish({"latencies": source}, out, "run-1")

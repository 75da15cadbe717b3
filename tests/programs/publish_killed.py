"""Publishes a table of 200,000 rows and kills itself before it is there.

Arguments: the artifacts folder, and the moment. "sync": everything is written and nothing renamed; "copy": in the
middle of the bytes.
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


def killed(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half(source: Path, target: Path, *more: Any, **options: Any) -> None:
    Path(target).write_bytes(Path(source).read_bytes()[:1000])
    os.kill(os.getpid(), signal.SIGKILL)


place = {"variant": "v", "runtime": "r", "device": "cpu", "batch_size": 1, "round": 1}
frame("latencies", [{**place, "query": n, "latency_ms": 1.0} for n in range(200_000)]).write_parquet(source)
if moment == "sync":
    files.sync = killed
else:
    shutil.copyfile = shutil.copy = shutil.copy2 = half  # type: ignore[assignment]
tables.publish({"latencies": source}, out, "run-1")

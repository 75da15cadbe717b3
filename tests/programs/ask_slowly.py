"""Requests the stage of tests/support/one_stage.py, takes some seconds to compute it, and prints "computed" or "hit".

Arguments: the artifacts folder, and the seconds. Each computation adds this process's id to the file `computed`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import one_stage

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.records import Output

out = Path(sys.argv[1])
seconds = float(sys.argv[2])


def compute_slowly(work: Work, name: str) -> Output:
    with (out / "computed").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return one_stage.rows(work, name)


logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")
print(one_stage.ask(out, compute=compute_slowly), flush=True)

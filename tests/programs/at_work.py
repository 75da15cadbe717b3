"""Works for a minute in every kind of folder that a stage works in, and prints "ready" when all the folders exist.

Argument: the artifacts folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tasks.caching.store import Store
from tasks.machine.files import beside, lock_of, make_folder
from tasks.machine.locks import held

out = Path(sys.argv[1])
scratch = make_folder(out / "scratch" / "0123456789abcdef")
target = out / "tables" / "trials" / "run.parquet"
with Store(out / "store").temporary() as stored, beside(target) as published, held(lock_of(scratch)):
    for folder in (stored, published, scratch):
        (folder / "file").write_text("at work")
    (out / "store" / "results").mkdir()
    with held(out / "store" / "results" / ".tmp-1"):
        print("ready", flush=True)
        time.sleep(60)

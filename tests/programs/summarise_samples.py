"""Summarises the samples in a file of latencies; prints, as JSON, the rows, the seconds and the bytes of memory added.

Argument: the file.
"""

import json
import re
import sys
import time
from pathlib import Path

from tasks.measure.intervals import summarise_file


def peak_bytes() -> int:
    """Return this process's peak of resident memory; getrusage's is one that a process takes over from its parent."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


before = peak_bytes()
start = time.perf_counter()
rows = summarise_file(Path(sys.argv[1]))
print(json.dumps([len(rows), time.perf_counter() - start, peak_bytes() - before]))

"""Summarises the samples in a file of latencies, and prints the cost of doing so.

Argument: the file. It prints, as JSON, the number of rows, the seconds, and the bytes by which the peak of memory rose.
"""

import json
import re
import sys
import time
from pathlib import Path

from tasks.measure.intervals import summarise_file


def peak_bytes() -> int:
    """Return this process's peak of resident memory in bytes. The peak in getrusage is inherited from the parent."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


before = peak_bytes()
start = time.perf_counter()
rows = summarise_file(Path(sys.argv[1]))
print(json.dumps([len(rows), time.perf_counter() - start, peak_bytes() - before]))

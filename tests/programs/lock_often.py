"""Takes the lock `lock` of the working folder a hundred times, and fails where another process holds it too."""

import os
from pathlib import Path

from tasks.machine import locks

# At the usual interval, also in seconds, the test would last for minutes.
locks.POLL_SECONDS = 0.0005
for _ in range(100):
    with locks.held(Path("lock")):
        handle = os.open("inside", os.O_CREAT | os.O_EXCL)
        os.close(handle)
        Path("inside").unlink()

"""One measurement at a time on a device, also across processes and users."""

from __future__ import annotations

import fcntl
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator


@contextmanager
def locked(devices: Iterable[str], log: logging.Logger) -> Iterator[None]:
    """Hold the machine's devices, across processes; the kernel lets go of a dead holder's lock."""
    with ExitStack() as held:
        for device in sorted(devices):
            path = Path(tempfile.gettempdir()) / f"burnish-{device.replace(':', '-')}.lock"
            if not path.exists():
                path.touch(mode=0o644)
            file = held.enter_context(path.open("rb"))  # reading is enough to lock, and another user's file can be read
            waiting = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        log.info("waiting: another benchmark runs on %s (%s)", device, path)
                    waiting = True
                    time.sleep(0.5)
        yield

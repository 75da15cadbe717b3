"""Makes control groups of the kernel, below this process's own, which limit what a test starts."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tasks.machine import quota

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = {
    "memory": (("memory.max", "{}"), ("memory.limit_in_bytes", "{}")),
    "cpu": (("cpu.max", "{} 100000"), ("cpu.cfs_quota_us", "{}")),
}
"""What a limit is written to: cgroup v2, v1."""


@contextmanager
def group(controller: str, limit: int) -> Iterator[Path]:
    """A control group with a limit: bytes of memory, or microseconds of a processor's time in each 100,000.

    The test is skipped where this process may not make one, as in most containers.
    """
    folder = next(iter(quota._groups(controller, quota.Path("/"))), None)
    if folder is None:
        pytest.skip(f"no control group of {controller} is mounted here")
    made = folder / f"burnish-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        file, form = next(((name, form) for name, form in LIMITS[controller] if (made / name).exists()), (None, ""))
        if file is None:
            pytest.skip(f"control groups made here have no limit of {controller}")
        (made / file).write_text(form.format(limit))
        yield made
    finally:
        # its last process may still be ending
        for _ in range(100):
            try:
                made.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def join_command(made: Path) -> tuple[str, ...]:
    """A command that puts itself into the group and becomes the one that follows it."""
    return "sh", "-c", 'echo $$ > "$0" && exec "$@"', str(made / "cgroup.procs")

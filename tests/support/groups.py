"""Creates control groups (cgroups), below this process's own, that limit the programs that a test starts."""

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
"""Controller -> file and format of its limit, for cgroup v2 and for v1."""


@contextmanager
def group(controller: str, limit: int) -> Iterator[Path]:
    """Create a control group with a limit: bytes of memory, or microseconds of CPU time in each 100,000.

    The test is skipped where this process may not create one, as in most containers.
    """
    folder = next(iter(quota._groups(controller, quota.Path("/"))), None)
    if folder is None:
        pytest.skip(f"this machine mounts no control group of {controller}")
    group_folder = folder / f"burnish-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group_folder.mkdir()
    except OSError as error:
        pytest.skip(f"this process may not create a control group: {error}")
    try:
        limits = [(name, form) for name, form in LIMITS[controller] if (group_folder / name).exists()]
        if not limits:
            pytest.skip(f"a control group below this process's own has no limit of {controller}")
        file, form = limits[0]
        (group_folder / file).write_text(form.format(limit))
        yield group_folder
    finally:
        # The group's last process may still be ending.
        for _ in range(100):
            try:
                group_folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def join_command(group_folder: Path) -> tuple[str, ...]:
    """Return the first words of a command that joins the group and then becomes the command in its other words."""
    return "sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group_folder / "cgroup.procs")

"""How many processors and how much memory the control groups of a container leave to this process (cgroup v2 and v1).

A limit may be set on any group between the process's own and the top of the mounted hierarchy, and the smallest limit
counts. Only the standard library is imported, because `burnish deploy` copies this file beside the server, which runs
without burnish.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# /proc/meminfo writes kB and means KiB.
PROCFS_UNIT = 1024


def processors(root: Path = Path("/")) -> float | None:
    """Return how many processors' worth of time this process may use, e.g. 1.5. None means that no group limits it.

    Parameters
    ----------
    root
        The folder that holds proc and sys.
    """
    limits = []
    for folder in _groups("cpu", root):
        # A ValueError comes from "max", which means no quota (v2).
        with suppress(OSError, ValueError):
            if (folder / "cpu.max").exists():
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            # -1 means no quota (v1).
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many whole logical processors this process can keep busy, within its affinity and the quotas.

    There is at least one. Of 1.5 processors one is usable, because a second thread would be stopped for the rest of
    each period.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processors(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def memory_left(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process can still take before it meets a group's limit. None means no limit.

    File cache does not count as taken, because the kernel drops it first.
    """
    remaining = []
    for folder in _groups("memory", root):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            # A ValueError comes from "max", which means no limit (v2).
            with suppress(OSError, ValueError):
                unused = int((folder / limit).read_text()) - int((folder / used).read_text())
                remaining.append(unused + _reclaimable(folder))
    return max(min(remaining), 0) if remaining else None


def memory_available(root: Path = Path("/")) -> int:
    """Return how many bytes this process can take, within the machine's free memory and the groups' limits.

    Raises
    ------
    OSError
        If the kernel has no /proc/meminfo.
    """
    match = re.search(r"MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text())
    if match is None:
        raise OSError("/proc/meminfo does not say MemAvailable")
    free = int(match[1]) * PROCFS_UNIT
    below_limit = memory_left(root)
    return free if below_limit is None else min(free, below_limit)


def _reclaimable(folder: Path) -> int:
    """Return how many bytes of file cache the kernel would drop before it calls a group full."""
    with suppress(OSError):
        text = (folder / "memory.stat").read_text()
        # Only v1 has the first; it counts the groups below as well, as v2's second does.
        for name in ("total_inactive_file", "inactive_file"):
            if match := re.search(rf"^{name} (\d+)$", text, re.M):
                return int(match[1])
    return 0


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that limit this process, from its own group to the top of the mounted hierarchy.

    `controller` is the kernel's name for what is limited: cpu or memory.
    """
    with suppress(OSError):
        path_of_version = dict(_own_groups(controller, (root / "proc/self/cgroup").read_text()))
        for version, top, mounted in _mounts(controller, (root / "proc/self/mountinfo").read_text()):
            if version in path_of_version:
                yield from _upward(root / mounted.lstrip("/"), _below(path_of_version[version], top))


def _own_groups(controller: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (cgroup version, path of the process's own group) from lines such as 0::/a and 4:cpu,cpuacct:/a."""
    for line in text.splitlines():
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            yield 2, path
        elif controller in names.split(","):
            yield 1, path


def _mounts(controller: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (cgroup version, group that is the mount's root, mount point) from the lines of proc_pid_mountinfo(5)."""
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        top, mounted = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), field) for field in fields.split()[3:5])
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            yield 2, top, mounted
        elif kind == "cgroup" and controller in options.split(","):
            yield 1, top, mounted


def _below(path: str, top: str) -> str:
    """Return the path of a group below the mount's root, or "" where the mount does not show the group."""
    inside = os.path.relpath(path, top)
    return "" if inside.startswith("..") or inside == "." else inside


def _upward(mounted: Path, inside: str) -> Iterator[Path]:
    """Yield the existing folders from a group's up to the mount point, which is yielded in any case."""
    folder = mounted / inside
    while folder != mounted:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield mounted

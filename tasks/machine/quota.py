"""How many processors and how much memory the control groups of a container leave to this process (cgroup v2 and v1).

A limit may stand at any group between the process's own and the top of the mounted hierarchy, and the smallest one
counts. The standard library alone: `burnish deploy` copies this file beside the server, which runs without burnish.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# /proc/meminfo says kB and means KiB
PROCFS_UNIT = 1024


def processors(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the process may use, e.g. 1.5; None: no group limits it.

    Parameters
    ----------
    root
        Where /proc and /sys are looked for.
    """
    limits = []
    for folder in _groups("cpu", root):
        # ValueError: "max", no quota (v2)
        with suppress(OSError, ValueError):
            if (folder / "cpu.max").exists():
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            # -1: no quota (v1)
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def usable_processors(root: Path = Path("/")) -> int:
    """Whole logical processors that the process can keep busy, within its affinity and the groups' quotas; at least
    one.

    Of 1.5 processors one is usable: a second thread would be stopped for the rest of each period.
    """
    have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processors(root)
    return have if quota is None else max(1, min(have, int(quota)))


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take before a group's limit is met, file cache not counted; None: no limit."""
    left = []
    for folder in _groups("memory", root):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            # ValueError: "max", no limit (v2)
            with suppress(OSError, ValueError):
                left.append(int((folder / limit).read_text()) - int((folder / used).read_text()) + _reclaimable(folder))
    return None if not left else max(min(left), 0)


def memory_available(root: Path = Path("/")) -> int:
    """Bytes that the process can take, within the machine's free memory and the groups' limits.

    Raises
    ------
    OSError
        Where the kernel has no /proc/meminfo.
    """
    found = re.search(r"MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text())
    if found is None:
        raise OSError("/proc/meminfo does not say MemAvailable")
    free, left = int(found[1]) * PROCFS_UNIT, memory_left(root)
    return free if left is None else min(free, left)


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that the kernel drops before it calls a group full."""
    with suppress(OSError):
        text = (folder / "memory.stat").read_text()
        found = re.search(r"^total_inactive_file (\d+)$", text, re.M) or re.search(r"^inactive_file (\d+)$", text, re.M)
        return int(found[1]) if found else 0
    return 0


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the process's groups that limit what `controller` is for, from its own to the mounted hierarchy's
    top."""
    with suppress(OSError):
        own = dict(_own(controller, (root / "proc/self/cgroup").read_text()))
        for version, top, mounted in _mounts(controller, (root / "proc/self/mountinfo").read_text()):
            if version in own:
                yield from _upward(root / mounted.lstrip("/"), _below(own[version], top))


def _own(controller: str, text: str) -> Iterator[tuple[int, str]]:
    """(cgroup version, path of the process's own group) from lines such as 0::/a and 4:cpu,cpuacct:/a."""
    for line in text.splitlines():
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            yield 2, path
        elif controller in names.split(","):
            yield 1, path


def _mounts(controller: str, text: str) -> Iterator[tuple[int, str, str]]:
    """(cgroup version, group that is the mount's root, mount point), from proc_pid_mountinfo(5)."""
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        top, mounted = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), field) for field in fields.split()[3:5])
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            yield 2, top, mounted
        elif kind == "cgroup" and controller in options.split(","):
            yield 1, top, mounted


def _below(path: str, top: str) -> str:
    """Path of a group below the mount's root; "" where the mount does not show it (the root is then what counts)."""
    inside = os.path.relpath(path, top)
    return "" if inside.startswith("..") or inside == "." else inside


def _upward(mounted: Path, inside: str) -> Iterator[Path]:
    """Existing folders from the own group's up to the mount point."""
    folder = mounted / inside
    while folder != mounted:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield mounted

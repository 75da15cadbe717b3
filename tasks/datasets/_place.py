"""Refuse places that cannot hold a data set before they are opened: reading a pipe may wait for ever."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from tasks.datasets._filekinds import irregular
from tasks.datasets._words import shown

KERNEL = {
    "proc",
    "sysfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "bpf",
    "pstore",
    "binfmt_misc",
    "efivarfs",
    "fusectl",
}
"""Types of file systems in which the kernel shows its own state as files."""
MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of mounts (man 5 proc_pid_mountinfo). Other systems have none of the file systems in `KERNEL`."""
ACCEPTED = "give a folder or a file"


def check_place(path: Path) -> None:
    """Refuse a path to something that cannot hold a data set. A path to nothing is left to whoever opens it.

    Raises
    ------
    ValueError
        If the path leads to a pipe, a socket, a device, a file of the kernel's own, or back to itself: one sentence.
    """
    try:
        path.stat()
        real = path.resolve()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"data.path: {shown(str(path))} is a link that leads back to itself; {ACCEPTED}") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise ValueError(f"data.path: {shown(str(path))} cannot be read: {error.strerror}") from None
    irregular_kind = irregular(path)
    if irregular_kind:
        raise ValueError(f"data.path: {shown(str(path))} is {irregular_kind}, which holds no data set; {ACCEPTED}")
    file_system = _file_system(real)
    if file_system in KERNEL:
        raise ValueError(
            f"data.path: {shown(str(path))} is in a file system of the kernel's own ({file_system}), which holds no "
            f"data set; {ACCEPTED}"
        )


def _file_system(real: Path) -> str:
    """Return the type of the file system that holds a path without links, e.g. ext4; "" if the system does not tell."""
    if not MOUNTS.is_file():
        return ""
    deepest = Path("/")
    file_system = ""
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        # The list writes blanks and the like as octal numbers.
        mount_point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        # Of two mounts at one place, the later one hides the other.
        if real.is_relative_to(mount_point) and mount_point.is_relative_to(deepest):
            deepest = mount_point
            file_system = after.split()[0]
    return file_system

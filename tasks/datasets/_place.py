"""What cannot hold a data set, told before it is opened: a pipe is waited for for ever, and /dev/zero never ends."""

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
"""File systems in which the kernel shows its own state as files."""
MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of what is mounted where (man 5 proc_pid_mountinfo); other systems have none of these file systems."""
ACCEPTED = "give a folder or a file"


def check_place(path: Path) -> None:
    """Refuse what is neither a file nor a folder of a file system that holds data; nothing being there is not its
    matter.

    Raises
    ------
    ValueError
        In one sentence.
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
    if what := irregular(path):
        raise ValueError(f"data.path: {shown(str(path))} is {what}, which holds no data set; {ACCEPTED}")
    if (kind := _file_system(real)) in KERNEL:
        raise ValueError(
            f"data.path: {shown(str(path))} is in a file system of the kernel's own ({kind}), which holds no "
            f"data set; {ACCEPTED}"
        )


def _file_system(real: Path) -> str:
    """Type of the file system that holds a path without links, e.g. ext4; "" where the system does not tell."""
    if not MOUNTS.is_file():
        return ""
    best, kind = Path("/"), ""
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        # of two at one place, the later hides the other
        if real.is_relative_to(place) and place.is_relative_to(best):
            best, kind = place, after.split()[0]
    return kind

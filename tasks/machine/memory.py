"""Resident memory of this process, as Linux counts it in /proc/self/status."""

from __future__ import annotations

from pathlib import Path

# The kernel writes kB and means KiB.
KIBIBYTE = 1024


def resident_bytes() -> int:
    """Return how many bytes of this process are in memory now."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most bytes of this process that were in memory at once, since it began or since `reset_peak`."""
    return _status_bytes("VmHWM")


def reset_peak() -> None:
    """Make `peak_resident_bytes` start again from what is in memory now (man 5 proc).

    Raises
    ------
    OSError
        If the kernel refuses, as it may in a container. The peak is then that of the process's whole life.
    """
    Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError(f"/proc/self/status has no {field}")

"""Makes writing to files fail: builds tests/support/shim.cpp, and shares memory with it that says what is to fail."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

LAYOUT = struct.Struct("=5q1024s1024s")
"""Same layout as `State` in tests/support/shim.cpp: count, nth, error, lasting, fired, root, first_failure."""
ENDED = 99
"""Exit code of a process that the shim ended."""


def build(folder: Path) -> Path:
    """Compile the shim into a shared library in `folder`, and return its path."""
    shim = folder / "shim.so"
    source = Path(__file__).with_name("shim.cpp")
    subprocess.run(["g++", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", "-o", shim, source, "-ldl"], check=True)
    return shim


@dataclass(frozen=True)
class Fault:
    """Which operation below a folder fails, and how."""

    nth: int = 0
    """The number of the operation that fails, counted from 1. With 0 none fails, and operations are only counted."""
    error: int = 0
    """The errno that the operation sets. With 0 the process ends at the operation."""
    lasting: bool = False
    """Whether all later operations fail too."""


class Shim:
    """The state that is shared by all processes that are started with `environment`."""

    def __init__(self, path: Path) -> None:
        """Create the file at `path` and map it into memory."""
        path.touch()
        os.truncate(path, LAYOUT.size)
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self.path = path

    def environment(self, shim: Path) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(shim), "SHIM_STATE": str(self.path)}

    def arm(self, root: Path | None, fault: Fault) -> None:
        """Count the operations below `root` anew, from 1, and let `fault` happen. Without a root nothing is counted."""
        name = b"" if root is None else os.fsencode(root)
        self.memory[:] = LAYOUT.pack(0, fault.nth, fault.error, fault.lasting, 0, name, b"")

    def counts(self) -> tuple[int, int, str]:
        """Return the number of operations so far, the number of failed ones, and the first failed one as text."""
        count, _, _, _, fired, _, first_failure = LAYOUT.unpack(self.memory)
        return count, fired, first_failure.rstrip(b"\0").decode()

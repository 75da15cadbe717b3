"""Makes writing fail: builds tests/support/shim.cpp, and holds the state by which a test tells it what is to fail."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

LAYOUT = struct.Struct("=5q1024s1024s")
"""As `State` in tests/support/shim.cpp: count, nth, error, lasting, fired, root, what."""
ENDED = 99
"""Exit code of a process that the shim ended."""


def build(folder: Path) -> Path:
    """Compile the shim."""
    shim = folder / "shim.so"
    source = Path(__file__).with_name("shim.cpp")
    subprocess.run(["g++", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", "-o", shim, source, "-ldl"], check=True)
    return shim


@dataclass(frozen=True)
class Fault:
    """What fails: the `nth` operation below a folder (0: none, they are only counted), and all after it if it lasts."""

    nth: int = 0
    error: int = 0
    """errno; 0: the process ends."""
    lasting: bool = False


class Shim:
    """The state that all processes share which were started with `environment`."""

    def __init__(self, path: Path) -> None:
        """Map the file at `path`, which is made."""
        path.touch()
        os.truncate(path, LAYOUT.size)
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self.path = path

    def environment(self, shim: Path) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(shim), "SHIM_STATE": str(self.path)}

    def arm(self, root: Path | None, fault: Fault) -> None:
        """From now on count what happens below `root`, from 1, and let it fail. No root: nothing is counted."""
        name = b"" if root is None else os.fsencode(root)
        self.memory[:] = LAYOUT.pack(0, fault.nth, fault.error, fault.lasting, 0, name, b"")

    def counts(self) -> tuple[int, int, str]:
        """(Operations so far, how many of them failed, the first that did)."""
        count, _, _, _, fired, _, what = LAYOUT.unpack(self.memory)
        return count, fired, what.rstrip(b"\0").decode()

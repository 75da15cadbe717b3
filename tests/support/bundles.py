"""Runs a bundle's own verify.py, and changes a bundle's files as somebody who also writes new checksums."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tasks.machine.files import file_sha256
from tests.support.servers import environment

if TYPE_CHECKING:
    from pathlib import Path


def own_verify(bundle: Path, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the verify.py of a bundle, as whoever was given the bundle does."""
    return subprocess.run(
        [str(python), "verify.py"], cwd=bundle, env=environment(), capture_output=True, text=True, check=False
    )


def sum_anew(bundle: Path) -> None:
    """Write the sums of a bundle's files as they are now, for the files that were listed before."""
    path = bundle / "SHA256SUMS"
    names = [line.partition("  ")[2] for line in path.read_text().splitlines()]
    path.write_text("".join(f"{file_sha256(bundle / name)}  {name}\n" for name in names))

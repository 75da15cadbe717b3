"""Paths of the repository, of the programs that tests start, and of the shared data."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's own folder."""
PROGRAMS = ROOT / "tests" / "programs"
"""Programs that tests start in processes of their own."""
SHARED = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared")) / "data"
"""Folder of real images. Tests that need them are skipped where it is missing."""

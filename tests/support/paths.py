"""Says where the repository, the programs of the tests and the shared data are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's own folder."""
PROGRAMS = ROOT / "tests" / "programs"
"""Programs that tests start in processes of their own."""
SHARED = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared")) / "data"
"""Real images; tests that need them skip where they are not there."""

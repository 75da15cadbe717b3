"""Where the repository and the shared data are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's own folder."""
SHARED = Path(os.environ.get("BURNISH_SHARED", ROOT.parent / "shared")) / "data"
"""Real images; tests that need them skip where they are not there."""

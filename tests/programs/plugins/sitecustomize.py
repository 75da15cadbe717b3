"""Makes the plug-ins beside this file known to a process that starts with their folder in PYTHONPATH."""

from pathlib import Path

import tasks.runtimes

tasks.runtimes.__path__.append(str(Path(__file__).parent))

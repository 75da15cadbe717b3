"""Adds this folder to the runtimes' plug-ins. Python imports this file when it starts with the folder in PYTHONPATH."""

from pathlib import Path

import tasks.runtimes

tasks.runtimes.__path__.append(str(Path(__file__).parent))

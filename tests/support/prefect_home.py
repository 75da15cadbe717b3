"""Gives tests a Prefect home whose database is there already, because making one takes a server 4 s of CPU."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def prefect_home(folder: Path) -> Path:
    """Make `folder` a Prefect home with an empty database of the newest schema, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty_database(), folder / "prefect.db")
    return folder


@functools.cache
def _empty_database() -> Path:
    """Return a database that was made once for all processes of this test run, and is kept for the next run."""
    shared = Path(tempfile.gettempdir()) / f"burnish-tests-{os.getuid()}-prefect-{version('prefect')}"
    shared.mkdir(exist_ok=True)
    database = shared / "prefect.db"
    with (shared / "lock").open("w") as lock:
        # Test processes start at the same time: the first one makes the database, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            with tempfile.TemporaryDirectory() as home:
                upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
                environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
                subprocess.run(upgrade, env=environment | {"PREFECT_HOME": home}, check=True, capture_output=True)
                shutil.copyfile(Path(home) / "prefect.db", shared / "unfinished.db")
            (shared / "unfinished.db").replace(database)
    return database

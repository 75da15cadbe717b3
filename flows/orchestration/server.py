"""Prefect's server for a run: the one that PREFECT_API_URL names, or a temporary one that ends with this process.

A run does not depend on the server: what a stage computes is on disk, the server only shows it. Where the server goes
away, burnish logs a warning, waits for nothing, and finishes the run without it.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.orchestration.connection import CONTACT_SECONDS, Lost, Server, reread_settings
from flows.settings import Mistake
from tasks.machine import children, parent
from tasks.machine.locks import held
from tasks.machine.space import check_database, check_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = logging.getLogger("burnish")
# Prefect's settings, set before it is imported. It logs nothing in the terminal, because burnish does.
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "burnish",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_API_REQUEST_TIMEOUT": "30",
    "DO_NOT_TRACK": "1",
}
# Variables that name a server, or the place where one is named.
NAMING = (
    "PREFECT_API_URL",
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
)


def start(port: int = 0, *, pages: bool = False) -> Server:
    """Start a Prefect server that only this machine can reach.

    The first server in a Prefect home folder makes the database. Two that make it at the same time would fail, so any
    other start waits until the first server answers.

    Parameters
    ----------
    port
        Port of 127.0.0.1; 0 takes a free one.
    pages
        Whether the server has Prefect's UI and the services that schedule runs.

    Raises
    ------
    Mistake
        If the port is taken.
    DiskFull
        If there is no room for its database.
    """
    check_database()
    home = Path(os.environ["PREFECT_HOME"])
    with held(home / "burnish-start.lock"):
        first = not (home / "prefect.db").exists()
        server = _start(port, pages)
        if first:
            server.wait_for_answer()
    return server


def _start(port: int, pages: bool) -> Server:
    """Start the server's process, without waiting until it answers."""
    # The port is bound before the server starts, so that no other process can take it in between.
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise Mistake(f"--port: port {port} cannot be used ({error.strerror}); name another one") from None
        listening.listen()
        port = listening.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        environment = children.environment(
            PREFECT__SERVER_FINAL="1", PREFECT_UI_API_URL=url, PREFECT_UI_ENABLED=str(int(pages))
        )
        environment.pop("PREFECT_API_URL", None)
        if not pages:
            environment["PREFECT__SERVER_EPHEMERAL"] = "1"
            # Automations need two more copies of the application.
            environment.setdefault("PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED", "false")
        log = Path(os.environ["PREFECT_HOME"]) / "burnish-server.log"
        # Another run's server may still write to the old file, which stays open for it.
        log.unlink(missing_ok=True)
        # uvicorn's own default for --app-dir is the working folder, which may hold a user's own packages.
        application = ["--factory", "flows.orchestration.serving:create_app", "--app-dir", str(children.ROOT)]
        arguments = ["-m", "uvicorn", *application, "--fd", str(listening.fileno())]
        arguments += ["--log-level", "error", "--lifespan", "on"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                parent.command(sys.executable, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
    server = Server(url, process, log)
    # Exit handlers run in reverse order, so Prefect's own, which sends the last log lines, runs before this one.
    atexit.register(server.stop)
    return server


@contextmanager
def connected(out: Path) -> Iterator[Server]:
    """Set which server Prefect uses, before Prefect is imported.

    A temporary server starts in the background, while the caller imports what else it needs.

    Raises
    ------
    Mistake
        If PREFECT_API_URL names one that does not answer.
    """
    settle(out)
    # Importing Prefect to read its settings takes a second, in which a temporary server can start already.
    server = (_named() if _may_be_named() else None) or start()
    if server.temporary:
        os.environ["PREFECT_API_URL"] = server.url
        os.environ["BURNISH_TEMPORARY_SERVER"] = "1"
        reread_settings()
    try:
        yield server
    finally:
        server.close()
        if server.temporary:
            for name in ("PREFECT_API_URL", "BURNISH_TEMPORARY_SERVER"):
                del os.environ[name]


def settle(out: Path) -> None:
    """Set Prefect's settings and the folder of its own files: its home folder, or `out` if that is not writable.

    Raises
    ------
    DiskFull
        If there is no room for temporary files, without which Prefect's server cannot start.
    Mistake
        If neither folder can be written.
    """
    check_temporary()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    home = Path(os.environ.get("PREFECT_HOME") or Path("~").expanduser() / ".prefect")
    reason = _unwritable(home)
    if reason is not None:
        LOG.warning("%s cannot be written (%s): Prefect's own files go to %s", home, reason, out.absolute() / "prefect")
        home = out.absolute() / "prefect"
        reason = _unwritable(home)
        if reason is not None:
            raise Mistake(
                f"--out: {home} cannot be written ({reason}); name a folder that can, or set PREFECT_HOME to one"
            )
    os.environ["PREFECT_HOME"] = str(home)


def _unwritable(folder: Path) -> str | None:
    """Make the folder and return why no file can be written in it, or None where one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        return error.strerror or type(error).__name__
    database = folder / "prefect.db"
    return "prefect.db is read-only" if database.exists() and not os.access(database, os.W_OK) else None


def _may_be_named() -> bool:
    """Return whether a setting of Prefect's may name a server. Prefect is not imported for this."""
    if any(name.upper() in NAMING for name in os.environ):
        return True
    files = [Path(os.environ["PREFECT_HOME"]) / "profiles.toml", Path(".env"), Path("prefect.toml")]
    return any(_tells_of_server(file) for file in [*files, Path("pyproject.toml")])


def _tells_of_server(file: Path) -> bool:
    """Return whether a file that Prefect reads its settings from may have a server's address, or names another file."""
    try:
        return re.search(rb"\bapi\b|prefect_api|profiles_path", file.read_bytes(), re.IGNORECASE) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _named() -> Server | None:
    """Return the server that the environment or Prefect's own settings name, or None."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return None
    server = Server(url.rstrip("/"))
    deadline = time.monotonic() + CONTACT_SECONDS
    while not server.answers():
        if time.monotonic() > deadline:
            raise Mistake(
                f"PREFECT_API_URL is {url}, where no Prefect server answers; start it, or {_how_to_unset(url)} and "
                "burnish starts one of its own"
            )
        time.sleep(0.5)
    return server


def _how_to_unset(url: str) -> str:
    """Return what takes PREFECT_API_URL back, by where it is set: Prefect also reads files of the current folder."""
    if os.environ.get("PREFECT_API_URL"):
        return "run `unset PREFECT_API_URL`"
    for name in (".env", "prefect.toml", "pyproject.toml"):
        with suppress(OSError, UnicodeDecodeError):
            if url in Path(name).read_text(encoding="utf-8"):
                return f"take it out of the file {name} in this folder"
    return "run `prefect config unset PREFECT_API_URL`"


def outcome(server: Server, finished: list[str], run: Callable[[], str]) -> str:
    """Run a study's flow and return the name of the run.

    Parameters
    ----------
    server
        The server that shows the run.
    finished
        Names of finished runs. The flow appends its name once its results are on disk; whatever the server does after
        that, the run counts as finished.
    run
        Calls the flow, and returns the name of the run.

    Raises
    ------
    Lost
        If the server was gone before the flow had begun, or the run could not go on without it.
    """
    from flows.orchestration import liveness

    server.wait()
    liveness.mark_crashed(everything=server.temporary)
    before = len(finished)
    try:
        return run()
    except Exception as error:
        if len(finished) > before:
            LOG.warning("Prefect's server could not be told that the run has finished (%s)", type(error).__name__)
            return finished[-1]
        if server.lost:
            raise Lost(
                f"Prefect's server at {server.url} is gone ({type(error).__name__}); the same command goes on where "
                "it stopped"
            ) from error
        raise

"""Prefect's server for a run: the one that PREFECT_API_URL names, or a temporary one that ends with this process.

A run does not depend on the server: what a stage computes is on disk, the server only shows it. Where the server goes
away, burnish logs a warning, waits for nothing, and finishes the run without it.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flows.settings import Mistake
from flows.terminal import supervisor
from tasks.machine import children, parent
from tasks.machine.locks import held
from tasks.machine.space import check_database, check_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")
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
RETRIES = "PREFECT_CLIENT_MAX_RETRIES"
LOGS = "PREFECT_LOGGING_TO_API_ENABLED"
# The longest time that a server may take to start. The first start on a slow machine, which makes the database, takes
# 20 to 75 s.
START_SECONDS = 180.0
# A server that starts and uses no processor time for so long is stuck: a healthy one always has something to compute.
STILL_SECONDS = 30.0
# The longest time that a server named by the user may take to answer.
CONTACT_SECONDS = 5.0
# The time between two checks of whether the server answers.
LOOK_SECONDS = 2.0
# A server that has not answered for so long counts as gone, so that the user is told within a minute.
AWAY_SECONDS = 30.0
# The time that the server has to write what it still holds in memory, before it is killed.
STOP_SECONDS = 5.0


class Lost(Exception):
    """Prefect's server went away at a point where the run cannot go on without it. The message is for the user."""


class Server:
    """A Prefect server: its address, its process where burnish started it, and whether it answers.

    Attributes
    ----------
    url
        Address of its API, such as http://127.0.0.1:4200/api.
    process
        The process that burnish started; None for a server that the user runs.
    log
        File that the process writes to.
    lost
        Whether the server has gone away and not come back.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
        self.url = url
        self.process = process
        self.log = log
        self.lost = False
        self._closing = threading.Event()
        self._before = os.environ.get(RETRIES), os.environ.get(LOGS)

    @property
    def temporary(self) -> bool:
        """Whether burnish started the server for this process alone."""
        return self.process is not None

    def answers(self) -> bool:
        """Return whether a server answers at the address, even if it refuses the request."""
        handlers = [urllib.request.ProxyHandler({})] if self.temporary else []
        try:
            with urllib.request.build_opener(*handlers).open(f"{self.url}/health", timeout=CONTACT_SECONDS):
                return True
        except urllib.error.HTTPError:
            # The server is there, and asks for a key, for example.
            return True
        except (OSError, ValueError):
            return False

    def wait(self) -> None:
        """Wait until the server answers, then watch it from a thread. Raises what `wait_for_answer` raises."""
        self.wait_for_answer()
        # Otherwise Prefect's log handler writes to the terminal that a line could not be sent. burnish warns itself.
        logging.raiseExceptions = False
        threading.Thread(target=self._watch, daemon=True, name="burnish-server-watch").start()

    def wait_for_answer(self) -> None:
        """Wait until the server answers.

        Raises
        ------
        Lost
            If the server that burnish started ends, is stopped or stuck, or takes longer than `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        processor_seconds = 0.0
        worked_at = time.monotonic()
        while not self.answers():
            if self.process is not None and self.process.poll() is not None:
                raise Lost(f"Prefect's server ended before it answered; its last words are in {self.log}")
            seconds = self._processor_seconds()
            if seconds != processor_seconds:
                processor_seconds = seconds
                worked_at = time.monotonic()
            if self.process is not None and time.monotonic() - worked_at > STILL_SECONDS:
                raise Lost(
                    f"Prefect's temporary server (process {self.process.pid}) has done nothing for "
                    f"{STILL_SECONDS:.0f} s while it starts, so it is stopped or stuck; it is ended, and the same "
                    f"command starts another; what it wrote is in {self.log}"
                )
            if time.monotonic() > deadline:
                raise Lost(
                    f"Prefect's server did not answer within {START_SECONDS:.0f} s; what it wrote is in {self.log}"
                )
            time.sleep(0.2)

    def _processor_seconds(self) -> float:
        """Return the processor time that the server has used, in seconds; 0 where burnish did not start it."""
        import psutil

        try:
            times = psutil.Process(self.process.pid).cpu_times() if self.process is not None else None
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system) if times else 0.0

    def _watch(self) -> None:
        answered_at = time.monotonic()
        while not self._closing.wait(LOOK_SECONDS):
            if self.answers():
                answered_at = time.monotonic()
                if self.lost:
                    self._take_back()
            elif not self.lost and (self._ended() or time.monotonic() - answered_at > AWAY_SECONDS):
                self._give_up()

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _give_up(self) -> None:
        """Go on without the server: nothing is sent to it any more, and the user is told."""
        self.lost = True
        supervisor.hurry()
        self._configure_client(retries="0", logs="false")
        if self._ended():
            reason = "Prefect's temporary server has ended"
        else:
            reason = f"Prefect's server at {self.url} has not answered for {AWAY_SECONDS:.0f} s"
        LOG.warning("%s: the run goes on without it, and is not shown in Prefect's pages from here on", reason)

    def _take_back(self) -> None:
        """Use a server again that was given up and answers now."""
        self.lost = False
        supervisor.hurry(False)
        self._configure_client(retries=self._before[0], logs=self._before[1])
        LOG.info("Prefect's server at %s answers again", self.url)

    @staticmethod
    def _configure_client(retries: str | None, logs: str | None) -> None:
        """Set how often Prefect's client repeats a request that was not answered, and whether it sends log lines.

        None stands for Prefect's own default.
        """
        for name, value in ((RETRIES, retries), (LOGS, logs)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread()

    def close(self) -> None:
        """Stop watching the server."""
        self._closing.set()

    def stop(self) -> None:
        """End the server, if burnish started it."""
        self.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


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
        log = Path(os.environ["PREFECT_HOME"]) / "burnish-server.log"
        # Another run's server may still write to the old file, which stays open for it.
        log.unlink(missing_ok=True)
        arguments = [
            sys.executable,
            "-m",
            "uvicorn",
            "--factory",
            "prefect.server.api.server:create_app",
            "--fd",
            str(listening.fileno()),
            "--log-level",
            "error",
            "--lifespan",
            "on",
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(
                parent.command(*arguments),
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
    server = _named() or start()
    if server.temporary:
        os.environ["PREFECT_API_URL"] = server.url
        os.environ["BURNISH_TEMPORARY_SERVER"] = "1"
        _reread()
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
            in_environment = bool(os.environ.get("PREFECT_API_URL"))
            command = "unset PREFECT_API_URL" if in_environment else "prefect config unset PREFECT_API_URL"
            raise Mistake(
                f"PREFECT_API_URL is {url}, where no Prefect server answers; start it, or run `{command}` and burnish "
                "starts one of its own"
            )
        time.sleep(0.5)
    return server


def _reread() -> None:
    """Make Prefect read its settings from the environment again."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


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

"""Prefect's server for a run: the one that PREFECT_API_URL names, or a temporary one that ends with this process.

A run does not stand or fall with it. What a stage computes is on disk; the server shows it. So where the server goes
away, that is said, nothing waits for it, and the run is finished without it.
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
# Before Prefect is imported. What it tells in a terminal is told by burnish.
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "burnish",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_API_REQUEST_TIMEOUT": "30",
    "DO_NOT_TRACK": "1",
}
RETRIES, LOGS = "PREFECT_CLIENT_MAX_RETRIES", "PREFECT_LOGGING_TO_API_ENABLED"
# the first start on a slow machine, which makes the database, takes 20 to 75 s
START_SECONDS = 180.0
# without any work of the processor: a server that starts has always something to compute
STILL_SECONDS = 30.0
# a server that is named has answered by then
CONTACT_SECONDS = 5.0
# between two looks at whether it answers
LOOK_SECONDS = 2.0
# without an answer it is gone; what is said of that is said within a minute
AWAY_SECONDS = 30.0
# to write what it still holds in memory
STOP_SECONDS = 5.0


class Lost(Exception):
    """Prefect's server went away where the run could not go on without it; the message is for the user."""


class Server:
    """A Prefect server: its address, its process where it is our own, and whether it answers."""

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
        self.url = url
        self.process = process
        self.log = log
        self.lost = False
        self._closing = threading.Event()
        self._before = os.environ.get(RETRIES), os.environ.get(LOGS)

    @property
    def temporary(self) -> bool:
        """Whether it was started for this process alone."""
        return self.process is not None

    def answers(self) -> bool:
        """Whether a server, of whatever mind, answers at the address."""
        handlers = [urllib.request.ProxyHandler({})] if self.temporary else []
        try:
            with urllib.request.build_opener(*handlers).open(f"{self.url}/health", timeout=CONTACT_SECONDS):
                return True
        except urllib.error.HTTPError:
            # it wants a key, for example
            return True
        except (OSError, ValueError):
            return False

    def wait(self) -> None:
        """Wait until it answers, then watch over it. Raises as `answered` does."""
        self.answered()
        # Prefect's handler asks it before it writes to the terminal that a log line could not be sent: burnish says it.
        logging.raiseExceptions = False
        threading.Thread(target=self._watch, daemon=True, name="burnish-server-watch").start()

    def answered(self) -> None:
        """Wait until it answers.

        Raises
        ------
        Lost
            If our own server ends instead, is stopped or stuck, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        worked, since = 0.0, time.monotonic()
        while not self.answers():
            if self.process is not None and self.process.poll() is not None:
                raise Lost(f"Prefect's server ended before it answered; its last words are in {self.log}")
            if (seconds := self._worked()) != worked:
                worked, since = seconds, time.monotonic()
            if self.process is not None and time.monotonic() - since > STILL_SECONDS:
                told = (
                    f"Prefect's temporary server (process {self.process.pid}) has done nothing for "
                    f"{STILL_SECONDS:.0f} s"
                )
                raise Lost(
                    f"{told} while it starts, so it is stopped or stuck; it is ended, and the same command starts "
                    f"another; what it wrote is in {self.log}"
                )
            if time.monotonic() > deadline:
                raise Lost(
                    f"Prefect's server did not answer within {START_SECONDS:.0f} s; what it wrote is in {self.log}"
                )
            time.sleep(0.2)

    def _worked(self) -> float:
        """Seconds of processors that our own server has used."""
        import psutil

        try:
            times = psutil.Process(self.process.pid).cpu_times() if self.process is not None else None
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system) if times else 0.0

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._closing.wait(LOOK_SECONDS):
            if self.answers():
                answered = time.monotonic()
                if self.lost:
                    self._found()
            elif not self.lost and (self._ended() or time.monotonic() - answered > AWAY_SECONDS):
                self._lose()

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _lose(self) -> None:
        self.lost = True
        supervisor.hurry()
        self._prefect(retries="0", logs="false")
        what = (
            "Prefect's temporary server has ended"
            if self._ended()
            else (f"Prefect's server at {self.url} has not answered for {AWAY_SECONDS:.0f} s")
        )
        LOG.warning("%s: the run goes on without it, and is not shown in Prefect's pages from here on", what)

    def _found(self) -> None:
        self.lost = False
        supervisor.hurry(False)
        self._prefect(retries=self._before[0], logs=self._before[1])
        LOG.info("Prefect's server at %s answers again", self.url)

    @staticmethod
    def _prefect(retries: str | None, logs: str | None) -> None:
        """How often Prefect's client repeats a request that was not answered, and whether it sends log lines.

        None: its own default.
        """
        for name, value in ((RETRIES, retries), (LOGS, logs)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread()

    def close(self) -> None:
        """Watch no longer."""
        self._closing.set()

    def stop(self) -> None:
        """End our own server."""
        self.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start(port: int = 0, *, pages: bool = False) -> Server:
    """Start a server of our own on this machine alone. `pages`: with Prefect's UI and the services that schedule runs.

    The first one of a Prefect home makes the database. Two that do so at once fail, so that others wait for it to
    answer.

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
            server.answered()
    return server


def _start(port: int, pages: bool) -> Server:
    # bound here, so that no other process takes the port before the server has it
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
        # another run's server keeps the one that it writes to
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
            # Its own default is the working folder, which may hold a user's own packages.
            "--app-dir",
            str(children.ROOT),
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
    # after Prefect's own, which sends the last log lines and events
    atexit.register(server.stop)
    return server


@contextmanager
def connected(out: Path) -> Iterator[Server]:
    """Settle which server Prefect is to use, before it is imported; a temporary one starts while other things are
    imported.

    Raises
    ------
    Mistake
        If PREFECT_API_URL names one that does not answer.
    """
    settle(out)
    server = _named() or start()
    if server.temporary:
        os.environ["PREFECT_API_URL"], os.environ["BURNISH_TEMPORARY_SERVER"] = server.url, "1"
        _reread()
    try:
        yield server
    finally:
        server.close()
        if server.temporary:
            for name in ("PREFECT_API_URL", "BURNISH_TEMPORARY_SERVER"):
                del os.environ[name]


def settle(out: Path) -> None:
    """Set Prefect's settings, and see that it can write its own files: below `out`, if it cannot at home.

    Raises
    ------
    DiskFull
        If there is no room for temporary files, without which its server ends as it starts.
    """
    check_temporary()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    home = Path(os.environ.get("PREFECT_HOME") or Path("~").expanduser() / ".prefect")
    if (why := _unwritable(home)) is not None:
        LOG.warning("%s cannot be written (%s): Prefect's own files go to %s", home, why, out.absolute() / "prefect")
        home = out.absolute() / "prefect"
        if (why := _unwritable(home)) is not None:
            raise Mistake(
                f"--out: {home} cannot be written ({why}); name a folder that can, or set PREFECT_HOME to one"
            )
    os.environ["PREFECT_HOME"] = str(home)


def _unwritable(folder: Path) -> str | None:
    """Why no file can be written in the folder, which is made; None: one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        return error.strerror or type(error).__name__
    database = folder / "prefect.db"
    return "prefect.db is read-only" if database.exists() and not os.access(database, os.W_OK) else None


def _named() -> Server | None:
    """The server that the environment or Prefect's own settings name."""
    from prefect.settings import get_current_settings

    if not (url := get_current_settings().api.url):
        return None
    server, deadline = Server(url.rstrip("/")), time.monotonic() + CONTACT_SECONDS
    while not server.answers():
        if time.monotonic() > deadline:
            how = (
                "unset PREFECT_API_URL" if os.environ.get("PREFECT_API_URL") else "prefect config unset PREFECT_API_URL"
            )
            raise Mistake(
                f"PREFECT_API_URL is {url}, where no Prefect server answers; start it, or run `{how}` and burnish "
                "starts one of its own"
            )
        time.sleep(0.5)
    return server


def _reread() -> None:
    """Have Prefect read its settings from the environment anew."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def outcome(server: Server, finished: list[str], run: Callable[[], str]) -> str:
    """Run a study's flow. `finished` gets its name when its results are on disk, whatever becomes of the server then.

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

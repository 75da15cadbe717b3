"""A Prefect server as a run sees it: whether it answers, and what happens to the run when it goes away."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from flows.terminal import supervisor

if TYPE_CHECKING:
    from pathlib import Path

LOG = logging.getLogger("burnish")
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
        """Give the server up when it goes away, and take it back when it answers again, until `close` is called."""
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
        reread_settings()

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


def reread_settings() -> None:
    """Make Prefect read its settings from the environment again."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()

"""The decorator that makes a Prefect task of a stage's plain function, whose result is stored under a key.

Key = stage + its records + the sha256 of its inputs + the source of the stage's module and of the project modules that
it imports + the versions of the libraries that do the work (+ the machine's fingerprint, where it matters). A hit
counts only when every file that the stored result names is there with its size and hash; else the stage runs again
(tasks/results.py).

Prefect shows a hit as a cached task, but stores nothing: of a cache policy that fails it makes a task without a key,
and of a result that cannot be written a log line, neither of which ends the run.
"""

from __future__ import annotations

import inspect
import logging
import os
import platform
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from functools import wraps
from pathlib import Path
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.base import ServerType
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.states import Completed

from tasks import why
from tasks.keys import Stage
from tasks.records import Context
from tasks.results import Turn, turn
from tasks.space import DiskFull, watched
from tasks.why import slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = logging.getLogger("burnish")
# at most this often a progress artifact is written
EVERY_SECONDS = 5.0
# the least that Prefect takes: so long a run waits for one that was killed while it measured
LEASE_SECONDS = 60.0
# progress of a stage that is done, which may have said last that 13 of 14 epochs were
ENDED = (1, 1)
# that a stage waits at its end for its last progress artifact
CLOSE_SECONDS = 1.0


class _OfRun(logging.FileHandler):
    """Log lines of one stage, in the run's folder; progress lines included."""

    def __init__(self, context: Context, label: str) -> None:
        folder = Path(context.out) / "runs" / context.run / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"{slug(label)}.log")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """What is wrong, as on a full disk, ends the stage: logging itself would print a traceback a line and go on."""
        raise  # noqa: PLE0704 (it is called where the error is handled)


class _Progress(logging.Handler):
    """A stage's progress as an artifact of its Prefect task run, every few seconds.

    A thread of its own writes the newest one, so that the stage never waits for Prefect's server. What cannot be
    written is left out: with the next report the server has it, and who watches over the server says that it is away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._newest: tuple[float, str] | None = None
        self._wake, self._closing = Event(), Event()
        self._thread: Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        # a stage that told nothing has no artifact
        if not progress or (self._thread is None and progress is ENDED):
            return
        self._newest = 100.0 * progress[0] / max(progress[1], 1), record.getMessage()
        # with this thread's context, which says what task run it is
        if self._thread is None:
            self._thread = Thread(target=copy_context().run, args=(self._write,), daemon=True, name="burnish-progress")
            self._thread.start()
        self._wake.set()

    def _write(self) -> None:
        artifact: UUID | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()
            newest, self._newest = self._newest, None
            if newest is not None:
                try:
                    artifact = _progress_artifact(artifact, *newest)
                except (
                    PrefectException,
                    httpx.HTTPError,
                    # Prefect's, out of retries
                    AssertionError,
                    # httpx's, where the stage has ended meanwhile and its client is closed
                    RuntimeError,
                ) as error:
                    logging.getLogger("burnish.progress").debug("not written: %s", error)
            if closing:
                return
            self._closing.wait(EVERY_SECONDS)

    def close(self) -> None:
        """Leave the last report a moment to be written."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        super().close()


def _progress_artifact(artifact: UUID | None, share: float, text: str) -> UUID:
    """Make the progress artifact of the current task run, or write `share` (in percent) and `text` into it."""
    if artifact is not None:
        update_progress_artifact(artifact, progress=share, description=text)
        return artifact
    made = create_progress_artifact(share, description=text)
    # a coroutine only where an event loop runs, which is not in this thread
    if not isinstance(made, UUID):
        raise TypeError(type(made).__name__)
    return made


def _limits(devices: tuple[str, ...]) -> list[str]:
    """Names of Prefect's global concurrency limits for this machine's devices, of one slot each, made where missing.

    None with a temporary server. A dead holder's slot would stay held: leases are in that server's memory, slots in the
    database that the next one opens. It has one flow run, which `locks.locked` keeps apart from others.
    """
    # set by who started it
    if os.environ.get("BURNISH_TEMPORARY_SERVER"):
        return []
    with get_client(sync_client=True) as client:
        if client.server_type == ServerType.EPHEMERAL:
            return []
        names = [f"burnish {platform.node()} {device}" for device in sorted(devices)]
        for name in names:
            # another flow run made it at the same moment
            with suppress(ObjectAlreadyExists):
                client.upsert_global_concurrency_limit_by_name(name, 1)
    return names


@contextmanager
def _alone(devices: tuple[str, ...], log: logging.Logger) -> Iterator[None]:
    """Hold this machine's devices: no other flow run of the same server measures on them.

    The server lets go of a dead holder's slot when its lease is not renewed, unless the server itself was started anew.
    Where it is away, `locks.locked` alone keeps other measurements of this machine off.
    """
    held = ExitStack()
    with without_server(log, "other flow runs are not kept from measuring"):
        _hold(held, devices, log)
    try:
        yield
    finally:
        with without_server(log, "it was not told that the measurements have ended"):
            held.close()


@contextmanager
def without_server(log: logging.Logger, left_out: str) -> Iterator[None]:
    """Go on where Prefect's server is away, and say what is left out for it."""
    try:
        yield
    except (PrefectException, httpx.HTTPError, AssertionError) as error:
        # the last: Prefect's client, out of retries
        log.warning("Prefect's server is away (%s): %s", type(error).__name__, left_out)


def _hold(held: ExitStack, devices: tuple[str, ...], log: logging.Logger) -> None:
    """Take the slots of the devices, and have `held` give them back."""
    names = _limits(devices) if devices else []
    if not names:
        return
    freed = " && ".join(f"prefect gcl update '{name}' --active-slots 0" for name in names)
    # Not by concurrency's own timeout: Prefect logs it as an error.
    told = Timer(5, log.info, ("waiting for another flow run's measurements; if there is none: %s", freed))
    told.daemon = True
    told.start()
    try:
        # A lease that is not renewed, since the server is away, must not end the measurement.
        held.enter_context(
            concurrency(names, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False)
        )
    except ConcurrencySlotAcquisitionError as error:
        if isinstance(error.__cause__, (httpx.TransportError, AssertionError)):
            # the server is away, which Prefect wraps
            raise error.__cause__ from None
        raise
    finally:
        told.cancel()


def stage(
    label: Callable[[dict[str, Any]], str],
    *,
    libraries: tuple[str, ...] = (),
    modules: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
    extra: Callable[[dict[str, Any]], dict[str, str]] | None = None,
    devices: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """Make a cached Prefect task of a stage's function.

    The function's first parameter is `work: Work`; the task takes `turn: Turn` in its place (see `call`), and all
    others.

    Parameters
    ----------
    label
        Inputs -> the task's name in a run, e.g. ``train/lenet5``; unique in a study.
    libraries
        Distributions whose versions belong to the key.
    modules
        Inputs -> project modules that the stage reaches by name rather than by an import.
    extra
        Inputs -> further parts of the key, e.g. the machine's fingerprint.
    devices
        Inputs -> devices of this machine that the stage measures on: no other flow run of the same server does
        meanwhile.
    """

    def wrap(function: Callable[..., Any]) -> Task[..., Any]:
        about = Stage(function, label, libraries, modules, extra)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("turn", keyword, annotation=Turn)

        @wraps(function)
        def run(*, turn: Turn, **inputs: Any) -> Any:
            if turn.found is not None:
                handler = _OfRun(turn.context, turn.label)
                handler.handle(_record(logging.INFO, f"cached: key {turn.key}"))
                handler.close()
                return Completed(name="Cached", data=turn.found)
            return compute(turn, function, inputs, devices(inputs) if devices else ())

        signature = inspect.Signature([first, *(p.replace(kind=keyword) for p in parameters)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        made: Task[..., Any] = task(
            name=function.__name__, cache_policy=NO_CACHE, persist_result=False, log_prints=False
        )(run)
        made.about = about  # type: ignore[attr-defined]
        return made

    return wrap


def _record(level: int, text: str, *, with_traceback: bool = False) -> logging.LogRecord:
    """What is written to a stage's own log alone."""
    return LOG.makeRecord(LOG.name, level, __file__, 0, text, (), sys.exc_info() if with_traceback else None)


def compute(turn: Turn, function: Callable[..., Any], inputs: dict[str, Any], devices: tuple[str, ...] = ()) -> Any:
    """Compute a stage's result and store it, with everything that is logged meanwhile in the run's folder."""
    turn.stage.computed += 1
    log = logging.getLogger(f"burnish.{turn.label}")
    handlers = (_OfRun(turn.context, turn.label), _Progress())
    for handler in handlers:
        LOG.addHandler(handler)
    started = time.monotonic()
    try:
        with watched(turn.context.out):
            with _alone(devices, log):
                result = function(turn.work(log), **inputs)
            turn.keep(result)
            why.ended(turn.context, turn.label, why.COMPUTED)
        # the study says it too
        done = _record(logging.INFO, f"done in {time.monotonic() - started:.1f} s")
        done.progress = ENDED
        for handler in handlers:
            handler.handle(done)
        return result
    except BaseException as error:
        # to the run's log with its traceback; who called says it to the user
        if isinstance(error, Exception):
            # the disk may be what failed
            with suppress(OSError, DiskFull):
                why.ended(turn.context, turn.label, why.FAILED)
        handlers[0].handle(_record(logging.ERROR, turn.label, with_traceback=True))
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def call(made: Task[..., Any], context: Context, **inputs: Any) -> Any:
    """Run a stage's task now, its task run named by its label; a result that is stored below `context.out` is taken."""
    with watched(context.out), turn(made.about, context, inputs) as mine:  # type: ignore[attr-defined]
        named = made.with_options(task_run_name=mine.label.replace("{", "(").replace("}", ")"))
        result = named(turn=mine, **inputs)
        # Prefect hands on the state that a task returned as it is
        return result if mine.found is None else mine.found

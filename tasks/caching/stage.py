"""The decorator that makes a Prefect task of a stage's plain function, whose result is stored under a key.

Key = stage + its records + the sha256 of its inputs + the source of the stage's module and of the project modules that
it imports + the versions of the libraries that do the work (+ the machine's fingerprint, where it matters). A hit
counts only when every file that the stored result names is there with its size and hash; else the stage runs again
(tasks/caching/results.py).

Prefect shows a hit as a cached task, but stores nothing: of a cache policy that fails it makes a task without a key,
and of a result that cannot be written a log line, neither of which ends the run.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tasks.caching import why
from tasks.caching.keys import Stage
from tasks.caching.limits import alone_on
from tasks.caching.logs import ENDED, LOG, ProgressArtifact, StageLog
from tasks.caching.results import Request, open_request
from tasks.machine.space import DiskFull, watched
from tasks.records import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def stage(
    label: Callable[[dict[str, Any]], str],
    *,
    libraries: tuple[str, ...] = (),
    modules: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
    extra: Callable[[dict[str, Any]], dict[str, str]] | None = None,
    counted: Mapping[str, Callable[[Any], Any]] | None = None,
    devices: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """Make a cached Prefect task of a stage's function.

    The function's first parameter is `work: Work`; the task takes `request: Request` in its place (see `call`), and all
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
    counted
        Name of an input -> a function that returns what of it belongs to the key; all of it where none is given.
    devices
        Inputs -> devices of this machine that the stage measures on: no other flow run of the same server does
        meanwhile.
    """

    def wrap(function: Callable[..., Any]) -> Task[..., Any]:
        about = Stage(function, label, libraries, modules, extra, counted)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("request", keyword, annotation=Request)

        @wraps(function)
        def run(*, request: Request, **inputs: Any) -> Any:
            if request.stored is not None:
                handler = StageLog(request.context, request.label)
                handler.handle(_record(logging.INFO, f"cached: key {request.key}"))
                handler.close()
                return Completed(name="Cached", data=request.stored)
            return compute(request, function, inputs, devices(inputs) if devices else ())

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


def compute(
    request: Request, function: Callable[..., Any], inputs: dict[str, Any], devices: tuple[str, ...] = ()
) -> Any:
    """Compute a stage's result and store it, with everything that is logged meanwhile in the run's folder."""
    request.stage.computed += 1
    log = logging.getLogger(f"burnish.{request.label}")
    handlers = (StageLog(request.context, request.label), ProgressArtifact())
    for handler in handlers:
        LOG.addHandler(handler)
    started = time.monotonic()
    try:
        with watched(request.context.out):
            with alone_on(devices, log):
                result = function(request.work(log), **inputs)
            request.keep(result)
            why.ended(request.context, request.label, why.COMPUTED)
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
                why.ended(request.context, request.label, why.FAILED)
        handlers[0].handle(_record(logging.ERROR, request.label, with_traceback=True))
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def call(made: Task[..., Any], context: Context, **inputs: Any) -> Any:
    """Run a stage's task now, its task run named by its label; a result that is stored below `context.out` is taken."""
    with watched(context.out), open_request(made.about, context, inputs) as mine:  # type: ignore[attr-defined]
        named = made.with_options(task_run_name=mine.label.replace("{", "(").replace("}", ")"))
        result = named(request=mine, **inputs)
        # Prefect hands on the state that a task returned as it is
        return result if mine.stored is None else mine.stored

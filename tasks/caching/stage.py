"""The decorator that makes a Prefect task of a stage's plain function, whose result is stored under a key.

The key is made of the stage's name, its records, the sha256 of its inputs, the code of its module and of the project
modules that this imports, the versions of the libraries that do the work, and where it matters the machine's
fingerprint. A stored result is used only if every file that it names has its size and hash; otherwise the stage is
computed again (tasks/caching/results.py).

Prefect shows a stored result as a cached task, but results are not stored through Prefect. It runs a task without a key
if its cache policy fails, and it only logs that a result cannot be written, where burnish must end the run.
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
    libraries: tuple[str, ...] | Callable[[dict[str, Any]], tuple[str, ...]] = (),
    modules: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
    extra: Callable[[dict[str, Any]], dict[str, str]] | None = None,
    counted: Mapping[str, Callable[[Any], Any]] | None = None,
    devices: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """Return a decorator that makes a cached Prefect task of a stage's function.

    The function's first parameter is `work: Work`. The task takes `request: Request` in its place (see `call`), and all
    other parameters by keyword.

    Parameters
    ----------
    label
        Inputs -> the task's name in a run, e.g. ``train/lenet5``. It must be unique in a study.
    libraries
        Distributions whose versions belong to the key, or a function of the inputs that returns them.
    modules
        Inputs -> project modules that the stage reaches by name rather than by an import.
    extra
        Inputs -> further parts of the key, e.g. the machine's fingerprint.
    counted
        Name of an input -> a function that returns the part of it that belongs to the key. Other inputs belong to it
        as a whole.
    devices
        Inputs -> devices of this machine that the stage measures on. No other flow run of the same server measures on
        them meanwhile.
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
        make_task = task(name=function.__name__, cache_policy=NO_CACHE, persist_result=False, log_prints=False)
        stage_task: Task[..., Any] = make_task(run)
        stage_task.about = about  # type: ignore[attr-defined]
        return stage_task

    return wrap


def _record(level: int, text: str, *, with_traceback: bool = False) -> logging.LogRecord:
    """Return a log record that only the stage's own log gets."""
    return LOG.makeRecord(LOG.name, level, __file__, 0, text, (), sys.exc_info() if with_traceback else None)


def compute(
    request: Request, function: Callable[..., Any], inputs: dict[str, Any], devices: tuple[str, ...] = ()
) -> Any:
    """Compute a stage's result and store it. Everything that is logged meanwhile also goes to the run's folder."""
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
        # The study reports the end too, so this record goes to the stage's own handlers alone.
        done = _record(logging.INFO, f"done in {time.monotonic() - started:.1f} s")
        done.progress = ENDED
        for handler in handlers:
            handler.handle(done)
        return result
    except BaseException as error:
        if isinstance(error, Exception):
            # The disk may be what failed.
            with suppress(OSError, DiskFull):
                why.ended(request.context, request.label, why.FAILED)
            # The traceback goes to the stage's own log. The caller reports the error to the user.
            handlers[0].handle(_record(logging.ERROR, request.label, with_traceback=True))
        else:
            handlers[0].handle(_record(logging.WARNING, f"{request.label} was stopped; the same command continues it"))
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def call(stage_task: Task[..., Any], context: Context, **inputs: Any) -> Any:
    """Return the result of a stage, which is taken from the store below `context.out` or computed now.

    The stage's task is run in either case, so that Prefect shows it. Its task run has the stage's label as its name.
    """
    with watched(context.out), open_request(stage_task.about, context, inputs) as request:  # type: ignore[attr-defined]
        # Braces would be placeholders to Prefect.
        named = stage_task.with_options(task_run_name=request.label.replace("{", "(").replace("}", ")"))
        result = named(request=request, **inputs)
        # If the result was stored, the task returned a Prefect state, which Prefect does not unpack.
        return result if request.stored is None else request.stored

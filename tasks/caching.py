"""The only cache policy, and the decorator that makes a Prefect task of a stage's plain function.

Key = stage + its records + the sha256 of its inputs + the source of the stage's module and of the project modules that it
imports + the versions of the libraries that do the work (+ the machine's fingerprint, where it matters). A hit counts only
when every file that the stored result names is there with its size and hash; else the stage runs again.
"""

from __future__ import annotations

import inspect
import json
import logging
import platform
import shutil
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import CachePolicy
from prefect.client.base import ServerType
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore

from tasks.keys import Stage, artifacts, digest
from tasks.records import Context
from tasks.store import Store, write_text
from tasks.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = logging.getLogger("burnish")
EVERY_SECONDS = 5.0  # at most this often a progress artifact is written


def results(out: str | Path) -> Path:
    """Folder of the stored results, one JSON file a key."""
    return Path(out).absolute() / "store" / "results"


def _stored(context: Context, stage: str, key: str) -> tuple[bool, str]:
    """(Whether a whole result is stored under the key, else why not).

    A result that names bad files is removed, and that of a stage which is to be done again.
    """
    path = results(context.out) / key
    if not path.exists():
        return False, ""
    if stage in context.again:
        path.unlink()
        return False, "asked for again"
    store = Store(Path(context.out) / "store")
    try:
        record = ResultStore(result_storage=LocalFileSystem(basepath=str(path.parent))).read(key)
        bad = [a.path for a in artifacts(record.result) if not store.intact(a)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # cut off while it was written
        bad = [f"{path.name} ({type(error).__name__})"]
    if not bad:
        return True, ""
    path.unlink()
    return False, f"stored file gone or changed: {', '.join(bad)}"


class Verified(CachePolicy):
    """Key as the module's docstring says; also writes down what `burnish why` tells."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        super().__init__()

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        parts = self.stage.parts(inputs)
        key, context, label = digest(parts), inputs["context"], self.stage.label_of(inputs)
        hit, broken = _stored(context, self.stage.function.__name__, key)
        _explain(context, label, key, parts, hit, broken)
        if not hit:
            self.stage.keys[task_ctx.task_run.id] = key
        return key


def _slug(label: str) -> str:
    return label.replace("/", "-").replace(" ", "-")


def _explain(context: Context, label: str, key: str, parts: dict[str, Any], hit: bool, broken: str) -> None:
    """Write to the run's folder: hit or computed, and what differed from the last time this task was asked for."""
    study = context.run.rpartition("-")[0].rpartition("-")[0] or context.run
    last = Path(context.out) / "store" / "last" / study / f"{_slug(label)}.json"
    before = json.loads(last.read_text()) if last.exists() else None
    differs = []
    if not hit:
        if broken:
            differs.append(broken)
        if before is None:
            differs.append("never run before in this folder")
        else:
            old = before["parts"]
            for name in sorted(old.keys() | parts.keys()):
                if old.get(name) != parts.get(name):
                    differs.append(f"{name}: {_short(old.get(name))} -> {_short(parts.get(name))}")
            if not differs:
                differs.append("the last attempt did not finish")
    told = {"task": label, "outcome": "hit" if hit else "computed", "key": key, "differs": differs, "at": time.time()}
    write_text(Path(context.out) / "runs" / context.run / "why" / f"{_slug(label)}.json", json.dumps(told, indent=1))
    write_text(last, json.dumps({"key": key, "parts": parts}, default=str))
    if hit:
        handler = _OfRun(context, label)
        handler.handle(LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, "cached: key %s", (key,), None))
        handler.close()
    else:
        more = f" and {len(differs) - 2} more, see `burnish why`" if len(differs) > 2 else ""
        why = f" ({'; '.join(differs[:2])[:300]}{more})" if broken or before else ""
        LOG.info("%s: computing%s", label, why, extra={"stage": label})


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value)
    return text[:10] if len(text) == 64 else text


class _OfRun(logging.FileHandler):
    """Log lines of one stage, in the run's folder; progress lines included."""

    def __init__(self, context: Context, label: str) -> None:
        folder = Path(context.out) / "runs" / context.run / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"{_slug(label)}.log")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))


class _Progress(logging.Handler):
    """A stage's progress as an artifact of its Prefect task run, every few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.artifact: UUID | None = None
        self.last = -EVERY_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if not progress or (progress[0] < progress[1] and time.monotonic() - self.last < EVERY_SECONDS):
            return
        self.last = time.monotonic()
        share, text = 100.0 * progress[0] / max(progress[1], 1), record.getMessage()
        try:
            if self.artifact is None:
                made = create_progress_artifact(share, description=text)
                assert isinstance(made, UUID)  # a coroutine only where an event loop runs, which is not in a task
                self.artifact = made
            else:
                update_progress_artifact(self.artifact, progress=share, description=text)
        except (PrefectException, httpx.HTTPError):  # a server that is away for a moment does not end a training
            self.handleError(record)


def _limits(devices: tuple[str, ...]) -> list[str]:
    """Names of Prefect's global concurrency limits for this machine's devices, of one slot each, made where missing.

    None with a temporary server. A dead holder's slot would stay held: leases are in that server's memory, slots in the
    database that the next one opens. It has one flow run, which `locks.locked` keeps apart from others.
    """
    with get_client(sync_client=True) as client:
        if client.server_type == ServerType.EPHEMERAL:
            return []
        names = [f"burnish {platform.node()} {device}" for device in sorted(devices)]
        for name in names:
            with suppress(ObjectAlreadyExists):  # another flow run made it at the same moment
                client.upsert_global_concurrency_limit_by_name(name, 1)
    return names


@contextmanager
def _alone(devices: tuple[str, ...], log: logging.Logger) -> Iterator[None]:
    """Hold this machine's devices: no other flow run of the same server measures on them.

    The server lets go of a dead holder's slot when its lease is not renewed, unless the server itself was started anew.
    """
    with ExitStack() as held:
        names = _limits(devices) if devices else []
        if names:
            freed = " && ".join(f"prefect gcl update '{name}' --active-slots 0" for name in names)
            # Not by concurrency's own timeout: Prefect logs it as an error.
            told = Timer(5, log.info, ("waiting for another flow run's measurements; if there is none: %s", freed))
            told.daemon = True
            told.start()
            try:
                held.enter_context(concurrency(names, strict=True))
            finally:
                told.cancel()
        yield


def stage(
    label: Callable[[dict[str, Any]], str],
    *,
    libraries: tuple[str, ...] = (),
    modules: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
    extra: Callable[[dict[str, Any]], dict[str, str]] | None = None,
    devices: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """Make a cached Prefect task of a stage's function.

    The function's first parameter is `work: Work`; the task takes `context: Context` in its place and all others as they are.

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
        Inputs -> devices of this machine that the stage measures on: no other flow run of the same server does meanwhile.
    """

    def wrap(function: Callable[..., Any]) -> Task[..., Any]:
        about = Stage(function, label, libraries, modules, extra)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("context", keyword, annotation=Context)

        @wraps(function)
        def run(*, context: Context, **inputs: Any) -> Any:
            name = label(inputs)
            about.computed += 1
            running = TaskRunContext.get()
            key = about.keys.pop(running.task_run.id, None) if running else None
            key = key or digest(about.parts(inputs))  # the policy failed (and said why), or nobody asked it
            scratch = Path(context.out).absolute() / "scratch" / key[:16]
            scratch.mkdir(parents=True, exist_ok=True)
            handlers = (_OfRun(context, name), _Progress())
            for handler in handlers:
                LOG.addHandler(handler)
            started = time.monotonic()
            try:
                log = logging.getLogger(f"burnish.{name}")
                with _alone(devices(inputs) if devices else (), log):
                    result = function(Work(Store(Path(context.out) / "store"), scratch, log), **inputs)
                seconds = (
                    f"done in {time.monotonic() - started:.1f} s"  # to the stage's own file: the study says it too
                )
                handlers[0].handle(LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, seconds, (), None))
            except BaseException:  # to the run's log with its traceback; who called says it to the user
                handlers[0].handle(LOG.makeRecord(LOG.name, logging.ERROR, __file__, 0, name, (), sys.exc_info()))
                raise
            finally:
                for handler in handlers:
                    LOG.removeHandler(handler)
                    handler.close()
            shutil.rmtree(scratch, ignore_errors=True)
            return result

        signature = inspect.Signature([first, *(p.replace(kind=keyword) for p in parameters)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        made: Task[..., Any] = task(
            name=function.__name__,
            cache_policy=Verified(about),
            persist_result=True,
            result_serializer="json",
            cache_result_in_memory=False,
            log_prints=False,
        )(run)
        made.about = about  # type: ignore[attr-defined]
        return made

    return wrap


def call(made: Task[..., Any], context: Context, **inputs: Any) -> Any:
    """Run a stage's task now: its results go below the run's artifacts folder, its run is named by its label."""
    name = made.about.label_of(inputs)  # type: ignore[attr-defined]
    here = made.with_options(
        result_storage=results(context.out), task_run_name=name.replace("{", "(").replace("}", ")")
    )
    return here(context=context, **inputs)

"""The only cache policy, and the decorator that makes a Prefect task of a stage's plain function.

Key = stage + its records + the sha256 of its inputs + the source of the stage's module and of the project modules that it
imports + the versions of the libraries that do the work (+ the machine's fingerprint, where it matters). A hit counts only
when every file that the stored result names is there with its size and hash; else the stage runs again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import shutil
import time
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore

from tasks.records import Artifact, Context, Record
from tasks.store import Store, write_text
from tasks.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGES = ("flows", "tasks", "models")
LOG = logging.getLogger("burnish")


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """(SHA-256 of a project module's source, the project modules that it imports, anywhere in it)."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    text = Path(spec.origin).read_text()
    imported: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    project = {name for name in imported if name.split(".")[0] in PACKAGES and _is_module(name)}
    return hashlib.sha256(text.encode()).hexdigest(), tuple(sorted(project))


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # `from tasks.records import Study` is no module of that name
        return False


def sources(*modules: str) -> dict[str, str]:
    """SHA-256 of each module and of every project module that it reaches by imports."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and module != __name__:
            found[module], imports = _source(module)
            waiting.extend(imports)
    return found


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested JSON as (dotted name, value); an artifact is one leaf, its sha256."""
    if isinstance(value, dict) and value.get("kind") == "artifact":
        yield prefix, value["sha256"]
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}.{index}")
    else:
        yield prefix, value


def _json(value: Any) -> Any:
    if isinstance(value, Record):
        # Fragments of tables are written by the stage, not read by the next one: they do not belong to its input.
        return {k: _json(getattr(value, k)) for k in type(value).model_fields if k not in ("tables", "base")}
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    return [_json(v) for v in value] if isinstance(value, (list, tuple)) else value


def artifacts(value: Any) -> Iterator[Artifact]:
    """Every artifact that a result names."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, Record):
        for field in type(value).model_fields:
            yield from artifacts(getattr(value, field))
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from artifacts(item)


class Stage:
    """What is known of a stage besides its function: its name, label and what its key is made of."""

    def __init__(
        self,
        function: Callable[..., Any],
        label: Callable[[dict[str, Any]], str],
        libraries: tuple[str, ...],
        modules: Callable[[dict[str, Any]], tuple[str, ...]] | None,
        extra: Callable[[dict[str, Any]], dict[str, str]] | None,
    ) -> None:
        self.function, self.label_of, self.libraries = function, label, libraries
        self.modules, self.extra = modules, extra
        self.keys: dict[Any, str] = {}
        """Task run -> its key, from the policy to the task's body: parts may hash gigabytes."""

    def parts(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the key is made of, as (readable name -> value); `burnish why` compares these."""
        inputs = {key: value for key, value in inputs.items() if key != "context"}
        modules = (self.function.__module__, *(self.modules(inputs) if self.modules else ()))
        return {
            "stage": self.function.__name__,
            **dict(flatten({key: self._input(value) for key, value in inputs.items()})),
            **{f"source of {name}": sha for name, sha in sorted(sources(*modules).items())},
            **{f"version of {name}": _version(name) for name in self.libraries},
            **(self.extra(inputs) if self.extra else {}),
        }

    def _input(self, value: Any) -> Any:
        from tasks.records import Study

        if isinstance(value, Study):  # aggregate reads the rule and the names; the rest reaches it as rows
            return {"name": value.name, "data": _json(value.data), "select": _json(value.select)}
        if self.function.__name__ == "aggregate" and isinstance(value, dict):  # there the fragments are the input
            return {k: [a.sha256 for a in v] for k, v in value.items()}
        return _json(value)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def digest(parts: dict[str, Any]) -> str:
    """The cache key of what `Stage.parts` gave."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def results(out: str | Path) -> Path:
    """Folder of the stored results, one JSON file a key."""
    return Path(out).absolute() / "store" / "results"


def _stored(context: Context, key: str) -> tuple[bool, str]:
    """(Whether a whole result is stored under the key, else why not). A result that names bad files is removed."""
    path = results(context.out) / key
    if not path.exists():
        return False, ""
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
        hit, broken = _stored(context, key)
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
        LOG.info("%s: cached", label)
    else:
        LOG.info("%s: computing (%s)", label, "; ".join(differs)[:300], extra={"stage": label})


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


def stage(
    label: Callable[[dict[str, Any]], str],
    *,
    libraries: tuple[str, ...] = (),
    modules: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
    extra: Callable[[dict[str, Any]], dict[str, str]] | None = None,
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
    """

    def wrap(function: Callable[..., Any]) -> Task[..., Any]:
        about = Stage(function, label, libraries, modules, extra)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("context", keyword, annotation=Context)

        @wraps(function)
        def run(*, context: Context, **inputs: Any) -> Any:
            name = label(inputs)
            running = TaskRunContext.get()
            key = about.keys.pop(running.task_run.id, None) if running else None
            key = key or digest(about.parts(inputs))  # the policy failed (and said why), or nobody asked it
            scratch = Path(context.out).absolute() / "scratch" / key[:16]
            scratch.mkdir(parents=True, exist_ok=True)
            handler = _OfRun(context, name)
            LOG.addHandler(handler)
            started = time.monotonic()
            try:
                log = logging.getLogger(f"burnish.{name}")
                result = function(Work(Store(Path(context.out) / "store"), scratch, log), **inputs)
                log.info("done in %.1f s", time.monotonic() - started)
            except BaseException as error:
                LOG.error("%s: %s: %s", name, type(error).__name__, error)
                raise
            finally:
                LOG.removeHandler(handler)
                handler.close()
            shutil.rmtree(scratch, ignore_errors=True)
            return result

        signature = inspect.Signature([first, *(p.replace(kind=keyword) for p in parameters)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        made = task(
            run,
            name=function.__name__,
            cache_policy=Verified(about),
            persist_result=True,
            result_serializer="json",
            cache_result_in_memory=False,
            log_prints=False,
        )
        made.about = about  # type: ignore[attr-defined]
        return made

    return wrap


def call(made: Task[..., Any], context: Context, **inputs: Any) -> Any:
    """Run a stage's task now: its results go below the run's artifacts folder, its run is named by its label."""
    name = made.about.label_of(inputs)  # type: ignore[attr-defined]
    here = made.with_options(result_storage=results(context.out), task_run_name=name.replace("{", "(").replace("}", ")"))
    return here(context=context, **inputs)

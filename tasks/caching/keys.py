"""What a cache key is made of: records, hashes of inputs, sources of project modules, versions of libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.records import Artifact, Record, Study

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGES = ("flows", "tasks", "models")
UNCOUNTED = ("tasks.caching.stage", "tasks.caching.keys", "tasks.caching.results", "tasks.caching.why")
"""Modules that decide what is cached, not what comes out."""


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
    except ModuleNotFoundError:
        # `from tasks.records import Study` is no module of that name
        return False


def sources(*modules: str) -> dict[str, str]:
    """SHA-256 of each module and of every project module that it reaches by imports."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in UNCOUNTED:
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
        # Fragments of tables are written by the stage, not read by the next one: they do not belong to its input. Nor
        # do the names of images, which the benchmark alone reads, and says so.
        return {k: _json(getattr(value, k)) for k in type(value).model_fields if k not in ("tables", "base", "names")}
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
        self.computed = 0
        """How often the stage was computed in this process, and not taken from the cache."""

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
        # serve and aggregate read the rule and the names; the rest reaches them as rows
        if isinstance(value, Study):
            return {"name": value.name, "data": _json(value.data), "select": _json(value.select)}
        # fragments are their input
        if self.function.__name__ in ("serve", "aggregate") and isinstance(value, dict):
            return {k: [a.sha256 for a in v] for k, v in value.items()}
        return _json(value)


def _version(library: str) -> str:
    """The version of a library; of ONNX Runtime that of the build which is installed, for a CPU or for CUDA."""
    for name in (library, f"{library}-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "absent"


def digest(parts: dict[str, Any]) -> str:
    """The cache key of what `Stage.parts` gave."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

"""The parts of a cache key: records, hashes of inputs, code of project modules, versions of libraries."""

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

from tasks.records import Artifact, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

PACKAGES = ("flows", "tasks", "models")
CODE = "code of "
"""How the names of the parts of a key begin that are hashes of code."""
UNCOUNTED = ("tasks.caching.stage",)
"""Keys leave out the module that decides what is cached, with what it alone imports: no result depends on it."""
HANDED = "tasks.caching.work"
"""The module of `Work`, which every stage is handed and therefore executes without importing it."""


def _files() -> dict[Path, str]:
    """Return the source of every module of the project, by its path."""
    root = Path(__file__).parents[2]
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {path: path.read_text(encoding="utf-8", errors="surrogateescape") for path in paths}


AT_START = _files()
"""The project's sources as they were when this process began. Keys are made of these: a module that was imported before
somebody edited its file goes on with the old code, and its results must not stand under the new code's key."""


def code(text: str) -> ast.Module:
    """Return the syntax tree of a module's source without comments, docstrings and imports for types alone."""
    return _Executed().visit(ast.parse(text))


class _Executed(ast.NodeTransformer):
    """Removes what is never executed, or has no effect."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Remove docstrings, those of attributes included: any string that stands by itself."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST]:
        """Replace `if TYPE_CHECKING:` by its `else`, which is what is executed."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(other) for other in node.orelse]
        return self.generic_visit(node)


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the SHA-256 of a project module's code, and the project modules that it imports anywhere in it.

    Of a module that has a value named COUNTED, only that value is hashed, and its imports do not count.
    """
    tree = _tree(module)
    if "COUNTED" in _assigned(tree):
        value = importlib.import_module(module).COUNTED
        return hashlib.sha256(repr(value).encode()).hexdigest(), ()
    imported = {name for node in _statements(tree) for name in _imported(node)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imported))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every statement below a node. Most nodes stand in expressions, which hold no statement."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        nested = getattr(node, field, None)
        for statement in nested if isinstance(nested, list) else ():
            yield statement
            yield from _statements(statement)


@cache
def _tree(module: str) -> ast.Module:
    """Return the syntax tree of a project module as `code` makes it."""
    path = _path(module)
    return code(AT_START[path] if path in AT_START else path.read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    """Return the file of a project module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    return Path(spec.origin)


def _assigned(tree: ast.Module) -> set[str]:
    """Return the names that a module gives values to."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the project modules that an import statement needs; of a package, those that the names come from."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_project_module(alias.name))
    elif isinstance(node, ast.ImportFrom) and node.module and _is_project_module(node.module):
        for alias in node.names:
            yield _origin(node.module, alias.name)


@cache
def _origin(module: str, name: str) -> str:
    """Return the module that `from module import name` takes the name from: a package may hand on another's name."""
    if _is_project_module(f"{module}.{name}"):
        return f"{module}.{name}"
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and _is_project_module(node.module):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _origin(node.module, alias.name)
    return module


@cache
def _is_project_module(name: str) -> bool:
    """Return whether `name` is a module of burnish, rather than a library's or a name inside a module."""
    if name.partition(".")[0] not in PACKAGES:
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # `from tasks.records import Study` names no module.
        return False


def sources(*modules: str) -> dict[str, str]:
    """Return the SHA-256 of the code of each module, and of every project module that it reaches by imports."""
    hashes: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in hashes and module not in UNCOUNTED:
            hashes[module], imports = _source(module)
            waiting.extend(imports)
    return hashes


def edited(modules: Iterable[str]) -> list[str]:
    """Return those of some project modules whose code is not what it was when this process began."""
    return [module for module in modules if _is_edited(module)]


def _is_edited(module: str) -> bool:
    path = _path(module)
    if path not in AT_START:
        return False
    try:
        text = path.read_text(encoding="utf-8")
        return text != AT_START[path] and ast.dump(code(text)) != ast.dump(_tree(module))
    except (OSError, SyntaxError):
        # It was removed, or is being written.
        return True


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested JSON as (dotted name, value). An artifact is one leaf, whose value is its sha256."""
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
    """Return a value as JSON, with the fields of its records that belong to a key."""
    if isinstance(value, Record):
        return {k: _json(getattr(value, k)) for k in type(value).model_fields if k not in value.UNCOUNTED}
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    return [_json(v) for v in value] if isinstance(value, (list, tuple)) else value


def artifacts(value: Any) -> Iterator[Artifact]:
    """Yield every artifact that a result names."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, Record):
        for field in type(value).model_fields:
            yield from artifacts(getattr(value, field))
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from artifacts(item)


class Stage:
    """A stage: its function, its label, and what its cache key is made of."""

    def __init__(
        self,
        function: Callable[..., Any],
        label: Callable[[dict[str, Any]], str],
        libraries: tuple[str, ...] | Callable[[dict[str, Any]], tuple[str, ...]],
        modules: Callable[[dict[str, Any]], tuple[str, ...]] | None,
        extra: Callable[[dict[str, Any]], dict[str, str]] | None,
        counted: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        """Keep the stage's function and the arguments of the decorator `stage`, which describes them."""
        self.function = function
        self.label_of = label
        self.libraries = libraries
        self.modules = modules
        self.extra = extra
        self.counted = counted or {}
        """Name of an input -> a function that returns the part of it that belongs to the key, if not all of it does."""
        self.computed = 0
        """How many times the stage was computed in this process, rather than taken from the store."""

    def parts(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the parts of the key, as readable name -> value. `burnish why` compares them."""
        inputs = {key: value for key, value in inputs.items() if key != "context"}
        libraries = self.libraries(inputs) if callable(self.libraries) else self.libraries
        modules = (self.function.__module__, HANDED, *(self.modules(inputs) if self.modules else ()))
        return {
            "stage": self.function.__name__,
            **dict(flatten({key: _json(self.counted.get(key, _all)(value)) for key, value in inputs.items()})),
            **{CODE + name: sha for name, sha in sorted(sources(*modules).items())},
            **{f"version of {name}": _version(name) for name in libraries},
            **(self.extra(inputs) if self.extra else {}),
        }


def _all(value: Any) -> Any:
    return value


def _version(library: str) -> str:
    """Return the version of a library, or of its build for GPUs (onnxruntime-gpu) where that is installed instead."""
    for name in (library, f"{library}-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "absent"


def digest(parts: dict[str, Any]) -> str:
    """Return the cache key: the hash of what `Stage.parts` returned."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

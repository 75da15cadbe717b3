"""Which modules may import which, and other rules for the sources and the tests, checked in their syntax trees."""

import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tasks.records import StageName
from tests.support.paths import ROOT

STAGES = set(get_args(StageName))
PROJECT = {"flows", "tasks", "models"}
PLUGINS = ("datasets", "profilers", "published", "quantizers", "runtimes")
FILES = sorted(p for folder in PROJECT for p in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FOUNDATIONS = {
    "tasks.measure": {"tasks.measure"},
    "tasks.caching.store": {"tasks.machine", "tasks.records"},
    "tasks.records": {"tasks.records"},
    "tasks.tables.schema": {"tasks.tables"},
    "tasks.machine.space": {"tasks.machine"},
}
"""Modules and packages that everything else stands on, with the packages that they may import."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports anywhere: modules, and names imported from modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(path: Path, package: str) -> bool:
    """Return whether a file imports the package or something from it."""
    return any(name == package or name.startswith(package + ".") for name in imports(path))


def test_every_stage_has_its_file_in_tasks():
    assert {p.stem for p in (ROOT / "tasks").glob("*.py")} >= STAGES


def test_every_stage_and_room_of_tasks_has_its_layer():
    """import-linter ignores a package that stands in no layer."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    packages = {name for layer in layers for name in layer.split(" | ")}
    rooms = {path.parent.name for path in (ROOT / "tasks").glob("*/__init__.py")}
    assert packages == {"compare", "flows", "models", *(f"tasks.{name}" for name in STAGES | rooms)}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_layer_allows(path):
    module = module_of(path)
    if not module.startswith("flows"):
        assert not uses(path, "flows"), "only flows imports flows"
    if module.startswith("models"):
        allowed = {"torch", "torchvision", "timm", "models", "safetensors"} | sys.stdlib_module_names
        triton = {"triton"} if module == "models._triton" else set()
        assert {name.split(".")[0] for name in imports(path)} <= allowed | triton
    if path.parent.name in PLUGINS:
        imported_rooms = {name.split(".")[1] for name in imports(path) if name.startswith("tasks.")}
        assert not imported_rooms & STAGES, "plug-ins do not import stages"
    for foundation, allowed_packages in FOUNDATIONS.items():
        if module == foundation or module.startswith(f"{foundation}."):
            assert {
                ".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("tasks.")
            } <= allowed_packages


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_never_import_each_other(folder):
    plugins = {p.stem for p in (ROOT / "tasks" / folder).glob("[!_]*.py")}
    for name in plugins:
        imported_modules = {
            i.split(".")[2]
            for i in imports(ROOT / "tasks" / folder / f"{name}.py")
            if i.count(".") >= 2 and i.startswith(f"tasks.{folder}.")
        }
        assert not imported_modules & (plugins - {name})


def test_only_flows_caching_and_stages_import_prefect():
    allowed = {f"tasks.caching.{name}" for name in ("stage", "limits", "logs")} | {f"tasks.{name}" for name in STAGES}
    modules = {module_of(p) for p in FILES if uses(p, "prefect")}
    assert {name for name in modules if not name.startswith("flows")} <= allowed


def test_only_the_tables_expectations_import_great_expectations():
    modules = {module_of(p) for p in FILES if uses(p, "great_expectations")}
    assert modules == {"tasks.tables.expectations"}


def test_only_a_runtimes_adapter_its_forms_and_the_deployed_server_import_its_library():
    for library in ("onnxruntime", "openvino", "tensorrt"):
        modules = {module_of(p) for p in FILES if uses(p, library)}
        adapters = {f"tasks.runtimes.{library}", f"tasks.runtimes._{library}", f"tasks.profilers.{library}"}
        # `burnish deploy` copies this server, which runs without burnish.
        adapters |= {"flows.commands.deployed.model"}
        # Quantizing and building use the library's tools and do not execute models with it.
        quantizers = {f"tasks.quantizers.{path.stem}" for path in (ROOT / "tasks" / "quantizers").glob("*.py")}
        # A given file is executed as it is, through its own input, to compare burnish's form of it.
        assert modules <= {*adapters, *quantizers, "tasks.build", "tasks.forms.original"}, library


def test_tasks_measure_imports_no_runtime():
    allowed = {"numpy", "scipy", "polars", "tasks"} | set(sys.stdlib_module_names)
    for path in (ROOT / "tasks" / "measure").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_no_module_of_tasks_imports_a_heavy_library_when_it_is_imported():
    heavy_libraries = {
        "torch",
        "torchvision",
        "torch_pruning",
        "torchao",
        "onnx",
        "onnxruntime",
        "openvino",
        "nncf",
        "great_expectations",
        "optuna",
        "sklearn",
        "timm",
    }
    for path in (ROOT / "tasks").rglob("*.py"):
        libraries = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                libraries |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                libraries.add(str(node.module).split(".")[0])
        assert not libraries & heavy_libraries, path


def test_no_module_of_flows_has_the_name_of_a_standard_module():
    """Prefect puts a deployment's folder first on sys.path. There flows/profile.py broke `import cProfile`."""
    hidden_modules = {p.stem for p in (ROOT / "flows").glob("*.py")} & set(sys.stdlib_module_names)
    assert not hidden_modules


def test_nothing_loads_pickles():
    for path in FILES:
        assert not {"pickle", "joblib", "dill", "cloudpickle"} & {name.split(".")[0] for name in imports(path)}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string, with `filled_in` in place of each value that is formatted into it."""
    f_strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in f_strings for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = (part.value if isinstance(part, ast.Constant) else "filled_in" for part in node.values)
            yield node.lineno, "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, re.sub(r"\{\w*(![rsa])?\}", "filled_in", node.value)


def is_program(text: str) -> bool:
    """Return whether a text is Python of three lines or more that imports something."""
    if len([line for line in text.splitlines() if line.strip()]) < 3:
        return False
    try:
        tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def test_no_test_holds_a_program_in_a_string() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in TESTS
        for line, text in texts(ast.parse(path.read_text()))
        if is_program(text)
    ]
    assert not places, "make each a module of tests/programs, and start it with tests.support.programs"


@pytest.mark.parametrize(
    ("source", "holds_program"),
    [
        ("'import os\\nfor i in range(3):\\n    print(os.getpid())'", True),
        ("'    import os\\n    import sys\\n    print(sys)'", True),
        ("f'import sys\\nwith open({path!r}) as file:\\n    print(file.read())'", True),
        ("'import sys\\nsys.path.insert(0, {root!r})\\nprint(1)'.format(root=1)", True),
        # A program of one or two lines may stand in a string.
        ("'import sys; print(sys.path); print(sys.argv)'", False),
        ("'import gc\\nimport math'", False),
        ("'name = 1\\nother = 2\\nthird = 3'", False),
        ("'Whole sentences.\\n\\nThey import nothing.\\nReally.'", False),
    ],
)
def test_a_program_in_a_string_is_told_from_other_text(source: str, holds_program: bool) -> None:
    assert any(is_program(text) for _, text in texts(ast.parse(source))) is holds_program


def test_no_test_changes_sys_path() -> None:
    for path in TESTS:
        calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if re.fullmatch(r"sys\.path\.\w+", call)], path


def test_no_file_of_tests_has_more_than_400_lines() -> None:
    assert not [str(path) for path in TESTS if len(path.read_text().splitlines()) > 400]

"""The house's import rules, read from the sources."""

import ast
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

STAGES = {
    "prepare",
    "ablate",
    "train",
    "tune",
    "augment",
    "prune",
    "export",
    "quantize",
    "qat",
    "build",
    "benchmark",
    "serve",
    "aggregate",
}
PROJECT = {"flows", "tasks", "models"}
FILES = sorted(p for folder in PROJECT for p in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def uses(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imports(path))


def names(paths: list[Path]) -> list[str]:
    return [module_of(p) for p in paths]


def test_there_are_all_ten_stages():
    assert {p.stem for p in (ROOT / "tasks").glob("*.py")} >= STAGES


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_downward(path):
    module = module_of(path)
    if not module.startswith("flows"):
        assert not uses(path, "flows"), "only flows imports flows"
    if module.startswith("models"):
        allowed = {"torch", "torchvision", "timm", "models", "safetensors"} | sys.stdlib_module_names
        triton = {"triton"} if module == "models._triton" else set()
        assert {name.split(".")[0] for name in imports(path)} <= allowed | triton
    if path.parent.name in ("datasets", "runtimes", "profilers", "published"):
        reached = {name.split(".")[1] for name in imports(path) if name.startswith("tasks.")}
        assert not reached & STAGES, "plug-ins do not import stages"
    low = {
        "tasks.measure.clock",
        "tasks.measure.intervals",
        "tasks.measure.metrics",
        "tasks.caching.store",
        "tasks.records",
        "tasks.tables.schema",
        "tasks.machine.space",
    }
    # records is a package
    if ".".join(module.split(".")[:2]) in low:
        reached = {name.split(".")[1] for name in imports(path) if name.startswith("tasks.")}
        assert reached <= {"measure", "metrics", "store", "durable", "locks", "space", "records", "schema"}


@pytest.mark.parametrize("folder", ["datasets", "runtimes", "profilers", "published"])
def test_plugins_never_import_each_other(folder):
    plugins = {p.stem for p in (ROOT / "tasks" / folder).glob("[!_]*.py")}
    for name in plugins:
        reached = {
            i.split(".")[2]
            for i in imports(ROOT / "tasks" / folder / f"{name}.py")
            if i.count(".") >= 2 and i.startswith(f"tasks.{folder}.")
        }
        assert not reached & (plugins - {name})


def test_prefect_is_imported_in_flows_and_caching_alone():
    allowed = {"tasks.caching.stage", *(f"tasks.{stage}" for stage in STAGES)}
    found = {module_of(p) for p in FILES if uses(p, "prefect")}
    assert {name for name in found if not name.startswith("flows")} <= allowed


def test_great_expectations_is_imported_beside_the_tables_alone():
    found = {module_of(p) for p in FILES if uses(p, "great_expectations")}
    assert found <= {"tasks.tables", "tasks.tables.checks", "tasks.tables.data_docs"}


def test_each_runtimes_library_is_imported_in_its_adapter_alone():
    for library in ("onnxruntime", "openvino", "tensorrt"):
        found = {module_of(p) for p in FILES if uses(p, library)}
        adapters = {f"tasks.runtimes.{library}", f"tasks.runtimes._{library}", f"tasks.profilers.{library}"}
        # the server that `burnish deploy` copies: it runs without burnish
        adapters |= {"flows.commands.deployed.model"}
        # Quantizing and building use the same library's tools, not its way to execute.
        assert found <= {*adapters, "tasks.quantize", "tasks.build", "tasks.calibration"}, library


def test_measuring_knows_no_runtime():
    allowed = {"numpy", "polars", "tasks"} | set(sys.stdlib_module_names)
    for name in ("measure", "intervals", "metrics"):
        assert {i.split(".")[0] for i in imports(ROOT / "tasks" / f"{name}.py")} <= allowed


def test_nothing_heavy_is_imported_at_the_top_of_a_stage():
    heavy = {
        "torch",
        "torchvision",
        "torch_pruning",
        "torchao",
        "onnx",
        "onnxruntime",
        "openvino",
        "great_expectations",
        "optuna",
        "sklearn",
        "timm",
    }
    for path in (ROOT / "tasks").rglob("*.py"):
        top = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                top |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                top.add(str(node.module).split(".")[0])
        assert not top & heavy, path


def test_no_module_hides_one_of_the_standard_library_from_a_flow_that_is_run_by_its_path():
    # Prefect puts the folder of a deployment's entry point first on sys.path: flows/profile.py broke `import cProfile`.
    hidden = {p.stem for p in (ROOT / "flows").glob("*.py")} & set(sys.stdlib_module_names)
    assert not hidden


def test_no_pickle():
    for path in FILES:
        assert not {"pickle", "joblib", "dill", "cloudpickle"} & {name.split(".")[0] for name in imports(path)}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path

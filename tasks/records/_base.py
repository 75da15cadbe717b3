"""What all records share: frozen, JSON in and out; plug-ins by file name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Status = Literal["ok", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
StageName = Literal[
    "prepare", "ablate", "train", "tune", "augment", "prune", "export", "quantize", "qat", "build", "benchmark", "serve",
    "aggregate",
]  # fmt: skip

TASKS = Path(__file__).parent.parent


@cache
def plugins(folder: str) -> tuple[str, ...]:
    """Names of the plug-in files in `tasks/<folder>`: discovery is by file name, nothing is imported."""
    return tuple(sorted(p.stem for p in (TASKS / folder).glob("*.py") if not p.stem.startswith("_")))


@cache
def formats(runtime: str) -> tuple[str, ...]:
    """Formats that a runtime executes: `FORMATS` of its file, read without importing it."""
    for node in ast.parse((TASKS / "runtimes" / f"{runtime}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FORMATS":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError(f"tasks/runtimes/{runtime}.py has no FORMATS = (...)")


@cache
def source_settings(source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(`READS`, `NEEDS`) of a data source: which settings of `data` it reads, and which it cannot be without."""
    found = {"READS": (), "NEEDS": ()}
    for node in ast.parse((TASKS / "datasets" / f"{source}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in found:
            found[ast.unparse(node.targets[0])] = tuple(ast.literal_eval(node.value))
    return found["READS"], found["NEEDS"]


MAKES = {
    "onnx": "export.formats must contain 'onnx'",
    "torchscript": "export.formats must contain 'torchscript'",
    "engine": "build.precisions must not be empty",
}
"""What a study must have so that a format is made."""


def known(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise ValueError(f"unknown {what} {value!r}; accepted: {', '.join(accepted)}")
    return value


class Record(BaseModel):
    """Base of all records: frozen, JSON in and out, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

"""What all records share: frozen, JSON in and out; plug-ins by file name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Status = Literal["ok", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
StageName = Literal[
    "prepare", "ablate", "train", "tune", "augment", "prune", "export", "quantize", "qat", "build", "benchmark", "serve",
    "aggregate",
]  # fmt: skip

SkippableStage = Literal["ablate", "tune", "augment", "prune", "quantize", "qat", "build", "serve"]
"""Stages that a study can be without."""

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


AUTO = "auto"
"""Among runtimes or engines' precisions: those that suit the machine that the study runs on."""


def skippable(stage: str) -> str:
    """The stage itself.

    Raises
    ------
    ValueError
        If no study can be without it, or there is no such stage.
    """
    accepted = ", ".join(get_args(SkippableStage))
    if stage in get_args(StageName) and stage not in get_args(SkippableStage):
        raise ValueError(
            f"the stage {stage} cannot be skipped, as later stages need what it makes; accepted: {accepted}"
        )
    if stage not in get_args(StageName):
        raise ValueError(f"there is no stage {stage!r}; accepted: {accepted}")
    return stage


def known(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise ValueError(f"unknown {what} {value!r}; accepted: {', '.join(accepted)}")
    return value


def choices(*values: str) -> WithJsonSchema:
    """Say in a field's JSON schema which texts it takes, so that the form in the Prefect UI offers them."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


class Record(BaseModel):
    """Base of all records: frozen, JSON in and out, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    FORM_ASKS_KIND: ClassVar[bool] = False
    """Whether the form has to ask for `kind`, because records of other kinds can stand in the same place."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Leave `kind`, which is the same in every record of a class, out of the form in the Prefect UI.

        The form shows `properties`. A server that validates values accepts a `kind` that is given all the same.
        """
        schema = handler(core_schema)
        record = handler.resolve_ref_schema(schema)
        if not cls.FORM_ASKS_KIND and "const" in record.get("properties", {}).get("kind", {}):
            constant = record["properties"].pop("kind")["const"]
            record["patternProperties"] = {"^kind$": {"const": constant}}
        return schema

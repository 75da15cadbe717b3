"""What all records share: frozen, JSON in and out; plug-ins by file name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from models._near import meant

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# Every number of a study has a least and a greatest value, so that a slip (epochs = 10^23) is said before anything is
# computed. The greatest is some ten times what anybody has had a use for; it is not what a machine can do.
Epochs = Annotated[int, Field(ge=0, le=10_000)]
"""The longest published trainings take some 1,000."""
SomeEpochs = Annotated[int, Field(ge=1, le=10_000)]
Images = Annotated[int, Field(ge=1, le=10_000_000_000)]
"""LAION-5B, the largest public set, has 5.85 billion."""
Pixels = Annotated[int, Field(ge=1, le=16_384)]
"""Height or width. An image of 16,384 pixels takes 805 MB of uint8, as many as a JPEG decoder gives at a time."""
Batch = Annotated[int, Field(ge=1, le=65_536)]
"""Twice the 32,768 of the largest batches that ImageNet was trained with."""
Batches = Annotated[tuple[Batch, ...], Field(min_length=1, max_length=100)]
Times = Annotated[int, Field(ge=1, le=10_000)]
"""Rounds, trials, steps, processes: each takes seconds at least."""
Queries = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=0, le=8_192)]
"""Linux on x86-64 is built for at most 8,192 processors."""
Channels = Annotated[int, Field(ge=1, le=65_536)]
Mebibytes = Annotated[int, Field(ge=1, le=16_777_216)]
"""16 TiB."""
Seconds = Annotated[float, Field(ge=0, le=604_800)]
"""A week."""
SomeSeconds = Annotated[float, Field(gt=0, le=604_800)]
Minutes = Annotated[float, Field(gt=0, le=10_080)]
"""A week."""
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]
"""An hour."""
Rate = Annotated[float, Field(gt=0, le=1_000)]
"""A learning rate; LARS goes to some 30."""
Decay = Annotated[float, Field(ge=0, le=1_000)]
Difference = Annotated[float, Field(gt=0, le=1_000)]
"""A relative difference of logits."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""NumPy's generators, which Optuna and scikit-learn use, take no larger one."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
Scalar = (
    bool
    | Annotated[int, Field(ge=-1_000_000_000_000, le=1_000_000_000_000)]
    | Annotated[float, Field(ge=-1e12, le=1e12)]
    | Annotated[str, Field(max_length=200)]
)
"""A value of another record's field, which that record checks too."""
PATTERNS = {
    r"^[a-z0-9][a-z0-9_.-]{0,79}$": (
        "1 to 80 lower-case letters, digits and _ . -, of which the first is a letter or a digit"
    ),
    # As pydantic's, Python's and a browser's regular expressions all read it: the form in the Prefect UI has it too.
    r"^[^\x00-\x1f\x7f-\x9f]{0,4096}$": "a path of up to 4,096 characters, none of them a control character",
}
"""What texts must match -> the same in words."""
STUDY, PATH = PATTERNS
ColumnName = Annotated[str, Field(min_length=1, max_length=1_000)]
"""A column of a table."""
StudyName = Annotated[str, Field(pattern=STUDY)]
PathText = Annotated[str, Field(pattern=PATH)]
"""A path or an address: no control characters, at most as long as Linux takes it."""
Status = Literal["ok", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
StageName = Literal[
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
]

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
        hint = meant(stage, get_args(SkippableStage))
        raise ValueError(f"there is no stage {stage!r}; {hint}accepted: {accepted}")
    return stage


def known(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise ValueError(f"unknown {what} {value!r}; {meant(value, accepted)}accepted: {', '.join(accepted)}")
    return value


def choices(*values: str) -> WithJsonSchema:
    """Say in a field's JSON schema which texts it takes, so that the form in the Prefect UI offers them."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


class Record(BaseModel):
    """Base of all records: frozen, JSON in and out, unknown keys and numbers that are not finite refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    UNCOUNTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that belong to no cache key of a stage that is given the record, because no stage reads them from it."""
    FORM_ASKS_KIND: ClassVar[bool] = False
    """Whether the form has to ask for `kind`, because records of other kinds can stand in the same place."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        """Whether the same value may stand several times in a list. A record in which that means something says so."""
        return False

    @field_validator("*")
    @classmethod
    def _each_once(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, tuple) and info.field_name and not cls.may_repeat(info.field_name):
            shown = [repr(getattr(entry, "label", entry)) for entry in value]
            twice = next((entry for number, entry in enumerate(shown) if entry in shown[:number]), None)
            if twice is not None:
                raise ValueError(f"each may stand once, got {twice} several times")
        return value

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

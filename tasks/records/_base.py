"""The base class of all records, the types of their fields, and the names of plug-ins."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from models._suggestion import suggestion

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

MOST_IMAGES_PER_BATCH = 65_536
"""Twice the 32,768 of the largest batches that ImageNet was trained with."""
MOST_THREADS = 8_192
"""Linux on x86-64 is built for at most 8,192 processors."""
MOST_SECONDS = 604_800
"""A week."""
MOST_MINUTES = 10_080
"""A week."""
MOST_MILLISECONDS = 3_600_000
"""An hour."""
MOST_MEGABYTES = 16_000_000
"""16 TB."""
# Every number of a study has a least and a greatest value, so that a slip (epochs = 10^23) is refused before anything
# is computed. The greatest is about ten times what anybody has had a use for; it does not say what a machine can do.
Epochs = Annotated[int, Field(ge=0, le=10_000)]
"""The longest published trainings take about 1,000 epochs."""
SomeEpochs = Annotated[int, Field(ge=1, le=10_000)]
Images = Annotated[int, Field(ge=1, le=10_000_000_000)]
"""LAION-5B, the largest public set of images, has 5.85 billion."""
Pixels = Annotated[int, Field(ge=1, le=16_384)]
"""Height or width. A colour image of 16,384 pixels each way takes 805 MB as uint8."""
Batch = Annotated[int, Field(ge=1, le=MOST_IMAGES_PER_BATCH)]
"""Images per batch."""
Batches = Annotated[tuple[Batch, ...], Field(min_length=1, max_length=100)]
Times = Annotated[int, Field(ge=1, le=10_000)]
"""A number of rounds, trials, steps or processes, each of which takes seconds at least."""
Queries = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=0, le=MOST_THREADS)]
Channels = Annotated[int, Field(ge=1, le=65_536)]
Mebibytes = Annotated[int, Field(ge=1, le=16_777_216)]
"""At most 16 TiB."""
Megabytes = Annotated[float, Field(gt=0, le=MOST_MEGABYTES)]
"""Of 10⁶ bytes, as sizes are shown."""
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS)]
SomeSeconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]
Minutes = Annotated[float, Field(gt=0, le=MOST_MINUTES)]
Milliseconds = Annotated[float, Field(gt=0, le=MOST_MILLISECONDS)]
Rate = Annotated[float, Field(gt=0, le=1_000)]
"""A learning rate. The largest in use, with the optimizer LARS, are about 30."""
Decay = Annotated[float, Field(ge=0, le=1_000)]
Difference = Annotated[float, Field(gt=0, le=1_000)]
"""A difference between logits, relative to the largest logit."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""NumPy's older generators, which Optuna and scikit-learn use, take no larger seed."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
Scalar = (
    bool
    | Annotated[int, Field(ge=-1_000_000_000_000, le=1_000_000_000_000)]
    | Annotated[float, Field(ge=-1e12, le=1e12)]
    | Annotated[str, Field(max_length=200)]
)
"""A value for a field of another record, which checks it too."""
PATTERNS = {
    r"^[a-z0-9][a-z0-9_.-]{0,79}$": (
        "1 to 80 lower-case letters, digits and _ . -, of which the first is a letter or a digit"
    ),
    # Pydantic, Python and the browser that shows Prefect's form must all read this regular expression alike.
    r"^[^\x00-\x1f\x7f-\x9f]{0,4096}$": "a path of up to 4,096 characters, none of them a control character",
}
"""Regular expression that a text must match -> what the expression says, in words."""
STUDY, PATH = PATTERNS
ColumnName = Annotated[str, Field(min_length=1, max_length=1_000)]
"""The name of a column of a user's table."""
StudyName = Annotated[str, Field(pattern=STUDY)]
PathText = Annotated[str, Field(pattern=PATH)]
"""A path or an address, without control characters and at most as long as Linux allows."""
Status = Literal["ok", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
StageName = Literal[
    "inspect",
    "label",
    "prepare",
    "adopt",
    "ablate",
    "train",
    "tune",
    "augment",
    "prune",
    "export",
    "quantize",
    "qat",
    "build",
    "rank",
    "search",
    "choose",
    "configure",
    "benchmark",
    "serve",
    "aggregate",
]

SkippableStage = Literal["ablate", "tune", "augment", "prune", "quantize", "qat", "build", "search", "serve"]
"""Stages that a study can leave out."""

TASKS = Path(__file__).parent.parent


@cache
def plugins(folder: str) -> tuple[str, ...]:
    """Return the names of the plug-in files in `tasks/<folder>`, without importing them."""
    return tuple(sorted(p.stem for p in (TASKS / folder).glob("*.py") if not p.stem.startswith("_")))


@cache
def formats(runtime: str) -> tuple[str, ...]:
    """Return the formats that a runtime executes: `FORMATS` of its file, read without importing it.

    Raises
    ------
    ValueError
        If the file cannot be parsed, or has no such tuple of texts.
    """
    written = _constants("runtimes", runtime, ("FORMATS",))
    if "FORMATS" not in written:
        raise ValueError(f'tasks/runtimes/{runtime}.py has no line such as FORMATS = ("onnx",)')
    return written["FORMATS"]


@cache
def source_settings(source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which settings of `data` a data source reads, and which it needs: `READS` and `NEEDS` of its file."""
    written = _constants("datasets", source, ("READS", "NEEDS"))
    return written.get("READS", ()), written.get("NEEDS", ())


@cache
def quantizers() -> dict[str, str]:
    """Return the quantizer of each int8 setting: `SETTINGS` of the files in tasks/quantizers, read without importing.

    Raises
    ------
    ValueError
        If two files have a setting of the same name.
    """
    owners: dict[str, str] = {}
    for name in plugins("quantizers"):
        for setting in _constants("quantizers", name, ("SETTINGS",)).get("SETTINGS", ()):
            if setting in owners:
                raise ValueError(f"tasks/quantizers/{owners[setting]}.py and {name}.py both have the setting {setting}")
            owners[setting] = name
    return owners


def _constants(folder: str, name: str, wanted: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the tuples that a plug-in's file gives to names at its top level, of those in `wanted`."""
    path = TASKS / folder / f"{name}.py"
    written: dict[str, tuple[str, ...]] = {}
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise ValueError(f"tasks/{folder}/{name}.py, line {error.lineno}: {error.msg}") from None
    for node in body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        if target not in wanted:
            continue
        try:
            written[target] = tuple(ast.literal_eval(node.value))
        except (ValueError, TypeError):
            raise ValueError(
                f"tasks/{folder}/{name}.py, line {node.lineno}: {target} must be written out as a tuple of texts, "
                "because it is read without importing the file"
            ) from None
    return written


QUANTIZE_SETTINGS = tuple(quantizers())
"""Names of the settings of all quantizers (tasks/quantizers)."""
MAKES = {
    "onnx": "export.formats must contain 'onnx'",
    "torchscript": "export.formats must contain 'torchscript'",
    "engine": "build.precisions must not be empty",
}
"""Format -> what the study's settings must say, so that a stage makes files of it."""
AUTO = "auto"
"""In a list of runtimes or of engines' precisions: those that suit the machine that the study runs on."""


def skippable(stage: str) -> str:
    """Return the name `stage`, if a study can leave that stage out.

    Raises
    ------
    ValueError
        If no study can leave it out, or if there is no such stage.
    """
    accepted = ", ".join(get_args(SkippableStage))
    if stage in get_args(StageName) and stage not in get_args(SkippableStage):
        raise ValueError(
            f"the stage {stage} cannot be skipped, as later stages need what it makes; accepted: {accepted}"
        )
    if stage not in get_args(StageName):
        hint = suggestion(stage, get_args(SkippableStage))
        raise ValueError(f"there is no stage {stage!r}; {hint}accepted: {accepted}")
    return stage


def known(value: str, accepted: tuple[str, ...], noun: str) -> str:
    """Return `value`, if it is one of those accepted. Else raise a ValueError that calls it an unknown `noun`."""
    if value not in accepted:
        listed = ", ".join(name for name in accepted if name)
        raise ValueError(f"unknown {noun} {value!r}; {suggestion(value, accepted)}accepted: {listed}")
    return value


def choices(*values: str) -> WithJsonSchema:
    """Say in a field's JSON schema which texts it takes, so that the form in Prefect's UI offers them."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


class Record(BaseModel):
    """Base of all records: frozen, JSON in and out. Unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    UNCOUNTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that are left out of the cache keys of stages that take this record, because no stage reads them from
    it."""
    FORM_ASKS_KIND: ClassVar[bool] = False
    """Whether Prefect's form has to ask for `kind`, because records of other kinds can stand in the same place."""

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        """Return whether the list `field` may hold a value several times. Some records override this."""
        return False

    @field_validator("*")
    @classmethod
    def _each_once(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, tuple) and info.field_name and not cls.may_repeat(info.field_name):
            entries = [repr(getattr(entry, "label", entry)) for entry in value]
            for number, entry in enumerate(entries):
                if entry in entries[:number]:
                    raise ValueError(f"each may stand once, got {entry} several times")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Leave `kind`, which is the same in every record of a class, out of the form in Prefect's UI.

        The form shows only `properties`. A server that validates values still accepts a `kind`.
        """
        schema = handler(core_schema)
        record = handler.resolve_ref_schema(schema)
        if not cls.FORM_ASKS_KIND and "const" in record.get("properties", {}).get("kind", {}):
            constant = record["properties"].pop("kind")["const"]
            record["patternProperties"] = {"^kind$": {"const": constant}}
        return schema

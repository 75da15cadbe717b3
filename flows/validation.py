"""Put into words what pydantic finds wrong with a study's values."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from flows import hints
from tasks.records import PATTERNS, Choice, Range, Study

LONGEST = 4_000
"""Greatest number of characters that are shown of a message, or of a value in it."""


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return a message as one line without control characters. The middle of a long message is left out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} … {shown[-longest // 2 :]}"


def describe(error: Any) -> str:
    """Return in words one of the errors that pydantic lists."""
    location = [str(part) for part in error["loc"]]
    if location[:2] == ["tune", "space"]:
        # pydantic adds to the keys which kind of record it tried: range or choice.
        del location[3:4]
    scalar = len(location) > 1 and location[-1] in ("bool", "constrained-int", "constrained-float", "constrained-str")
    # pydantic adds to the keys which type of value it tried.
    if scalar:
        del location[-1]
    key = one_line(".".join(location), 100)
    if error["type"] == "extra_forbidden":
        return _unknown_key(error, location, key)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if scalar:
        message = "expected true, false, a number from -1e12 to 1e12 or a text of up to 200 characters"
    if error["type"] == "literal_error":
        message = f"{message}; {hints.nearest_choice(error['input'], error['ctx']['expected'])}".rstrip("; ")
    if error["type"] == "tuple_type":
        message = hints.as_list(key, error["input"])
    if error["type"] == "too_short":
        message = f"expected at least 1 entry, e.g. {hints.example_of(key)}"
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message = "expected a table, which TOML writes {key = value}"
    if error["type"] == "string_too_short":
        message = "expected a text that is not empty"
    if error["type"] == "string_pattern_mismatch":
        message = f"expected {PATTERNS[error['ctx']['pattern']]}"
    value = f" (got {one_line(repr(error['input']), 60)})"
    if isinstance(error["input"], dict) or error["type"] in ("missing", "value_error"):
        value = ""
    return f"{key + ': ' if key else ''}{message}{value}"


def _unknown_key(error: Any, location: list[str], key: str) -> str:
    """Return in words that a study has no such key, and which keys are accepted in its place."""
    kinds: dict[str, type[BaseModel]] = {"range": Range, "choice": Choice}
    record = kinds[error["loc"][3]] if location[:2] == ["tune", "space"] else record_at(location[:-1])
    accepted = [name for name in record.model_fields if name != "kind"] if record else []
    hint = hints.nearest_key(location[-1], accepted, top=len(location) == 1)
    return f"unknown key {key}; {hint}{'.'.join(location[:-1]) or 'a study'} accepts {', '.join(accepted)}"


def record_at(path: list[str]) -> type[BaseModel] | None:
    """Return the class of the record at a dotted path of a study; None where there is no record."""
    record: Any = Study
    for name in path:
        # A number is the place in a list, whose entries all have the same class.
        if name.isdecimal():
            continue
        if not (isinstance(record, type) and issubclass(record, BaseModel)) or name not in record.model_fields:
            return None
        record = _record_in(record.model_fields[name].annotation)
    return record


def _record_in(annotation: Any) -> Any:
    """Return the first record class in a field's annotation, such as `Model` in `tuple[Model, ...]`, or None.

    Ranges and choices do not count: two classes can stand there, so that the annotation does not tell which one does.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        record = _record_in(argument)
        if record is not None and record not in (Range, Choice):
            return record
    return None

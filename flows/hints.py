"""Hints for a setting that is refused: the nearest key, the nearest choice, or how the value is written as a list."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models._suggestion import suggestion
from tasks.records import Study

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def nearest_key(key: str, accepted: Sequence[str], *, top: bool) -> str:
    """Return a question that names the accepted key nearest to an unknown one; empty where none is near.

    A key may be abbreviated by its initials, as lr. At the top of a study, it may name the sections that have such a
    key.
    """
    hint = suggestion(key, accepted) or suggestion(_abbreviated(key, accepted), accepted)
    if hint or not top:
        return hint
    sections = {name: getattr(field.annotation, "model_fields", {}) for name, field in Study.model_fields.items()}
    keys = {section: key if key in fields else _abbreviated(key, fields) for section, fields in sections.items()}
    dotted = [f"{section}.{found}" for section, found in keys.items() if found]
    return f"did you mean {' or '.join(dotted)}? " if dotted else ""


def _abbreviated(key: str, accepted: Iterable[str]) -> str:
    """Return the accepted key whose words begin with the letters of `key`, such as learning_rate for lr, or ""."""
    initials = {"".join(word[0] for word in name.split("_")): name for name in accepted if "_" in name}
    return initials.get(key, "")


def nearest_choice(value: object, message: str) -> str:
    """Return a question that names the choice nearest to a value; `message` is pydantic's, which lists the choices."""
    return suggestion(value, re.findall(r"'([^']*)'", message)) if isinstance(value, str) else ""


def as_list(key: str, value: object) -> str:
    """Return how a value that is no list is written as one, e.g. models=["lenet5"]."""
    # The text is JSON, or a table outside a list.
    if isinstance(value, str) and "{" in value:
        return f'expected a list in TOML, where a table is written {{name = value}}, e.g. {key}=[{{name="lenet5"}}]'
    entries = ""
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip().strip("[]").split(",")]
        entries = ", ".join(_entry(part) for part in parts if part)
    elif isinstance(value, (bool, int, float)):
        entries = json.dumps(value)
    example = f"{key}=[{entries}]"
    return f"expected a list, e.g. {example if _is_accepted(key, f'[{entries}]') else example_of(key)}"


def example_of(key: str) -> str:
    """Return a list that the key takes, as `--set` writes it: its value in a study without settings, if that has one.

    Where that is empty or the key has no default, an ellipsis stands for the entries.
    """
    default: Any = Study()
    for name in key.split("."):
        default = getattr(default, name, None)
    entries = [getattr(entry, "name", entry) for entry in default or ()] if isinstance(default, tuple) else []
    return f"{key}=[{', '.join(map(json.dumps, entries)) or '…'}]"


def _is_accepted(key: str, text: str) -> bool:
    """Return whether a study takes a list, written in TOML, as the value of a key, as far as that key alone goes."""
    section, _, field = key.partition(".")
    value = tomllib.loads(f"value = {text}")["value"]
    try:
        Study.model_validate({section: {field: value} if field else value})
    except ValidationError as error:
        place = tuple(key.split("."))
        return bool(text.strip("[]")) and all(entry["loc"][: len(place)] != place for entry in error.errors())
    return bool(text.strip("[]"))


def _entry(text: str) -> str:
    """Return an entry of a list in TOML; a text that is no TOML becomes a string."""
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, KeyError):
        return json.dumps(text.strip("'\""), ensure_ascii=False)
    return text if isinstance(value, (bool, int, float, str)) else json.dumps(text)

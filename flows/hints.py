"""Hints for a setting that is refused: the nearest key, the nearest choice, or how the value is written as a list."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from models._suggestion import suggestion
from tasks.records import Study

if TYPE_CHECKING:
    from collections.abc import Sequence


def nearest_key(key: str, accepted: Sequence[str], *, top: bool) -> str:
    """Return a question that names the accepted key nearest to an unknown one; empty where none is near.

    At the top of a study, it may name the sections that have such a key.
    """
    hint = suggestion(key, accepted)
    if hint or not top:
        return hint
    sections = {name: getattr(field.annotation, "model_fields", {}) for name, field in Study.model_fields.items()}
    dotted = [f"{section}.{key}" for section, fields in sections.items() if key in fields]
    return f"did you mean {' or '.join(dotted)}? " if dotted else ""


def nearest_choice(value: object, message: str) -> str:
    """Return a question that names the choice nearest to a value; `message` is pydantic's, which lists the choices."""
    return suggestion(value, re.findall(r"'([^']*)'", message)) if isinstance(value, str) else ""


def as_list(key: str, value: object) -> str:
    """Return how a value that is no list is written as one, e.g. models=["lenet5"]."""
    # The text is JSON, or a table outside a list.
    if isinstance(value, str) and "{" in value:
        return f'expected a list in TOML, where a table is written {{name = value}}, e.g. {key}=[{{name="lenet5"}}]'
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip().strip("[]").split(",")]
        entries = ", ".join(_entry(part) for part in parts if part)
    else:
        entries = json.dumps(value) if isinstance(value, (bool, int, float)) else "…"
    return f"expected a list, e.g. {key}=[{entries}]"


def _entry(text: str) -> str:
    """Return an entry of a list in TOML; a text that is no TOML becomes a string."""
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, KeyError):
        return json.dumps(text.strip("'\""), ensure_ascii=False)
    return text if isinstance(value, (bool, int, float, str)) else json.dumps(text)

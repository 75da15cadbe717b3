"""What would be right in place of a setting that is refused: the nearest key or choice, and the form of a list."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from models._near import meant
from tasks.records import Study

if TYPE_CHECKING:
    from collections.abc import Sequence


def of_key(key: str, accepted: Sequence[str], *, top: bool) -> str:
    """For an unknown key: the nearest one, or at the top of a study the sections that have such a key."""
    hint = meant(key, accepted)
    if hint or not top:
        return hint
    sections = {name: getattr(field.annotation, "model_fields", {}) for name, field in Study.model_fields.items()}
    found = [f"{section}.{key}" for section, fields in sections.items() if key in fields]
    return f"did you mean {' or '.join(found)}? " if found else ""


def of_choice(given: object, message: str) -> str:
    """For a text that is none of the choices which a message of pydantic lists."""
    return meant(given, re.findall(r"'([^']*)'", message)) if isinstance(given, str) else ""


def as_list(key: str, given: object) -> str:
    """The value that was given for a list, in the form that is accepted, e.g. models=["lenet5"]."""
    # JSON, or a table outside a list
    if isinstance(given, str) and "{" in given:
        return f'expected a list in TOML, where a table is written {{name = value}}, e.g. {key}=[{{name="lenet5"}}]'
    if isinstance(given, str):
        parts = [part.strip() for part in given.strip().strip("[]").split(",")]
        value = ", ".join(map(_entry, filter(None, parts)))
    else:
        value = json.dumps(given) if isinstance(given, (bool, int, float)) else "…"
    return f"expected a list, e.g. {key}=[{value}]"


def _entry(text: str) -> str:
    """An entry of a list in TOML; what is not TOML is a string."""
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, KeyError):
        return json.dumps(text.strip("'\""), ensure_ascii=False)
    return text if isinstance(value, (bool, int, float, str)) else json.dumps(text)

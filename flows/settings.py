"""A study as text: TOML in and out, `--set key=value`, and one clear line for each mistake."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from flows import hints
from models._near import meant
from tasks.datasets._filekinds import BYTE_ORDER_MARKS, irregular
from tasks.records import PATTERNS, Choice, Range, Study, skippable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Mistake(ValueError):
    """Something the user wrote is wrong; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def plain(record: BaseModel) -> dict[str, Any]:
    """JSON of a record without nulls (TOML has none) and without the `kind` that the place already tells."""

    def clean(value: Any, keep: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                k: clean(v, k == "space" or keep) for k, v in value.items() if v is not None and (k != "kind" or keep)
            }
        return [clean(v) for v in value] if isinstance(value, list) else value

    return clean(record.model_dump(mode="json"))


def changed_settings(study: Study) -> dict[str, Any]:
    """Return what differs between a study and `Study()`, as JSON: of each record only the fields with another value."""

    def differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    defaults = plain(Study())
    parts = {}
    for name, value in differing(plain(study), defaults).items():
        is_record = isinstance(getattr(study, name), BaseModel)
        parts[name] = differing(value, defaults[name]) if is_record else value
    return parts


def to_toml(study: Study) -> str:
    """The whole study as TOML, each key with what it means."""
    import tomli_w

    lines: list[str] = []
    record: type[BaseModel] | None = Study
    for line in tomli_w.dumps(plain(study)).splitlines():
        if line.startswith("["):
            path = line.strip("[]").split(".")
            record = _record_at(path)
            lines.append(line)
            lines.extend(_unset(study, path, record))
            continue
        key = line.partition(" =")[0]
        if record is not None and key in record.model_fields and line.startswith(key + " ="):
            about = record.model_fields[key].description
            lines.extend(f"# {part}" for part in (about or "").splitlines())
        lines.append(line)
    return "\n".join(lines) + "\n"


def _unset(study: Study, path: list[str], record: type[BaseModel] | None) -> list[str]:
    """Comment lines for the keys of a section that are unset: TOML has no null."""
    value: Any = study
    for name in path:
        value = getattr(value, name, None)
    if record is None or not isinstance(value, record):
        return []
    unset = [name for name in record.model_fields if getattr(value, name) is None]
    about = {name: (record.model_fields[name].description or "").splitlines() for name in unset}
    return [f"# {part}" for name in unset for part in (*about[name], f"{name} =")]


def _record_at(path: list[str]) -> type[BaseModel] | None:
    """The record that a dotted path of a study leads to."""
    found: Any = Study
    for name in path:
        if name.isdecimal():
            continue
        if not (isinstance(found, type) and issubclass(found, BaseModel)) or name not in found.model_fields:
            return None
        found = _record_in(found.model_fields[name].annotation)
    return found


def _record_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((r for a in get_args(annotation) if (r := _record_in(a)) and r not in (Range, Choice)), None)


LONGEST = 4_000
"""Characters of a message, or of a value in it, that are shown."""
DEEP = "nested too deeply; a study has at most five levels"
DOTTED = re.compile(r"""(?<![\w-])(?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]+|"[^"\n]*"|'[^'\n]*')){50}""")
"""A dotted key of more than fifty levels: tomllib takes 17 s for one of 20,000."""
LARGEST = 1_000_000
"""Bytes of a study's file; the longest preset has some 20,000."""


def one_line(text: object, longest: int = LONGEST) -> str:
    """A message as one line that a terminal shows as it is: no control characters, the middle of what is long left
    out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} … {shown[-longest // 2 :]}"


def _toml(text: str) -> dict[str, Any]:
    """What a text in TOML says; RecursionError where it is nested too deeply."""
    if DOTTED.search(text):
        raise RecursionError
    return tomllib.loads(text)


def repeated(settings: Sequence[str]) -> list[str]:
    """What to tell of each key that `--set` gives several values: the last one counts."""
    keys = [setting.partition("=")[0].strip() for setting in settings]
    last = dict(zip(keys, settings, strict=True))
    return [
        f"--set {one_line(key, 100)} is given {count} times; the last one counts: {one_line(last[key], 200)}"
        for key, count in Counter(keys).items()
        if count > 1
    ]


def _value(key: str, text: str) -> Any:
    """A value as TOML writes it; what is not TOML is a string."""
    try:
        found = _toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except RecursionError:
        raise Mistake(f"--set {key}: {DEEP}") from None
    except ValueError:
        # Python reads no whole number of more than 4,300 digits
        raise Mistake(f"--set {key}: a number of {len(text)} digits is too long") from None
    # text of several lines may hold more keys
    return found["value"] if len(found) == 1 else text


def _refuse_bytes(setting: str) -> None:
    """Refuse bytes that are no text: a study is written as TOML, which is UTF-8."""
    if (readable := setting.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")) != setting:
        raise Mistake(
            f"--set {readable}: these bytes are no UTF-8; rename the file, or give a link to it whose name is"
        )


def apply(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Set dotted keys (``train.epochs=3``, ``models.0.width=8``, ``benchmark.batch_sizes=[1, 8]``) in a study's
    JSON."""
    for setting in settings:
        _refuse_bytes(setting)
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise Mistake(f"--set {setting}: expected key=value, e.g. train.epochs=3")
        place: Any = values
        *path, last = key.split(".")
        for step, name in enumerate(path):
            if isinstance(place, list):
                place = place[_entry(place, name, key, ".".join(path[:step]))]
            else:
                place = place.setdefault(name, {})
            if not isinstance(place, (dict, list)):
                raise Mistake(f"--set {key}: {'.'.join(path[: step + 1])} is a value, it has no {last!r}")
        where = _entry(place, last, key, ".".join(path)) if isinstance(place, list) else last
        place[where] = _value(key, text.strip())
    return values


def _entry(entries: list[Any], name: str, key: str, path: str) -> int:
    """The index that a part of a dotted key names in a list."""
    if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(entries)):
        there = f"entries 0 to {len(entries) - 1}" if entries else "no entries"
        raise Mistake(f"--set {one_line(key, 100)}: {path} has {there}, not {one_line(name, 60)!r}")
    return int(name)


def study_from(values: dict[str, Any], where: str) -> Study:
    """A study from JSON values, strictly typed; a mistake names the key, what was given and what is accepted."""
    try:
        return Study.model_validate_json(json.dumps(values, default=str), strict=True)
    except RecursionError:
        raise Mistake(f"{where}: {DEEP}") from None
    except ValidationError as error:
        # A list with a wrong entry is also reported as too short; the entry is what is wrong.
        errors = [e for e in error.errors() if e["type"] != "too_short" or len(error.errors()) == 1]
        raise Mistake(f"{where}: " + "; ".join(dict.fromkeys(_line(e) for e in errors))) from None


def _line(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    if location[:2] == ["tune", "space"]:
        # which kind of interval was tried: pydantic's word, not a key
        del location[3:4]
    scalar = len(location) > 1 and location[-1] in ("bool", "constrained-int", "constrained-float", "constrained-str")
    # which type was tried: pydantic's word, not a key
    if scalar:
        del location[-1]
    key = one_line(".".join(location), 100)
    if error["type"] == "extra_forbidden":
        tags: dict[str, type[BaseModel]] = {"range": Range, "choice": Choice}
        record = tags[error["loc"][3]] if location[:2] == ["tune", "space"] else _record_at(location[:-1])
        accepted = [name for name in record.model_fields if name != "kind"] if record else []
        hint = hints.of_key(location[-1], accepted, top=len(location) == 1)
        return f"unknown key {key}; {hint}{'.'.join(location[:-1]) or 'a study'} accepts {', '.join(accepted)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if scalar:
        message = "expected true, false, a number from -1e12 to 1e12 or a text of up to 200 characters"
    if error["type"] == "literal_error":
        message = f"{message}; {hints.of_choice(error['input'], error['ctx']['expected'])}".rstrip("; ")
    if error["type"] == "tuple_type":
        message = hints.as_list(key, error["input"])
    if error["type"] == "string_pattern_mismatch":
        message = f"expected {PATTERNS[error['ctx']['pattern']]}"
    told = one_line(repr(error["input"]), 60)
    given = "" if isinstance(error["input"], dict) or error["type"] == "missing" else f" (got {told})"
    if error["type"] == "value_error":
        given = ""
    return f"{key + ': ' if key else ''}{message}{given}"


def load(name: str, settings: list[str], scale: str | None = None, skip: Sequence[str] = ()) -> Study:
    """The study of a preset (at a scale, if it has several) or a TOML file, with `--set` and then `--skip` applied.

    Raises
    ------
    Mistake
        For an unknown preset, an unreadable file, an unknown key, a wrong type or an impossible combination.
    """
    from pathlib import Path

    from flows.presets import presets, scaled

    known = presets()
    if scale and not (name in known and scaled(name)):
        raise Mistake(f"--scale: {name} has one scale alone; {', '.join(filter(scaled, known))} have several")
    if name in known:
        values = plain(known[name](scale) if scale else known[name]())
    elif name.endswith(".toml"):
        values = _read(Path(name))
    elif Path(name).exists():
        kind = "images are given as --set data.path=" + name if Path(name).is_dir() else "a study's file ends in .toml"
        raise Mistake(f"{name!r} is no preset; {kind}")
    else:
        raise Mistake(
            f"unknown preset {name!r}; {meant(name, known)}accepted: {', '.join(known)}, or a file ending in .toml"
        )
    study_from(values, name)
    values = apply(values, settings)
    study_from(values, "--set" if settings else name)
    for stage in skip:
        try:
            values["skip"] = list(dict.fromkeys([*values.get("skip", []), skippable(stage)]))
        except ValueError as error:
            raise Mistake(f"--skip {stage}: {error}") from None
    return study_from(values, "--skip")


def _read(path: Path) -> dict[str, Any]:
    if what := irregular(path):
        raise Mistake(f"{path} is {what}, not a regular file; a study is a file in TOML")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Mistake(f"{path}: it has more than {LARGEST} bytes, which no study needs; is it another file?")
        return {"name": path.stem, **_toml(_text(content, path))}
    except Mistake:
        raise
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise Mistake(f"{path}: {DEEP}") from None
    except ValueError as error:
        # not TOML, or a whole number of more than 4,300 digits
        raise Mistake(f"{path}: not TOML: {error}") from None


def _text(content: bytes, path: Path) -> str:
    """A file's text with the line ends of Python, and without the mark that Notepad puts before UTF-8."""
    if content.startswith(BYTE_ORDER_MARKS) or b"\0" in content:
        what = "in UTF-16, or no text"
    else:
        try:
            return content.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            what = f"not in UTF-8 (byte {error.start + 1} is {content[error.start]:#04x})"
    raise Mistake(f"{path}: the file is {what}; TOML is written in UTF-8, so save it so in the editor")

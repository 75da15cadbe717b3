"""Read and write a study as text: TOML, `--set key=value`, and one clear line per mistake."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from flows.validation import describe, one_line, record_at
from models._suggestion import suggestion
from tasks.datasets._filekinds import BYTE_ORDER_MARKS, irregular
from tasks.records import Study, skippable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Mistake(ValueError):
    """Something that the user wrote is wrong. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def plain(record: BaseModel) -> dict[str, Any]:
    """Return a record as JSON without nulls, which TOML has not, and without `kind` where only one kind can stand."""

    def clean(value: Any, keep_kind: bool = False) -> Any:
        if isinstance(value, list):
            return [clean(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        # In tune.space stand ranges and choices, which `kind` tells apart.
        return {
            name: clean(part, keep_kind or name == "space")
            for name, part in value.items()
            if part is not None and (keep_kind or name != "kind")
        }

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
    """Return the whole study as TOML, with a comment above each key that says what it means."""
    import tomli_w

    lines: list[str] = []
    record: type[BaseModel] | None = Study
    for line in tomli_w.dumps(plain(study)).splitlines():
        if line.startswith("["):
            path = line.strip("[]").split(".")
            record = record_at(path)
            lines.append(line)
            lines.extend(_unset(study, path, record))
            continue
        key = line.partition(" =")[0]
        if record is not None and key in record.model_fields and line.startswith(key + " ="):
            description = record.model_fields[key].description or ""
            lines.extend(f"# {comment}" for comment in description.splitlines())
        lines.append(line)
    return "\n".join(lines) + "\n"


def _unset(study: Study, path: list[str], record: type[BaseModel] | None) -> list[str]:
    """Return comment lines for the keys of a section that are unset, because TOML has no null."""
    value: Any = study
    for name in path:
        value = getattr(value, name, None)
    if record is None or not isinstance(value, record):
        return []
    lines = []
    for name, field in record.model_fields.items():
        if getattr(value, name) is None:
            lines += [f"# {line}" for line in (field.description or "").splitlines()]
            lines.append(f"# {name} =")
    return lines


DEEP = "nested too deeply; a study has at most five levels"
DOTTED = re.compile(r"""(?<![\w-])(?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]+|"[^"\n]*"|'[^'\n]*')){50}""")
"""Matches a dotted key of more than fifty levels. tomllib takes 17 s for one of 20,000 levels."""
LARGEST = 1_000_000
"""Greatest size of a study's file, in bytes. The longest preset has some 20,000."""


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML; raise RecursionError where it is nested too deeply."""
    if DOTTED.search(text):
        raise RecursionError
    return tomllib.loads(text)


def repeated(settings: Sequence[str]) -> list[str]:
    """Return a note for the user on each key that `--set` gives several values, of which the last one counts."""
    keys = [setting.partition("=")[0].strip() for setting in settings]
    last = dict(zip(keys, settings, strict=True))
    return [
        f"--set {one_line(key, 100)} is given {count} times; the last one counts: {one_line(last[key], 200)}"
        for key, count in Counter(keys).items()
        if count > 1
    ]


def _value(key: str, text: str) -> Any:
    """Parse a value of `--set` as TOML; a text that is no TOML is a string."""
    try:
        parsed = _toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except RecursionError:
        raise Mistake(f"--set {key}: {DEEP}") from None
    except ValueError:
        # Python reads no whole number of more than 4,300 digits.
        raise Mistake(f"--set {key}: a number of {len(text)} digits is too long") from None
    # A text of several lines may be parsed as more keys than this one.
    return parsed["value"] if len(parsed) == 1 else text


def _refuse_bytes(setting: str) -> None:
    """Refuse a setting with bytes that are no UTF-8, because a study is written as TOML, which is UTF-8."""
    readable = setting.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if readable != setting:
        raise Mistake(
            f"--set {readable}: these bytes are no UTF-8; rename the file, or give a link to it whose name is"
        )


def apply(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Set dotted keys in a study's JSON, and return it.

    Settings are texts such as ``train.epochs=3``, ``models.0.width=8`` or ``benchmark.batch_sizes=[1, 8]``.
    """
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
        index = _entry(place, last, key, ".".join(path)) if isinstance(place, list) else last
        place[index] = _value(key, text.strip())
    return values


def _entry(entries: list[Any], name: str, key: str, path: str) -> int:
    """Return the index in a list that a part of a dotted key names."""
    if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(entries)):
        valid = f"entries 0 to {len(entries) - 1}" if entries else "no entries"
        raise Mistake(f"--set {one_line(key, 100)}: {path} has {valid}, not {one_line(name, 60)!r}")
    return int(name)


def study_from(values: dict[str, Any], where: str) -> Study:
    """Return the study with these JSON values, which are not converted to other types.

    `where` names the source of the values in the message of a mistake, such as a file or `--set`.

    Raises
    ------
    Mistake
        If a value is wrong. The message names the key, the value and what is accepted.
    """
    try:
        return Study.model_validate_json(json.dumps(values, default=str), strict=True)
    except RecursionError:
        raise Mistake(f"{where}: {DEEP}") from None
    except ValidationError as error:
        # pydantic also reports a list with a wrong entry as too short. What is wrong is the entry.
        errors = [entry for entry in error.errors() if entry["type"] != "too_short" or len(error.errors()) == 1]
        raise Mistake(f"{where}: " + "; ".join(dict.fromkeys(describe(entry) for entry in errors))) from None


def load(name: str, settings: list[str], scale: str | None = None, skip: Sequence[str] = ()) -> Study:
    """Return the study of a preset or of a TOML file, with the command line's settings applied.

    Parameters
    ----------
    name
        Name of a preset, or path of a file that ends in .toml.
    settings
        Values of `--set`.
    scale
        Scale of a preset that has several; None takes its default.
    skip
        Stages that `--skip` leaves out.

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
            f"unknown preset {name!r}; {suggestion(name, known)}accepted: {', '.join(known)}, or a file ending in "
            f".toml (in {Path.cwd()} there is none of this name)"
        )
    return _changed(values, name, settings, skip)


def _changed(values: dict[str, Any], name: str, settings: list[str], skip: Sequence[str]) -> Study:
    """Return the study with these values, changed by `--set` and then by `--skip`.

    Only the result has to be a study, because one change may take away what another would contradict. The message of a
    mistake begins with where it was made: the preset or file `name`, `--set` or `--skip`.
    """
    of_name = _refusal(values, name)
    try:
        values = apply(values, settings)
    except Mistake as mistake:
        # A setting may find no place because the file is wrong.
        raise Mistake(of_name or str(mistake)) from None
    _refuse_empty_path(values, settings)
    of_settings = _refusal(values, "--set")
    for stage in skip:
        try:
            skippable(stage)
        except ValueError as error:
            raise Mistake(f"--skip {stage}: {error}") from None
    # What is no list is refused below.
    if isinstance(values.setdefault("skip", []), list):
        values["skip"] = list(dict.fromkeys([*map(str, values["skip"]), *skip]))
    reason = _refusal(values, "--skip").removeprefix("--skip")
    if not reason:
        return study_from(values, name)
    known = [(name, of_name), ("--set", of_settings)]
    first = next((where for where, refusal in known if refusal.removeprefix(where) == reason), "--skip")
    raise Mistake(first + reason)


def _refuse_empty_path(values: dict[str, Any], settings: list[str]) -> None:
    """Refuse a `--set` that leaves `data.path` empty, such as that of a variable that is not set.

    The study would train on the built-in digits, unsaid. A study that names its source means it.
    """
    data = values.get("data")
    is_set = any(setting.partition("=")[0].strip() in ("data", "data.path") for setting in settings)
    if not is_set or not isinstance(data, dict) or data.get("source", "auto") != "auto" or "path" not in data:
        return
    if isinstance(data["path"], str) and not data["path"].strip():
        raise Mistake(
            "--set data.path: an empty text names no images (is a variable empty?); the built-in digits are "
            "data.source=digits"
        )


def _refusal(values: dict[str, Any], where: str) -> str:
    """Return the message of why these values are no study; empty where they are one."""
    try:
        study_from(values, where)
    except Mistake as mistake:
        return str(mistake)
    return ""


def _read(path: Path) -> dict[str, Any]:
    """Return the values of a study's file. Its name is the file's, unless the file itself has one."""
    kind = irregular(path)
    if kind:
        raise Mistake(f"{path} is {kind}, not a regular file; a study is a file in TOML")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Mistake(f"{path}: it has more than {LARGEST} bytes, which no study needs; is it another file?")
        return {"name": path.stem, **_toml(_text(content, path))}
    except Mistake:
        raise
    except FileNotFoundError:
        raise Mistake(_no_such_study(path)) from None
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise Mistake(f"{path}: {DEEP}") from None
    except ValueError as error:
        # The file is no TOML, or has a whole number of more than 4,300 digits.
        raise Mistake(f"{path}: not TOML: {error}") from None


def _no_such_study(path: Path) -> str:
    """Return the message that a study's file does not exist: the folder that was looked in, and what exists."""
    from flows.presets import presets

    folder = path.absolute().parent
    files = sorted(file.name for file in folder.glob("*.toml") if file.name != "pyproject.toml")
    if not folder.is_dir():
        reason = f"No such file, as there is no folder {folder}"
    elif files:
        reason = f"No such file in {folder}; {suggestion(path.name, files)}there is {', '.join(files[:5])}"
    else:
        reason = f"No such file in {folder}, which has no study"
    known = presets()
    hint = f"did you mean the preset {path.stem}? " if path.stem in known else ""
    return f"{path}: {reason}; {hint}presets: {', '.join(known)}"


def _text(content: bytes, path: Path) -> str:
    """Return a file's text with Python's line ends, and without the byte order mark that Notepad puts before UTF-8."""
    if content.startswith(BYTE_ORDER_MARKS) or b"\0" in content:
        problem = "in UTF-16, or no text"
    else:
        try:
            return content.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            problem = f"not in UTF-8 (byte {error.start + 1} is {content[error.start]:#04x})"
    raise Mistake(f"{path}: the file is {problem}; TOML is written in UTF-8, so save it in UTF-8 in the editor")

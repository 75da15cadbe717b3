"""A study as text: TOML in and out, `--set key=value`, and one clear line for each mistake."""

from __future__ import annotations

import difflib
import json
import tomllib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from tasks.records import Choice, Range, Study, skippable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Mistake(Exception):
    """Something the user wrote is wrong; the message is one line."""


def plain(record: BaseModel) -> dict[str, Any]:
    """JSON of a record without nulls (TOML has none) and without the `kind` that the place already tells."""

    def clean(value: Any, keep: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                k: clean(v, k == "space" or keep) for k, v in value.items() if v is not None and (k != "kind" or keep)
            }
        return [clean(v) for v in value] if isinstance(value, list) else value

    return clean(record.model_dump(mode="json"))


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
        if name.isdigit():
            continue
        if not (isinstance(found, type) and issubclass(found, BaseModel)) or name not in found.model_fields:
            return None
        found = _record_in(found.model_fields[name].annotation)
    return found


def _record_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((r for a in get_args(annotation) if (r := _record_in(a)) and r not in (Range, Choice)), None)


def _value(text: str) -> Any:
    """A value as TOML writes it; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _refuse_bytes(setting: str) -> None:
    """Refuse bytes that are no text: a study is written as TOML, which is UTF-8."""
    if (readable := setting.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")) != setting:
        raise Mistake(
            f"--set {readable}: these bytes are no UTF-8; rename the file, or give a link to it whose name is"
        )


def apply(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Set dotted keys (``train.epochs=3``, ``models.0.width=8``, ``benchmark.batch_sizes=[1, 8]``) in a study's JSON."""
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
                if not name.isdigit() or int(name) >= len(place):
                    raise Mistake(
                        f"--set {key}: {'.'.join(path[:step])} has entries 0 to {len(place) - 1}, not {name!r}"
                    )
                place = place[int(name)]
            else:
                place = place.setdefault(name, {})
            if not isinstance(place, (dict, list)):
                raise Mistake(f"--set {key}: {'.'.join(path[: step + 1])} is a value, it has no {last!r}")
        if isinstance(place, list):
            if not last.isdigit() or int(last) >= len(place):
                raise Mistake(f"--set {key}: {'.'.join(path)} has entries 0 to {len(place) - 1}, not {last!r}")
            place[int(last)] = _value(text.strip())
        else:
            place[last] = _value(text.strip())
    return values


def study_from(values: dict[str, Any], where: str) -> Study:
    """A study from JSON values, strictly typed; a mistake names the key, what was given and what is accepted."""
    try:
        return Study.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        # A list with a wrong entry is also reported as too short; the entry is what is wrong.
        errors = [e for e in error.errors() if e["type"] != "too_short" or len(error.errors()) == 1]
        raise Mistake(f"{where}: " + "; ".join(dict.fromkeys(_line(e) for e in errors))) from None


def _line(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    if location[:2] == ["tune", "space"]:
        del location[3:4]  # which kind of interval was tried: pydantic's word, not a key
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        tags: dict[str, type[BaseModel]] = {"range": Range, "choice": Choice}
        record = tags[error["loc"][3]] if location[:2] == ["tune", "space"] else _record_at(location[:-1])
        accepted = [name for name in record.model_fields if name != "kind"] if record else []
        near = difflib.get_close_matches(location[-1], accepted, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key {key}; {hint}{'.'.join(location[:-1]) or 'a study'} accepts {', '.join(accepted)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "" if isinstance(error["input"], dict) or error["type"] == "missing" else f" (got {error['input']!r})"
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
    else:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Mistake(f"unknown preset {name!r}; {hint}accepted: {', '.join(known)}, or a file ending in .toml")
    study_from(values, name)
    values = apply(values, settings)
    study_from(values, "--set" if settings else name)
    for stage in skip:
        try:
            values["skip"] = [*values.get("skip", []), skippable(stage)]
        except ValueError as error:
            raise Mistake(f"--skip {stage}: {error}") from None
    return study_from(values, "--skip")


def _read(path: Path) -> dict[str, Any]:
    try:
        return {"name": path.stem, **tomllib.loads(path.read_text())}
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: not TOML: {error}") from None

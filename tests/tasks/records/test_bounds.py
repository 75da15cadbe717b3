"""Every number, name and text of a study has bounds. A value beyond them is refused in one line with its key."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from flows.settings import Mistake, load, study_from
from tasks.records import Study

if TYPE_CHECKING:
    from pathlib import Path

ABSURD = {"1e23": 10**23, "-1e23": -(10**23), "inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
EXAMPLE = {
    "range": {"kind": "range", "low": 0.1, "high": 0.2},
    "choice": {"kind": "choice", "values": [0.1]},
    "model": {"name": "resnet34"},
}
"""The smallest valid record of each kind that a list or a table of a study holds."""


def numbers(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield path and schema of every number of the study; `*` stands for any entry of a list or a table."""
    if "$ref" in schema:
        yield from numbers(DEFINITIONS[schema["$ref"].rpartition("/")[2]], path)
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from numbers(part, path)
    if schema.get("type") in ("integer", "number"):
        yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from numbers(part, (*path, name))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from numbers(schema[key], (*path, "*"))
    for part in schema.get("prefixItems", ()):
        yield from numbers(part, (*path, "*"))


SCHEMA = Study.model_json_schema()
DEFINITIONS = SCHEMA["$defs"]
NUMBERS: dict[tuple[str, ...], list[dict[str, Any]]] = {}
for _path, _schema in numbers(SCHEMA):
    NUMBERS.setdefault(_path, []).append(_schema)


def nested(path: tuple[str, ...], value: object) -> Any:
    """Return a study's JSON in which `value` stands at a path, with the other fields that its records need."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if first == "*":
        return [nested(rest, value)]
    records = {
        "space": lambda: {
            "learning_rate": EXAMPLE["choice" if rest[1] == "values" else "range"] | nested(rest[1:], value)
        },
        "techniques": lambda: {"a": {"learning_rate": value}},
        "plain": lambda: {"learning_rate": value},
        "models": lambda: [EXAMPLE["model"] | nested(rest[1:], value)],
    }
    return {first: records[first]() if first in records else nested(rest, value)}


def test_numbers_are_found_in_every_kind_of_record() -> None:
    assert len(NUMBERS) > 60
    for path in (
        ("train", "epochs"),
        ("train", "batch_size"),
        ("models", "*", "width"),
        ("benchmark", "batch_sizes", "*"),
        ("tune", "space", "*", "low"),
        ("tune", "space", "*", "values", "*"),
        ("data", "mean", "*"),
        ("ablate", "techniques", "*", "*"),
        ("prune", "ratios", "*"),
    ):
        assert path in NUMBERS, path


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_of_a_study_has_finite_bounds_and_refuses_what_is_absurd(path: tuple[str, ...]) -> None:
    for schema in NUMBERS[path]:
        for inclusive, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            bound = schema.get(inclusive, schema.get(exclusive))
            assert bound is not None, f"{'.'.join(path)} has no {inclusive}"
            assert abs(bound) <= 1e12
    for words, value in ABSURD.items():
        with pytest.raises(Mistake) as caught:
            study_from(nested(path, value), "test")
        message = str(caught.value)
        assert message.startswith(f"test: {path[0]}."), (words, message)
        assert "\n" not in message
        assert len(message) < 300, message


def refusal(setting: str) -> str:
    with pytest.raises(Mistake) as caught:
        load("quickstart", [setting])
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 800
    return message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epochs=100000000000000000000000", "train.epochs: should be less than or equal to 10000"),
        ("data.image_size=1000000000", "data.image_size: should be less than or equal to 16384"),
        ("train.learning_rate=inf", "train.learning_rate: should be a finite number"),
        ("train.batch_size=inf", "train.batch_size: expected auto or a whole number from 1 to 65536"),
        ("train.batch_size=nan", "train.batch_size: expected auto or a whole number from 1 to 65536"),
        ("data.seed=9223372036854775808", "data.seed: should be less than or equal to 4294967295"),
        (f"data.seed={'9' * 5000}", "data.seed: a number of 5000 digits is too long"),
        ("models.².width=3", "models has entries 0 to 1, not '²'"),
        ("models.1.².width=3", "models.1.²"),
        ("models.٣.width=3", "not '٣'"),
        (f"models.{'1' * 5000}.width=3", "models has entries 0 to 1"),
        ("train.device=cuda:²", "train.device: unknown device 'cuda:²'"),
        ("train.device=cuda:99999999999", "train.device: unknown device"),
        ("benchmark.devices=['cuda:²']", "benchmark.devices: unknown device 'cuda:²'"),
        (f"models={'[' * 20000}", "models: nested too deeply"),
        (f"models={'[' * 150}{']' * 150}", "models.0"),
        (f"{'a.' * 20000}b=1", "nested too deeply"),
        ("train.epochs=3\nfoo=1", "train.epochs: should be a valid integer"),
        (f"name={'a' * 300}", "name: expected 1 to 80 lower-case letters"),
        ("name=../escape", "name: expected 1 to 80 lower-case letters"),
        ('name="a\\n"', "name: expected 1 to 80 lower-case letters"),
        ('data.path="a\\u0000b"', "data.path: expected a path of up to 4,096 characters"),
        (f"data.path={'x' * 5000}", "data.path: expected a path of up to 4,096 characters"),
        (f"models=['{'x' * 3000}']", "models.0.name"),
        ("ablate.techniques={'a/b'={epochs=3}}", "ablate.techniques: 'a/b' is no name of a technique"),
        ('ablate.techniques={"a\\u0007"={epochs=3}}', "ablate.techniques: 'a\\x07' is no name of a technique"),
        (f"ablate.techniques={{{'a' * 300}={{epochs=3}}}}", "accepted: 1 to 60 printable characters"),
        ("\x1b[31mtrain=3", "unknown key \\x1b[31mtrain"),
        (f"train.{'x' * 600}=1", "unknown key train.xxx"),
    ],
    ids=lambda text: text[:40],
)
def test_a_value_out_of_bounds_is_refused_in_one_line_with_its_key(setting: str, words: str) -> None:
    assert words in refusal(setting)


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 20_000, "[" + "a." * 20_000 + "a]\nx = 1", "x = " + "{a = " * 20_000],
    ids=["list", "key", "table"],
)
def test_a_file_nested_twenty_thousand_deep_is_refused_in_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep.toml").write_text(text)
    assert main(["show", str(tmp_path / "deep.toml")]) == 2
    errors = capsys.readouterr().err
    assert "deep.toml: nested too deeply" in errors
    assert errors.count("\n") == 1


def test_the_command_refuses_a_value_out_of_bounds_and_computes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--set", "train.epochs=100000000000000000000000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "burnish: --set: train.epochs: should be less than or equal to 10000 (got 100000000000000000000000)\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_schema_of_the_form_in_prefects_ui_has_only_finite_bounds() -> None:
    text = json.dumps(SCHEMA)
    assert "Infinity" not in text
    assert "NaN" not in text

"""What is given twice is refused where it would be dropped in silence, or said where the last one counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from flows.settings import LARGEST, Mistake, study_from
from tasks.records import Study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRY = {"skip": "tune", "alone": "a", "values": 0.1, "mean": 0.5, "std": 0.5}
"""An entry of a list that is empty or unset by default."""
DEFAULTS = Study().model_dump(mode="json")


def lists(record: Any = DEFAULTS, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all lists of a study, and of the values of a choice."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from lists(value, (*path, name))
        elif isinstance(value, list) or name in ENTRY:
            yield (*path, name)


def given_twice(path: tuple[str, ...]) -> dict[str, Any]:
    found: Any = DEFAULTS
    for name in path:
        found = found[name]
    entry = found[0] if found else ENTRY[path[-1]]
    values: Any = [entry, entry]
    for name in reversed(path):
        values = {name: values}
    if path[:2] == ("tune", "space"):
        values["tune"]["space"][path[2]]["kind"] = "choice"
    return values


def test_all_lists_are_found() -> None:
    found = {".".join(path) for path in lists()}
    assert {
        "models",
        "skip",
        "benchmark.batch_sizes",
        "benchmark.devices",
        "build.precisions",
        "prune.ratios",
        "train.seeds",
        "ablate.alone",
        "quantize.settings",
        "tune.space.label_smoothing.values",
        "data.mean",
    } <= found
    assert len(found) >= 18


@pytest.mark.parametrize("path", lists(), ids=".".join)
def test_every_list_of_a_study_refuses_an_entry_that_stands_twice(path: tuple[str, ...]) -> None:
    values = given_twice(path)
    # a value per channel: they may be equal
    if path[0] == "data":
        three = [0.5, 0.5, 0.5]
        assert study_from({"data": {"mean": three, "std": three}}, "test").data.mean == (0.5, 0.5, 0.5)
        return
    with pytest.raises(Mistake) as caught:
        study_from(values, "test")
    assert f"{'.'.join(path)}: each may stand once, got " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_set_twice_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "quickstart", "--set", "train.epochs=3", "--set", "train.epochs=4"]) == 0
    told = capsys.readouterr()
    assert told.err == "burnish: --set train.epochs is given 2 times; the last one counts: train.epochs=4\n"
    assert "\nepochs = 4\n" in told.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a." * 20_000 + "a = 1", "nested too deeply"),
        ("x = {" + "a . " * 20_000 + "a = 1}", "nested too deeply"),
        ('"a".' * 20_000 + "a = 1", "nested too deeply"),
        ("#" * (LARGEST + 1), "it has more than 1000000 bytes"),
    ],
    ids=["key", "in a table", "quoted", "large"],
)
def test_a_file_that_would_take_long_to_parse_is_refused_at_once(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    started = time.process_time()
    assert main(["show", str(file)]) == 2
    assert time.process_time() - started < 2, "it took 17 s"
    told = capsys.readouterr().err
    assert f"study.toml: {words}" in told
    assert told.count("\n") == 1

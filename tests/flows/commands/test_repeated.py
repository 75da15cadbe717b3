"""A repeated entry of a list is refused. Of a setting that is given twice the last value counts, with a note."""

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

ENTRY = {"skip": "tune", "alone": "a", "values": 0.1, "mean": 0.5, "std": 0.5, "settings": "u8s8"}
"""An entry for each list that is empty or unset by default."""
DEFAULTS = Study().model_dump(mode="json")


def lists(record: Any = DEFAULTS, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each list of a study, such as (benchmark, devices), and of the values of a choice."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from lists(value, (*path, name))
        elif isinstance(value, list) or name in ENTRY:
            yield (*path, name)


def settings_with_repeated_entry(path: tuple[str, ...]) -> dict[str, Any]:
    """Return settings in which the list at this path holds the same entry twice."""
    default: Any = DEFAULTS
    for name in path:
        default = default[name]
    entry = default[0] if default else ENTRY[path[-1]]
    values: Any = [entry, entry]
    for name in reversed(path):
        values = {name: values}
    if path[:2] == ("tune", "space"):
        values["tune"]["space"][path[2]]["kind"] = "choice"
    return values


def test_this_file_finds_all_lists_of_a_study() -> None:
    paths = {".".join(path) for path in lists()}
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
    } <= paths
    assert len(paths) >= 18


@pytest.mark.parametrize("path", lists(), ids=".".join)
def test_every_list_of_a_study_refuses_a_repeated_entry(path: tuple[str, ...]) -> None:
    values = settings_with_repeated_entry(path)
    # The mean and the standard deviation hold one value per channel, and these may be equal.
    if path[0] == "data":
        three = [0.5, 0.5, 0.5]
        assert study_from({"data": {"mean": three, "std": three}}, "test").data.mean == (0.5, 0.5, 0.5)
        return
    with pytest.raises(Mistake) as error_info:
        study_from(values, "test")
    assert f"{'.'.join(path)}: each may stand once, got " in str(error_info.value)
    assert "\n" not in str(error_info.value)


def test_show_notes_that_of_a_key_set_twice_the_last_value_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "quickstart", "--set", "train.epochs=3", "--set", "train.epochs=4"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "burnish: --set train.epochs is given 2 times; the last one counts: train.epochs=4\n"
    assert "\nepochs = 4\n" in printed.out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a." * 20_000 + "a = 1", "nested too deeply"),
        ("x = {" + "a . " * 20_000 + "a = 1}", "nested too deeply"),
        ('"a".' * 20_000 + "a = 1", "nested too deeply"),
        ("#" * (LARGEST + 1), "it has more than 1000000 bytes"),
    ],
    ids=["key", "in a table", "quoted", "large"],
)
def test_a_study_file_that_would_take_long_to_parse_is_refused_at_once(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    started = time.process_time()
    assert main(["show", str(file)]) == 2
    assert time.process_time() - started < 2, "parsing took 17 s before such files were refused"
    error = capsys.readouterr().err
    assert f"study.toml: {reason}" in error
    assert error.count("\n") == 1

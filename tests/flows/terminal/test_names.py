"""Tables in a terminal fit its width, and a long name in them continues in the next line instead of being cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.terminal import bench_table
from flows.terminal.names import broken, shared
from tests.support.bench import latency_row, measured_tables
from tests.support.screen import watch

FILES = ("lenet5-pruned-and-quantized-with-percentiles.onnx", "lenet5-pruned-and-quantized-without-percentiles.onnx")


@given(st.text("ab/-_. AB", min_size=1), st.integers(1, 30))
def test_a_broken_name_keeps_all_its_characters_and_fits_the_width(name: str, width: int) -> None:
    lines = broken(name, width).split("\n")
    assert max(map(len, lines)) <= width
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("resnet34-w16/prune-0.25/onnx/int8-u8s8", 26, ["resnet34-w16/prune-0.25/", "onnx/int8-u8s8"]),
        ("resnet34-w16/prune-0.25", 11, ["resnet34-", "w16/", "prune-0.25"]),
        ("relu_1_DequantizeLinear", 12, ["relu_1_", "Dequantize", "Linear"]),
        ("short", 5, ["short"]),
        ("abcdefgh", 5, ["abcde", "fgh"]),
    ],
)
def test_a_name_is_broken_at_its_separators(name: str, width: int, lines: list[str]) -> None:
    assert broken(name, width).split("\n") == lines


def test_the_width_that_a_narrow_column_leaves_goes_to_the_wider_columns() -> None:
    assert shared([4, 40, 10], 100) == [4, 40, 10]
    assert shared([4, 40, 30], 44) == [4, 20, 20]


@pytest.mark.parametrize("width", [80, 100])
def test_the_bench_table_shows_long_file_names_that_are_alike_in_full(width: int) -> None:
    rows = measured_tables(*(latency_row(name, "onnxruntime", 1, 2.0 + number) for number, name in enumerate(FILES)))
    table = bench_table.text(rows, [], "", width).partition("\n\nimages/s")[0]
    lines = table.splitlines()
    assert max(map(len, lines)) <= width
    names = "".join(line[:40].split("  ")[0].strip() for line in lines[3:])
    assert names == "".join(FILES)


def test_the_list_of_presets_fits_a_terminal_of_80_columns() -> None:
    watched = watch("presets", width=80, environment=dict(os.environ), seconds=60)
    assert watched.code == 0
    names = [line for line in watched.end if line and not line.startswith(" ")]
    assert len(names) == 8, watched.end
    assert all(line[:24] == " " * 24 or line in names for line in watched.end if line), "the terminal broke a line"

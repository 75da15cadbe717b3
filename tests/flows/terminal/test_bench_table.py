"""The tables of `burnish bench` fit the terminal, show the fastest first, and compare with the reference."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from flows.commands.bench import _names, _reference_first, comparisons
from flows.terminal import bench_table
from tasks.forms.modelfile import ModelFile
from tests.support.bench import latency_row, measured_tables
from tests.support.paths import ROOT

REFERENCE = "model-with-a-rather-long-name.onnx · onnxruntime"
ROWS = measured_tables(
    latency_row("model-with-a-rather-long-name.onnx", "onnxruntime", 1, 12.5),
    latency_row("model-with-a-rather-long-name.onnx", "openvino", 1, 14.25),
    latency_row(
        "model-with-a-rather-long-name-int8.onnx",
        "onnxruntime",
        1,
        3.125,
        conditions="other processes used 40% of the cores",
    ),
    latency_row("broken.onnx", "onnxruntime", 1, None),
    latency_row("model-with-a-rather-long-name.onnx", "onnxruntime", 8, 91.5),
    latency_row("model-with-a-rather-long-name.onnx", "openvino", 8, 81.25),
    latency_row(
        "model-with-a-rather-long-name-int8.onnx",
        "onnxruntime",
        8,
        23.5,
        conditions="other processes used 30% of the cores",
    ),
    latency_row("broken.onnx", "onnxruntime", 8, None),
)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_the_terminal_with_whole_figures_and_the_fastest_row_first(width: int) -> None:
    compared_rows = comparisons(ROWS, REFERENCE, 4)
    printed = bench_table.text(ROWS, compared_rows, REFERENCE, width)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "Latency, on cpu, 2 threads"
    rows = [line for line in lines[3:] if "onnxruntime" in line or "openvino" in line][:8]
    assert [
        next(figure for figure in ("3.12", "12.5", "14.2", "23.5", "81.2", "91.5", "–") if figure in row)
        for row in rows
    ] == ["3.12", "12.5", "14.2", "–", "23.5", "81.2", "91.5", "–"]
    assert rows[0].split()[-1] == "faster*"
    assert rows[1].split()[-1] == "reference"
    assert rows[2].split()[-1] == "slower"
    assert rows[3].split()[-1] == "failed"
    assert all("…" not in row.partition("  ")[2] for row in rows), "only names are shortened"
    assert f"how many times as fast as {REFERENCE}" in " ".join(printed.split())
    assert ("99 % interval" in lines[1]) == (width >= 100), "the interval is shown where it fits"


@pytest.mark.parametrize("width", [20, 40, 60])
def test_in_a_narrow_terminal_the_rows_become_blocks_no_wider_than_the_terminal(width: int) -> None:
    compared_rows = comparisons(ROWS, REFERENCE, 4)
    printed = bench_table.text(ROWS, compared_rows, REFERENCE, width)
    lines = printed.partition("× reference: how")[0].splitlines()
    assert max(map(len, lines)) <= width
    one_line = " ".join(printed.split())
    assert all(figure in one_line for figure in ("3.12", "12.5", "14.2", "23.5", "81.2", "91.5", "faster*", "failed"))
    if width < 60:
        assert "batch 1, median ms 3.12" in " ".join(" ".join(lines).split())


def test_notes_on_conditions_and_errors_are_printed_once() -> None:
    lines = bench_table.text(ROWS, [], REFERENCE, 200).splitlines()
    candidate = "model-with-a-rather-long-name-int8.onnx · onnxruntime"
    assert f"* {candidate}, batch 1, latency: other processes used 40% of the cores" in lines
    assert "broken.onnx · onnxruntime, batch 1, latency, and 1 more: no such operator" in lines
    notes = [
        (f"row {percent}", f"* rounds differ by {percent}%; other processes used {30 + percent}% of the cores")
        for percent in (1, 9, 5)
    ]
    assert bench_table.folded(notes) == ["* 3 rows: rounds differ by 1–9%; other processes used 31–39% of the cores"]


def test_the_title_of_a_table_says_what_all_its_rows_share() -> None:
    rows = measured_tables(latency_row("a.onnx", "onnxruntime", 4, 2.0), latency_row("b.onnx", "onnxruntime", 4, 1.0))
    lines = bench_table.text(rows, [], "a.onnx · onnxruntime", 80).splitlines()
    assert lines[0] == "Latency, on cpu, 2 threads, in onnxruntime, batch 4"
    assert lines[1].split()[:3] == ["model", "median", "ms"]


def test_no_rows_are_compared_where_the_reference_failed() -> None:
    rows = measured_tables(
        latency_row("a.onnx", "onnxruntime", 1, None),
        latency_row("b.onnx", "onnxruntime", 1, 2.0),
        latency_row("c.onnx", "onnxruntime", 1, 1.0),
    )
    assert comparisons(rows, "a.onnx · onnxruntime", 4) == []
    (comparison,) = comparisons(rows, "b.onnx · onnxruntime", 4)
    assert (comparison["candidate"], comparison["verdict"]) == ("c.onnx · onnxruntime", "faster")


def test_the_reference_is_measured_first_even_where_it_is_not_among_the_files(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    assert _reference_first([a, b], None) == [a, b]
    assert _reference_first([a, b], str(tmp_path / "." / "b")) == [b, a]
    assert _reference_first([a, b], str(c)) == [c, a, b]
    assert _reference_first([a, b, b], str(b)) == [b, a, b]


def test_files_of_the_same_name_are_named_with_their_folders() -> None:
    files = [
        ModelFile(path=Path(path), format="onnx")
        for path in ("/x/small/onnx/model.onnx", "/x/large/onnx/model.onnx", "/x/other.onnx", "/x/other.onnx")
    ]
    pairs = [(file, "openvino") for file in files]
    assert _names(pairs) == ["small/onnx/model.onnx", "large/onnx/model.onnx", "other.onnx", "other.onnx #2"]


def run_in_terminal(columns: int, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command in a terminal of this many columns; return its exit code and what it shows."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=ROOT, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:
            # The command has closed its end of the terminal.
            break
        if not part:
            break
        shown += part
    os.close(parent)
    return process.wait(), shown.decode()


def test_bench_prints_a_table_of_80_columns_and_nothing_of_prefect(tmp_path: Path) -> None:
    """The user is new: without a Prefect profile, Prefect has not shown its notice about telemetry yet."""
    for name, milliseconds in (("slow", 4.0), ("fast", 1.0)):
        (tmp_path / name).write_text(json.dumps({"milliseconds": [milliseconds], "classes": 2}))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "DO_NOT_TRACK", "CI")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "TERM": "xterm-256color"}
    command = [
        sys.executable,
        "-m",
        "flows",
        "bench",
        str(tmp_path / "slow"),
        str(tmp_path / "fast"),
        "--rounds",
        "2",
        "--seconds",
        "0.2",
        "--reference",
        str(tmp_path / "fast"),
        "--out",
        str(tmp_path / "out"),
    ]
    code, shown = run_in_terminal(80, command, environment)
    assert code == 0, shown
    assert "Prefect" not in shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown[shown.rindex("Latency") :]).replace("\r\n", "\n")
    table = text[: text.index("tables: ")]
    assert max(map(len, table.splitlines())) <= 80
    assert table.startswith("Latency, on cpu")
    assert re.search(r"\nfast .* reference\*?\n\s*slow .*(slower|unclear)\*?\n", table), table


def test_a_star_is_explained_and_stands_beside_what_is_compared_with_a_marked_reference() -> None:
    rows = measured_tables(
        latency_row("a.onnx", "onnxruntime", 1, 2.0, conditions="other processes used 40% of the cores"),
        latency_row("b.onnx", "onnxruntime", 1, 1.0),
    )
    reference = "a.onnx · onnxruntime"
    lines = bench_table.text(rows, comparisons(rows, reference, 4), reference, 400).splitlines()
    assert [line.split()[-1] for line in lines[3:5]] == ["faster*", "reference*"]
    assert lines[-1].startswith("*: measured under the bad conditions named above, or compared with a reference that")
    assert any(line.startswith("images/s: over the whole time, slow queries included; median: half") for line in lines)

"""The table of `make compare-peers`: which forms it says are faster or more accurate, and where it is written."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from setuptools import find_packages

from compare import comparison, measure, table
from compare.__main__ import PAGE, PARQUET
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]
CIRCUMSTANCES: Row = {
    "model": "made up",
    "date": "2026-11-26",
    "command": "make compare-peers",
    "cpu_model": "Some CPU",
    "cpu_cores": 2,
    "cpu_features": "avx2",
    "load_average": 0.1,
    "rounds_asked": 5,
    "calibration_images": 100,
    "test_images": 1000,
    "libraries": "{}",
    "peer_libraries": "{}",
}


def measured_row(form: str, ms: float, right: int, runtime: str = "onnxruntime", noise: float = 0.001) -> Row:
    """Return a row of a form that was measured in five rounds, and has so many of 1,000 images right.

    Its rounds differ from `ms` by up to the share `noise`.
    """
    return {
        "form": form,
        "settings": "made up",
        "make_seconds": 2.0,
        "size_bytes": 1_000_000,
        "runtime": runtime,
        "status": "ok",
        "error": None,
        "conditions": None,
        "latency_median_ms": ms,
        "turn_medians_ms": [ms * (1 + noise * share) for share in (0, 0.5, -0.5, 1, -1)],
        "round_turns": [1] * 5,
        "right": np.arange(1000) < right,
        "top1": right / 1000,
    }


def compared(*rows: Row) -> tuple[list[Row], Row | None]:
    """Return the rows after the given file's, compared with it and with burnish's answer."""
    all_rows = [measured_row("given", 4.0, 870), *rows]
    comparison.relate(all_rows, comparison.FULL)
    return all_rows, table.answer_of(all_rows)


def test_where_burnish_failed_there_is_no_answer_and_the_reason_is_told() -> None:
    failed = {**measured_row("burnish", 1.0, 0), "status": "failed", "error": "exit code 1", "runtime": None}
    rows, answer = compared(failed, measured_row("nncf/openvino", 2.0, 870, "openvino"))
    assert answer is None
    assert table.conclusions(rows, answer) == ["- burnish has no answer.", "- Failed: burnish (exit code 1)."]
    text = table.section([row | CIRCUMSTANCES for row in rows])
    assert "| nncf/openvino | openvino | 2.00 (2.00–2.00) | – | 0.870 | 0.0 (-0.4 to 0.4) | 1.0 |" in text


def test_the_conclusions_name_the_forms_that_beat_burnish_and_no_others() -> None:
    rows, answer = compared(
        measured_row("burnish/u8s8", 2.0, 866),
        measured_row("nncf/faster", 1.5, 866, "openvino"),
        measured_row("nncf/fast-but-wrong", 1.0, 860),
        measured_row("olive/within-noise", 1.9, 866, noise=0.1),
        measured_row("olive/better", 3.0, 868),
        {**measured_row("onnxruntime/none", 1.0, 0), "status": "failed", "error": "no such operator", "runtime": None},
    )
    faster, better, failed = table.conclusions(rows, answer)
    assert "nncf/faster in openvino, 1.33 times as fast" in faster
    assert re.findall(r"[a-z]+/[a-z-]+", faster) == ["nncf/faster"]
    # The given file itself is more accurate too.
    assert re.findall(r"(given|[a-z]+/[a-z-]+) in", better) == ["given", "olive/better"]
    assert "olive/better in onnxruntime, 0.2 points (p = 0.5, latency: slower)" in better
    assert failed == "- Failed: onnxruntime/none (no such operator)."


def test_a_difference_of_accuracy_is_that_of_paired_outcomes() -> None:
    reference, row = measured_row("given", 4.0, 870), measured_row("nncf/openvino", 2.0, 0)
    # It loses 12 images that the reference has right, and has 2 right that the reference has not.
    row["right"] = reference["right"].copy()
    row["right"][:12] = False
    row["right"][900:902] = True
    columns = measure.against(row, reference, comparison.FULL, "fp32")
    assert columns["fp32_drop"] == pytest.approx(0.010)
    # 95 % by Tango's score interval; the exact test of 2 among 14.
    assert 0.002 < columns["fp32_drop_low"] < 0.010 < columns["fp32_drop_high"] < 0.02
    assert columns["fp32_mcnemar"] == pytest.approx(0.01294, abs=1e-4)


def test_the_table_replaces_what_stands_between_the_marks_of_the_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for text in ("first", "second"):
        table.write_section(page, text)
    assert page.read_text() == f"before\n{table.BEGIN}\n\nsecond\n{table.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has not both of the lines"):
        table.write_section(page, "text")


def test_the_page_shows_the_stored_comparison_and_nothing_else() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(table.BEGIN)
    shown, end, _ = rest.partition(table.END)
    assert end
    stored = table.sections(pl.read_parquet(PARQUET).to_dicts()) if PARQUET.exists() else "Not measured yet.\n"
    assert shown.strip() == stored.strip()


def test_a_table_is_the_same_after_its_rows_were_stored(tmp_path: Path) -> None:
    rows, _ = compared(measured_row("burnish/u8s8", 2.0, 866), measured_row("nncf/faster", 1.5, 866, "openvino"))
    rows = [row | CIRCUMSTANCES for row in rows]
    table.frame(rows).write_parquet(tmp_path / "rows.parquet")
    assert table.section(pl.read_parquet(tmp_path / "rows.parquet").to_dicts()) == table.section(rows)


def test_the_peers_have_the_same_versions_as_burnish_of_what_executes_the_models() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / name).read_text(encoding="utf-8"), re.M))

    own, peers = pins("requirements.txt"), pins("requirements-peers.txt")
    assert {"nncf", "olive-ai"} <= peers.keys()
    for name in ("onnx", "onnxruntime", "openvino", "torch"):
        assert own[name] == peers[name], f"{name}: run `make lock`"


def test_the_comparison_is_in_no_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = find_packages(str(ROOT), **settings["tool"]["setuptools"]["packages"]["find"])
    assert "tasks.forms" in packages
    assert not [name for name in packages if name.startswith("compare")]


def test_a_comparison_takes_the_place_of_an_earlier_one_of_the_same_model_and_leaves_others() -> None:
    def rows(model: str, form: str) -> pl.DataFrame:
        return table.frame([CIRCUMSTANCES | measured_row(form, 1.0, 900) | {"model": model}])

    both = table.joined(table.joined(None, rows("one", "old")), rows("two", "given"))
    again = table.joined(both, rows("one", "new"))
    assert again.select("model", "form").rows() == [("two", "given"), ("one", "new")]
    text = table.sections([row | {"command": "make"} for row in again.to_dicts()])
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## two", "## one"]

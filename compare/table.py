"""The comparison as a table: Parquet for programs, and a section of docs/PEERS.md for people."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from compare.answer import MAX_DROP
from tasks.tables.figures import interval, sig

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

Row = dict[str, Any]
BEGIN = "<!-- `make compare-peers` writes what follows, up to the end mark. -->"
END = "<!-- end -->"
MORE_ACCURATE = 0.002
"""A form counts as more accurate than another from this share of the test images on: a fifth of a point."""
WORDS = {"faster": "faster", "slower": "slower", "indistinguishable": "alike"}
INSTRUCTIONS = ("amx_int8", "amx_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
"""Instructions that decide how fast int8 and bf16 are, as Linux names them."""
ROWS_ONLY = ("right", "turn_medians_ms", "round_turns")
"""Columns of a row that are for comparing alone and are not stored."""


def frame(rows: list[Row]) -> pl.DataFrame:
    """Return the rows as a frame, without the columns that hold lists."""
    import polars as pl

    columns = list(dict.fromkeys(name for row in rows for name in row if name not in ROWS_ONLY))
    return pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in columns}, infer_schema_length=None, strict=False
    )


def joined(earlier: pl.DataFrame | None, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of earlier comparisons of other models, followed by new rows."""
    import polars as pl

    if earlier is None:
        return rows
    others = earlier.filter(~pl.col("model").is_in(rows["model"].to_list()))
    return pl.concat([others, rows], how="diagonal_relaxed")


def sections(rows: list[Row]) -> str:
    """Return the Markdown of the comparisons of all models in the rows."""
    titles = dict.fromkeys(row["model"] for row in rows)
    return "\n".join(section([row for row in rows if row["model"] == title]) for title in titles)


def answer_of(rows: list[Row]) -> Row | None:
    """Return the row of burnish's answer, or None where it failed."""
    return next((row for row in rows if row["form"].startswith("burnish/") and row["status"] == "ok"), None)


def section(rows: list[Row]) -> str:
    """Return the Markdown of one comparison, whose rows all are of one model."""
    answer = answer_of(rows)
    lines = [
        f"## {rows[0]['model']}",
        "",
        _circumstances(rows[0]),
        "",
        *_table(rows, answer),
        "",
        *conclusions(rows, answer),
        "",
        "How each form was made:",
        "",
        *_settings(rows),
    ]
    return "\n".join(lines) + "\n"


def _circumstances(row: Row) -> str:
    """Return in sentences where, when and with what a row was measured."""
    features = (row["cpu_features"] or "").split()
    instructions = ", ".join(name for name in INSTRUCTIONS if name in features) or "no int8 instructions"
    return (
        f"`{row['command']}` on {row['date']}, {row['cpu_cores']} cores of {row['cpu_model']} ({instructions}), load "
        f"{row['load_average']:.1f} at the beginning; batch 1, {row['rounds_asked']} rounds. "
        f"{row['calibration_images']} images for calibration, {row['test_images']} others for top-1. "
        f"The given file takes {sig(row['latency_median_ms'])} ms in ONNX Runtime. "
        f"Measured with {_libraries(row['libraries'])}. Peers: {_libraries(row['peer_libraries'])}."
    )


def _libraries(text: str) -> str:
    """Return names and versions of libraries, of which `text` is the JSON."""
    versions = json.loads(text)
    names = ("onnxruntime", "openvino", "nncf", "olive-ai", "onnx", "torch")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _table(rows: list[Row], answer: Row | None) -> list[str]:
    """Return the lines of the table, the fastest first."""
    lines = [
        "| form | runtime | × fp32 (99 %) | to burnish | top-1 | points lost (95 %) | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [row for row in rows if row["status"] == "ok"]
    for row in sorted(measured, key=lambda row: -(row.get("fp32_ratio") or 1.0)):
        cells = (
            f"**{row['form']}**" if row is answer else row["form"],
            row["runtime"],
            _ratio(row),
            "the answer" if row is answer else WORDS.get(row.get("burnish_verdict") or "", "–"),
            "–" if row["top1"] is None else f"{row['top1']:.3f}",
            _points(row),
            f"{row['size_bytes'] / 1e6:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratio(row: Row) -> str:
    """Return how many times as fast as fp32 a row is, with its interval, and a mark where conditions were bad."""
    mark = "\\*" if row["conditions"] else ""
    if row.get("fp32_ratio") is None:
        return f"1{mark}"
    return f"{sig(row['fp32_ratio'])} ({interval(row['fp32_low'], row['fp32_high'])}){mark}"


def _points(row: Row) -> str:
    """Return by how many percentage points a row is less accurate than fp32, with its interval."""
    if row.get("fp32_drop") is None:
        return "–"
    return f"{100 * row['fp32_drop']:.1f} ({100 * row['fp32_drop_low']:.1f} to {100 * row['fp32_drop_high']:.1f})"


def conclusions(rows: list[Row], answer: Row | None) -> list[str]:
    """Return in sentences which forms beat burnish's answer, and which failed."""
    measured = [row for row in rows if row["status"] == "ok"]
    if answer is None:
        lines = ["- burnish has no answer."]
    else:
        others = [row for row in measured if not row["form"].startswith("burnish/")]
        lines = [
            f"- Faster than burnish's answer beyond noise, and at most {100 * MAX_DROP:g} points less accurate than "
            f"fp32: {_faster(others)}.",
            f"- More accurate than burnish's answer by {100 * MORE_ACCURATE:g} points or more, with the p-value of "
            f"McNemar's exact test: {_more_accurate(others)}.",
        ]
    failed = [f"{_place(row)} ({row['error']})" for row in rows if row["status"] != "ok"]
    if failed:
        lines.append(f"- Failed: {'; '.join(failed)}.")
    reasons = {
        re.sub(r"\d+%|\d+ of \d+|a factor of \d+", "…", reason)
        for row in measured
        for reason in (row["conditions"] or "").split("; ")
        if reason
    }
    if reasons:
        lines.append(
            f"- \\* Measured under bad conditions, so that these figures are only indicative: "
            f"{'; '.join(sorted(reasons))}."
        )
    return lines


def _faster(others: list[Row]) -> str:
    """Return which rows are faster than burnish's answer beyond noise and lose no more than it may."""
    found = [
        f"{_place(row)}, {sig(row['burnish_ratio'])} times as fast"
        for row in others
        if row.get("burnish_verdict") == "faster" and (row.get("fp32_drop") or 0.0) <= MAX_DROP + 1e-9
    ]
    return "; ".join(found) or "none"


def _more_accurate(others: list[Row]) -> str:
    """Return which rows are more accurate than burnish's answer, and whether they are faster."""
    found = [
        f"{_place(row)}, {-100 * row['burnish_drop']:.1f} points (p = {row['burnish_mcnemar']:.2g}, "
        f"latency: {WORDS[row['burnish_verdict']]})"
        for row in others
        if (row.get("burnish_drop") or 0.0) <= -MORE_ACCURATE + 1e-9
    ]
    return "; ".join(found) or "none"


def _place(row: Row) -> str:
    """Return a form, and the runtime if it got that far."""
    return f"{row['form']} in {row['runtime']}" if row["runtime"] else str(row["form"])


def _settings(rows: list[Row]) -> list[str]:
    """Return one line per form: how it was made, and how long that took."""
    lines = {}
    for row in rows:
        seconds = "" if row["make_seconds"] is None else f" ({row['make_seconds']:.0f} s)"
        lines[row["form"]] = f"- {row['form']}: {row['settings']}{seconds}"
    return list(lines.values())


def write_section(page: Path, text: str) -> None:
    """Put the text between the marks of a page.

    Raises
    ------
    ValueError
        If the page has not both marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has not both of the lines {BEGIN!r} and {END!r}, between which the table is written")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")

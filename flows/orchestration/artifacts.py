"""Show a finished run in Prefect's UI: the summary as a table, the report as Markdown, the winner in a sentence."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.report import charts
from flows.report.columns import SUMMARY, of_agreement
from flows.report.grids import ABSENT, MARKS, cell, in_order
from flows.report.page import tables_of
from tasks.published import images_here
from tasks.tables.figures import metric_name, sig
from tasks.tables.goals import doubts
from tasks.tables.summary import compared_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flows.report.columns import Spec
    from flows.report.drawing import Figure
    from flows.report.grids import Row
    from tasks.records import Result, Study

COLUMNS = (
    "variant",
    "runtime",
    "device",
    "batch_size",
    "latency_median_ms",
    "speedup",
    "top1",
    "macro_f1",
    "drop",
    "within",
    "status",
    "conditions",
    "latency_p90_ms",
    "images_per_second",
    "size_bytes",
)
"""Columns of the summary that the artifact `summary` shows, in this order. The HTML report has all columns."""
REPORT_COLUMNS = ("role", "variant", "runtime", "latency_median_ms", "speedup", "status")
"""Columns of the artifact `report`, which is a narrow page. The metric that the study selects by is added, and the
device where there are several."""
MARKED = "marked: cannot win"
WIDTH = 900
"""Width of a chart, in pixels."""


def publish(study: Study, run: str, result: Result, page: Path) -> None:
    """Show a finished run in Prefect, as the artifacts `summary`, `report` and `winner` of the flow run.

    Parameters
    ----------
    study, run, result
        The study, the name of the run and what it came to.
    page
        The HTML report. The artifact `report` names its path, because a browser follows no link to a local file.
    """
    tables = tables_of(page.parent.parent.parent, run)
    summary = tables["summary"].lazy().collect()
    rows = in_order(summary, compared_batch(summary, study))
    headers = _headers(study)
    shown = [{headers[key]: text for key, text in _shown(row, study).items()} for row in rows]
    create_table_artifact(table=shown, key="summary", description=f"Every candidate of {run}. {LEGEND}")
    winner = f"**Winner: {_escaped(result.winner)}**\n\n" if result.winner else ""
    # Where there is no winner, the reason begins with "No winner".
    winner += _escaped(result.reason)
    create_markdown_artifact(winner, key="winner", description=f"Which form of {run} to deploy")
    report = "\n\n".join([f"# {_escaped(run)}", winner, *_report(study, tables, rows, page)])
    create_markdown_artifact(report, key="report", description=f"Report of {run}")


def _report(study: Study, tables: Mapping[str, Any], rows: Sequence[Row], page: Path) -> list[str]:
    """Return the paragraphs of the artifact `report`: the candidates at the compared batch size, charts, files."""
    batch = compared_batch(tables["summary"].lazy().collect(), study)
    compared = [row for row in rows if row["batch_size"] == batch]
    images = images_here({"datasets": tables["datasets"].lazy().collect()})
    return [
        f"## Candidates at batch {batch}",
        _table(compared, study),
        f"Scores are of the held-out images of {_escaped(images)}. {LEGEND}",
        *_charts(tables, compared, study, batch),
        f"The whole report, with every table: `{page}`",
        f"Every candidate, for a spreadsheet: `{page.parent / 'benchmark_results.csv'}`",
    ]


LEGEND = (
    "★ winner, ? provisional best, 2 runner-up, R reference. Speed-up: times as fast as the reference, with its "
    f"99 % interval from paired rounds. {ABSENT} not measured, or rounds differ too much to say."
)


SPECS: dict[str, Spec] = {spec[2]: spec for spec in SUMMARY}


def _headers(study: Study) -> dict[str, str]:
    """Return the name and unit of each column, in words."""
    headers = {key: key for key in ("role", *COLUMNS)}
    for name, unit, key, _ in (*SUMMARY, *of_agreement(SUMMARY, study)):
        words = name[0].lower() + name[1:]
        headers[key] = f"{words}, {unit}" if unit and key not in ("batch_size", "speedup") else words
    return headers


def _shown(row: Row, study: Study) -> dict[str, str]:
    """Return the texts of a row of the summary, by column: rounded figures, speed-up with its interval, conditions."""
    shown = {"role": MARKS.get(row["role"], "")}
    shown |= {key: cell(row, key, SPECS[key][3]).text if key in SPECS else "" for key in COLUMNS}
    status = shown["status"]
    if status == "marked" and doubts(row, study.select) is not None:
        status = MARKED
    return shown | {
        "speedup": _speedup(row),
        "status": status,
        "conditions": row["error"] or row["conditions"] or "good",
    }


def _speedup(row: Row) -> str:
    if row["speedup"] is None:
        return ABSENT
    if row["role"] == "reference":
        return "1"
    shown = cell(row, "speedup", sig)
    return f"{shown.text} ({shown.below})"


def _table(rows: Sequence[Row], study: Study) -> str:
    """Return rows as a Markdown table, and below it what was bad about some of them, each reason once."""
    wanted = {*REPORT_COLUMNS, study.select.metric}
    named = _headers(study)
    if len({row["device"] for row in rows}) > 1:
        wanted.add("device")
    texts = [_shown(row, study) for row in rows]
    columns = [key for key in ("role", *COLUMNS) if key in wanted]
    headers = ["" if key == "role" else named[key] for key in columns]
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(columns)}"]
    reasons: Counter[str] = Counter()
    for text in texts:
        # The conditions differ in their figures from row to row; the artifact `summary` shows them.
        if text["status"] == MARKED:
            reasons[f"{MARKED}, because they were measured under bad conditions (the artifact summary says which)"] += 1
        elif text["conditions"] != "good":
            reasons[f"{text['status']}: {text['conditions']}"] += 1
        text["status"] = text["status"].partition(":")[0]
        lines.append(f"| {' | '.join(_escaped(text[key]) for key in columns)} |")
    notes = [f"{count} of {len(rows)} rows: *{_escaped(reason)}*" for reason, count in reasons.items()]
    return "\n\n".join(["\n".join(lines), *notes])


def _charts(tables: Mapping[str, Any], rows: Sequence[Row], study: Study, batch: int) -> list[str]:
    """Return two charts per device, as Markdown: accuracy against latency, and the distribution of latencies."""
    metric = study.select.metric
    figures = []
    for device in dict.fromkeys(row["device"] for row in rows):
        on_device = [row for row in rows if row["device"] == device]
        place = f"{device}, batch {batch}"
        figures.append(charts.tradeoff(on_device, (metric, metric_name(study)), place, study.select.max_drop, WIDTH))
        if "latencies" in tables:
            roles = {(row["variant"], row["runtime"]): row["role"] for row in on_device if row["role"]}
            figures.append(charts.distributions(tables["latencies"].lazy(), device, batch, roles))
    return [f"## {_escaped(figure.title)}\n\n{_image(figure)}\n\n{figure.note}" for figure in figures if figure]


def _image(figure: Figure) -> str:
    """Return a chart as a Markdown image that holds its data: a PNG, as Prefect's UI shows no SVG from a data URL."""
    import vl_convert
    from PIL import Image

    # In a page the chart's text takes the page's colour. A picture has no page, so colours are set here.
    svg = re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', figure.svg, count=1)
    png = vl_convert.svg_to_png(svg.replace("currentColor", "#222"))
    file = io.BytesIO()
    # A chart has few colours: with a palette of 64 it takes a tenth of the bytes, which the page holds as text.
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(file, "png", optimize=True)
    return f"![{_escaped(figure.title)}](data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})"


def _escaped(text: str) -> str:
    """Return a text as Markdown that reads the same: none of its letters makes tags, emphasis, links or cells."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)

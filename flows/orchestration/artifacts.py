"""What Prefect's UI shows of a finished run: the summary as a table, the report as Markdown, the winner in a
sentence."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.report import charts
from flows.report.columns import SUMMARY
from flows.report.grids import ABSENT, MARKS, cell, in_order
from flows.report.page import tables_of
from tasks.published import images_here
from tasks.tables.figures import METRIC_NAMES, sig
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
    "status",
    "conditions",
    "latency_p90_ms",
    "images_per_second",
    "size_bytes",
)
"""Columns of the summary that are shown, in this order. The report has all."""
OF_THE_REPORT = ("role", "variant", "runtime", "latency_median_ms", "speedup", "status")
"""Columns of the artifact `report`, which is a narrow page; the metric that decides, and devices if several, are
added."""
MARKED = "marked: cannot win"
WIDTH = 900
"""Pixels of a chart."""


def publish(study: Study, run: str, result: Result, page: Path) -> None:
    """Show a finished run in Prefect: the artifacts `summary`, `report` and `winner` of the flow run.

    `page`: the HTML report, which the artifact `report` names; a browser does not follow a link to a local file.
    """
    tables = tables_of(page.parent.parent.parent, run)
    summary = tables["summary"].lazy().collect()
    rows = in_order(summary, compared_batch(summary, study))
    shown = [{_header(key): text for key, text in _shown(row).items()} for row in rows]
    create_table_artifact(table=shown, key="summary", description=f"Every candidate of {run}. {LEGEND}")
    winner = f"**Winner: {_escaped(result.winner)}**\n\n" if result.winner else ""
    # which begins with "No winner" where there is none
    winner += _escaped(result.reason)
    create_markdown_artifact(winner, key="winner", description=f"Which form of {run} to deploy")
    report = "\n\n".join([f"# {_escaped(run)}", winner, *_report(study, tables, rows, page)])
    create_markdown_artifact(report, key="report", description=f"Report of {run}")


def _report(study: Study, tables: Mapping[str, Any], rows: Sequence[Row], page: Path) -> list[str]:
    """Paragraphs of the artifact `report`: the candidates at the compared batch size, charts, where the rest is."""
    batch = compared_batch(tables["summary"].lazy().collect(), study)
    here = [row for row in rows if row["batch_size"] == batch]
    images = images_here({"datasets": tables["datasets"].lazy().collect()})
    return [
        f"## Candidates at batch {batch}",
        _table(here, study.select.metric),
        f"Scores are of the held-out images of {_escaped(images)}. {LEGEND}",
        *_charts(tables, here, study, batch),
        f"The whole report, with every table: `{page}`",
        f"Every candidate, for a spreadsheet: `{page.parent / 'benchmark_results.csv'}`",
    ]


LEGEND = (
    "★ winner, ? provisional best, 2 runner-up, R reference. Speed-up: times as fast as the reference, with its "
    f"99 % interval from paired rounds. {ABSENT} not measured, or rounds differ too much to say."
)


SPECS: dict[str, Spec] = {spec[2]: spec for spec in SUMMARY}


def _header(key: str) -> str:
    """A column's name and unit, as a person reads it."""
    name, unit = (SPECS[key][0], SPECS[key][1]) if key in SPECS else (key, "")
    name = name[0].lower() + name[1:]
    return f"{name}, {unit}" if unit and key not in ("batch_size", "speedup") else name


def _shown(row: Row) -> dict[str, str]:
    """A row of the summary as it is read, by column: rounded figures, speed-up with its interval, conditions."""
    shown = {"role": MARKS.get(row["role"], "")}
    shown |= {key: cell(row, key, SPECS[key][3]).text if key in SPECS else "" for key in COLUMNS}
    marked = MARKED if shown["status"] == "marked" else shown["status"]
    return shown | {
        "speedup": _speedup(row),
        "status": marked,
        "conditions": row["error"] or row["conditions"] or "good",
    }


def _speedup(row: Row) -> str:
    if row["speedup"] is None:
        return ABSENT
    if row["role"] == "reference":
        return "1"
    shown = cell(row, "speedup", sig)
    return f"{shown.text} ({shown.below})"


def _table(rows: Sequence[Row], metric: str) -> str:
    """Rows as a Markdown table of what decides; below it what was bad about rows, each reason once."""
    several = len({row["device"] for row in rows}) > 1
    wanted = {*OF_THE_REPORT, metric, *(("device",) if several else ())}
    texts = [_shown(row) for row in rows]
    columns = [key for key in ("role", *COLUMNS) if key in wanted]
    headers = ["" if key == "role" else _header(key) for key in columns]
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(columns)}"]
    reasons: Counter[str] = Counter()
    for text in texts:
        # each has figures of its own, which the artifact `summary` shows
        if text["status"] == MARKED:
            reasons[f"{MARKED}, for they were measured under bad conditions (the artifact summary says which)"] += 1
        elif text["conditions"] != "good":
            reasons[f"{text['status']}: {text['conditions']}"] += 1
        text["status"] = text["status"].partition(":")[0]
        lines.append(f"| {' | '.join(_escaped(text[key]) for key in columns)} |")
    notes = [f"{count} of {len(rows)} rows: *{_escaped(reason)}*" for reason, count in reasons.items()]
    return "\n\n".join(["\n".join(lines), *notes])


def _charts(tables: Mapping[str, Any], rows: Sequence[Row], study: Study, batch: int) -> list[str]:
    """Accuracy against latency, and latencies, of each device at the compared batch size, as Markdown images."""
    metric, made = study.select.metric, []
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        place = f"{device}, batch {batch}"
        made.append(charts.tradeoff(here, (metric, METRIC_NAMES[metric]), place, study.select.max_drop, WIDTH))
        if "latencies" in tables:
            roles = {(row["variant"], row["runtime"]): row["role"] for row in here if row["role"]}
            made.append(charts.distributions(tables["latencies"].lazy(), device, batch, roles))
    return [f"## {_escaped(figure.title)}\n\n{_image(figure)}\n\n{figure.note}" for figure in made if figure]


def _image(figure: Figure) -> str:
    """A chart as a Markdown image that needs no file. PNG: the UI shows no SVG of a data address."""
    import vl_convert
    from PIL import Image

    # The chart takes the page's colour, and a picture has none to take.
    svg = re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', figure.svg, count=1)
    png = vl_convert.svg_to_png(svg.replace("currentColor", "#222"))
    file = io.BytesIO()
    # A chart has few colours: a tenth of the bytes, which the page takes as text.
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(file, "png", optimize=True)
    return f"![{_escaped(figure.title)}](data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})"


def _escaped(text: str) -> str:
    """Text as Markdown that reads the same: no tags, emphasis, links or table cells of it."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)

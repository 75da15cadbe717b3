"""The report's section on exported files: operators of the ONNX graphs of winner, reference and provisional best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.report.drawing import PALETTE, figure, inline
from flows.report.profiling_charts import CHARACTER
from tasks.caching.store import Corrupt, Store
from tasks.records import Artifact

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from flows.report.drawing import Figure
    from flows.report.grids import Row

ROLES = ("reference", "winner", "provisional")
MOST = 20
"""Types of operators with a bar of their own. The rarer ones share one."""


def graphs(out: Path, tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> list[Row]:
    """Return name and chart of each graph, or name and reason where its file cannot be read."""
    if not {"summary", "variants"} <= tables.keys():
        return []
    forms = {row["name"]: row for row in tables["variants"].lazy().collect().to_dicts() if row["status"] == "ok"}
    parts = {row["role"]: row["variant"] for row in tables["summary"].lazy().collect().to_dicts() if row["role"]}
    names = [name for role in ROLES if role in parts for name in _onnx_of(parts[role], forms)]
    return [_graph(out, forms[name]) for name in dict.fromkeys(names)]


def _onnx_of(name: str, forms: Mapping[str, Row]) -> list[str]:
    """Return the ONNX forms that a form was made from, the oldest first, and itself if it is one.

    Where there are none, because the form is executed as weights, return the ONNX form that was exported from it.
    """
    ancestors = []
    form = forms.get(name)
    while form is not None:
        if form["format"] == "onnx":
            ancestors.append(form["name"])
        form = forms.get(form["parent"])
    if ancestors:
        return ancestors[::-1]
    exported = [form for form in forms.values() if form["parent"] == name and form["stage"] == "export"]
    return [form["name"] for form in exported if form["format"] == "onnx"]


def _graph(out: Path, form: Row) -> Row:
    """Return a form's name and a chart of how many operators of each type its ONNX graph has.

    Where the stored file is gone or damaged, return the name and the reason in place of the chart.
    """
    import onnx

    from tasks.profilers._onnx import operator_counts

    try:
        path = Store(out / "store").get(
            Artifact(**{key: form[key] for key in ("path", "sha256", "size_bytes", "format")})
        )
    except Corrupt as error:
        return {"name": form["name"], "why": str(error)}
    file = next(path.glob("*.onnx")) if path.is_dir() else path
    counts = operator_counts(onnx.load(file, load_external_data=False))
    return {"name": form["name"], "chart": by_type(counts, form["name"])}


def by_type(counts: Counter[str], name: str) -> Figure:
    """Return a chart of how many operators of each type a graph has."""
    import altair as alt

    ranked: list[Row] = [{"type": kind, "operators": number} for kind, number in counts.most_common()]
    rows, rest = ranked[:MOST], ranked[MOST:]
    if rest:
        rows.append({"type": f"{len(rest)} other types", "operators": sum(row["operators"] for row in rest)})
    base = alt.Chart(inline(rows), width=300, height={"step": 20})
    scale = alt.Scale(domain=[0, max(row["operators"] for row in rows) * 1.18], nice=False)
    x = alt.X("operators:Q", title="operators", scale=scale, axis=alt.Axis(tickCount=4, format="d"))
    # A browser's letters may be wider than those that vl-convert counts on.
    axis = alt.Axis(labelLimit=260, ticks=False, minExtent=max(len(row["type"]) for row in rows) * CHARACTER * 1.15)
    y = alt.Y("type:N", sort=[row["type"] for row in rows], title=None, axis=axis)
    words = base.mark_text(align="left", dx=4, fontSize=11, color="currentColor").encode(x=x, y=y, text="operators:Q")
    alternative = "; ".join(f"{row['type']}: {row['operators']}" for row in rows)
    return figure(
        alt.layer(base.mark_bar(color=PALETTE[0]).encode(x=x, y=y), words),
        f"{name}: {counts.total()} operators of {len(counts)} types",
        alternative,
    )

"""The report's section on exported files: the ONNX graphs that winner and reference come from or go into, by
operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.report.charts import PALETTE, figure, inline
from flows.report.profiling_charts import CHARACTER
from tasks.caching.store import Corrupt, Store
from tasks.records import Artifact

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from flows.report.charts import Figure
    from flows.report.grids import Row

ROLES = ("reference", "winner", "provisional")
MOST = 20
"""Types of operators that are drawn each for itself."""


def graphs(out: Path, tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> list[Row]:
    """What the report shows of each: name, numbers, chart; or why the file cannot be read."""
    if not {"summary", "variants"} <= tables.keys():
        return []
    forms = {row["name"]: row for row in tables["variants"].lazy().collect().to_dicts() if row["status"] == "ok"}
    parts = {row["role"]: row["variant"] for row in tables["summary"].lazy().collect().to_dicts() if row["role"]}
    names = [name for role in ROLES if role in parts for name in _onnx_of(parts[role], forms)]
    return [_graph(out, forms[name]) for name in dict.fromkeys(names)]


def _onnx_of(name: str, forms: Mapping[str, Row]) -> list[str]:
    """ONNX forms that a form was made from, itself included, the first first; or the one that was exported of it."""
    found, here = [], forms.get(name)
    while here is not None:
        found += [here["name"]] if here["format"] == "onnx" else []
        here = forms.get(here["parent"])
    exported = [row["name"] for row in forms.values() if row["parent"] == name and row["stage"] == "export"]
    return found[::-1] or [one for one in exported if forms[one]["format"] == "onnx"]


def _graph(out: Path, form: Row) -> Row:
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
    """How many operators of each type a graph has."""
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
    told = "; ".join(f"{row['type']}: {row['operators']}" for row in rows)
    return figure(
        alt.layer(base.mark_bar(color=PALETTE[0]).encode(x=x, y=y), words),
        f"{name}: {counts.total()} operators of {len(counts)} types",
        told,
    )

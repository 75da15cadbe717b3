"""Draw charts to inline SVG: Vega-Lite by altair, drawn by vl-convert without a browser.

Text and lines take the page's colour (`currentColor`), so a chart follows light and dark mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import TYPE_CHECKING, Any

from flows.report.drawable import drawable, left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

PALETTE = ["#0d9488", "#ea580c", "#7c3aed", "#2563eb", "#db2777", "#65a30d", "#ca8a04", "#64748b"]
SHAPES = [
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "wedge",
    "arrow",
    "stroke",
]
_FADED = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "titleFontWeight": "normal",
    "titleFontSize": 12,
    "labelFontSize": 12,
}
CONFIG = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "axis": _FADED
    | {
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "domainColor": "currentColor",
        "domainOpacity": 0.4,
        "tickColor": "currentColor",
        "tickOpacity": 0.4,
        "titlePadding": 8,
    },
    "legend": _FADED
    | {
        "orient": "bottom",
        "columns": 2,
        "labelLimit": 300,
        "columnPadding": 34,
        "symbolOpacity": 1,
        "symbolBaseFillColor": "currentColor",
        "symbolBaseStrokeColor": "currentColor",
        "layout": {"bottom": {"anchor": "start", "direction": "vertical", "margin": 10}},
    },
    "title": {"color": "currentColor"},
    "range": {"category": PALETTE, "symbol": SHAPES},
    "padding": 4,
}
_number = count(1)


@dataclass(frozen=True)
class Figure:
    """A chart ready for the page."""

    title: str
    note: str
    """A text below the chart, empty where there is none."""
    svg: str


def warm_up() -> None:
    """Load what draws charts. That takes a second on two cores; afterwards a chart takes milliseconds."""
    if not drawable():
        return
    import altair as alt
    import vl_convert

    vl_convert.vegalite_to_svg(alt.Chart(alt.Data(values=[])).mark_point().to_dict())


def figure(chart: alt.TopLevelMixin, title: str, alternative: str, note: str = "") -> Figure:
    """Draw a chart. Where no charts can be drawn, the figure says so. `alternative` tells in words what it shows."""
    import vl_convert

    spec = chart.to_dict(validate=False)
    spec["config"] = CONFIG
    svg = vl_convert.vegalite_to_svg(spec) if drawable() else left_out(title)
    # The ids of all SVGs of a page share one name space.
    prefix = f"c{next(_number)}-"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{title}. {alternative}")}" ', 1)
    return Figure(title, note, svg)


def inline(rows: Sequence[dict[str, Any]]) -> alt.Data:
    """Return rows as data that stand in the chart itself."""
    import altair as alt

    return alt.Data(values=list(rows))

"""Charts of a profile: where a query's time goes by module (flame chart) and by type of operator."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flows.report.drawing import PALETTE, Figure, figure, inline
from tasks.profilers._kinds import KINDS, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    import altair as alt

    from tasks.profiling.profile import Profile

SMALLEST = 0.002
"""Parts of the flame chart that take a smaller share of the query than this are left out: they would be invisible."""
CHARACTER = 6.3
"""Mean width of a letter, in pixels."""
ROW = 22
"""Height of a level of the flame chart, in pixels."""
TOOLTIP = re.compile(r'(<path aria-label="([^"]*)"[^>]*?)(?:/>|></path>)')
"""A part of the chart with its description. A browser shows the <title> of what is pointed at, which Vega does not
write."""
COLOURS = dict(zip(KINDS, ("#5eead4", "#fdba74", "#f9a8d4", "#fde68a", "#cbd5e1"), strict=True)) | {"module": "#bfdbfe"}
"""Kind of operator -> its colour. They are light, because the text on them is dark in both colour schemes."""


@dataclass
class _Part:
    """A rectangle of the flame chart."""

    name: str
    ms: float = 0.0
    """Time in the part and in all that it calls, per query."""
    inner: dict[str, _Part] = field(default_factory=dict)
    """The parts that it calls, by name."""

    def drawn(self, start: float, depth: int, above: str) -> Iterator[dict[str, Any]]:
        """Yield this part, then those that it calls: they begin where it begins, and follow each other.

        Parameters
        ----------
        start
            Where the part begins, in milliseconds.
        depth
            Its level in the chart, from 0.
        above
            Names of the parts that call it, joined by slashes.
        """
        where = f"{above}/{self.name}" if above else self.name
        colour = kind(self.name) if "::" in self.name or not self.inner else "module"
        yield {
            "name": self.name,
            "start": start,
            "end": start + self.ms,
            "depth": depth,
            "kind": colour,
            "where": where,
            "ms": self.ms,
        }
        for part in self.inner.values():
            yield from part.drawn(start, depth + 1, where if depth else "")
            start += part.ms


def _tree(profile: Profile) -> _Part:
    """Return the whole query, with the parts that it calls."""
    root = _Part("query")
    for stack, ms in profile.stacks.items():
        part = root
        part.ms += ms
        for name in stack:
            part = part.inner.setdefault(name, _Part(name))
            part.ms += ms
    return root


def flame(profile: Profile, width: int = 1000) -> Figure | None:
    """Draw modules and operators by the time they take in a query, each below what calls it; None without stacks."""
    import altair as alt

    root = _tree(profile)
    if not root.ms:
        return None
    parts = [part for part in root.drawn(0.0, 0, "") if part["ms"] >= SMALLEST * root.ms]
    for part in parts:
        room = int((part["ms"] / root.ms * width - 6) / CHARACTER)
        short = part["name"].removeprefix("aten::")
        part["label"] = short if len(short) <= room else _cut(short, room)
        part["words"] = f"{part['where']}: {part['ms']:.3g} ms, {part['ms'] / root.ms:.1%}"
    levels = max(part["depth"] for part in parts) + 1
    base = alt.Chart(inline(parts), width=width, height=levels * ROW)
    x = alt.X(
        "start:Q",
        title="ms per query, under the profiler",
        scale=alt.Scale(domain=[0, root.ms], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )
    y = alt.Y("depth:O", axis=None, scale=alt.Scale(domain=list(range(levels)), paddingInner=0.06, paddingOuter=0))
    shown = [name for name in COLOURS if any(part["kind"] == name for part in parts)]
    colour = alt.Color(
        "kind:N",
        title=None,
        sort=shown,
        scale=alt.Scale(domain=shown, range=[COLOURS[n] for n in shown]),
        legend=alt.Legend(columns=6, symbolType="square"),
    )
    bars = base.mark_rect(stroke="#ffffff", strokeWidth=0.6, aria=True).encode(
        x=x, x2="end:Q", y=y, color=colour, description="words:N"
    )
    labels = base.mark_text(align="left", dx=4, fontSize=11, color="#111827").encode(x="start:Q", y=y, text="label:N")
    longest = sorted((part for part in parts if part["kind"] != "module" and part["depth"]), key=lambda p: -p["ms"])[:5]
    drawn = figure(
        alt.layer(bars, labels),
        f"Where a query's time goes, by module ({profile.runtime})",
        "Longest: " + "; ".join(part["words"] for part in longest),
        f"Mean of {profile.queries} queries; a part's width is its time, what it calls stands below it, in order of "
        f"execution. Parts under {SMALLEST:.1%} are left out.",
    )
    return replace(drawn, svg=TOOLTIP.sub(r"\1><title>\2</title></path>", drawn.svg))


def _cut(text: str, room: int) -> str:
    """Return the beginning of a text that has more than `room` letters, or nothing where it would not be readable."""
    return text[: room - 1] + "…" if room > 3 else ""


def by_type(profile: Profile, most: int = 14) -> Figure | None:
    """Draw how many operators of each type there are, and how much of the time they take; None without operators.

    The `most` types that take the longest have a bar of their own. The others share one.
    """
    import altair as alt

    rows = _types(profile, most)
    if not rows:
        return None
    order = [row["type"] for row in rows]
    # A browser's letters may be wider than those that vl-convert counts on.
    room = min(max(map(len, order)) * CHARACTER * 1.15, 280)
    labels = alt.Axis(labelLimit=260, ticks=False, minExtent=room)
    named = alt.Y("type:N", sort=order, title=None, axis=labels)
    bare = alt.Y("type:N", sort=order, title=None, axis=None)
    times = _bars(rows, "share", "% of the operators' time", ".1f").encode(y=named)
    counts = _bars(rows, "operators", "operators per query", ".0f", colour=PALETTE[3]).encode(y=bare)
    alternative = "; ".join(
        f"{row['type']}: {row['operators']:.0f} operators, {row['share']:.1f} % of the time" for row in rows
    )
    return figure(alt.hconcat(times, counts, spacing=24), f"Operators by type ({profile.runtime})", alternative)


def _types(profile: Profile, most: int) -> list[dict[str, Any]]:
    """Return type, operators per query and share of the time in per cent, for each type and for the others together."""
    sums: dict[str, dict[str, Any]] = defaultdict(lambda: {"operators": 0.0, "share": 0.0})
    for row in profile.operators:
        entry = sums[row["type"].removeprefix("aten::")]
        entry["operators"] += row["calls"] / profile.queries
        entry["share"] += row["share"] * 100
    ranked = sorted(({"type": name, **entry} for name, entry in sums.items()), key=lambda entry: -entry["share"])
    rows, rest = ranked[:most], ranked[most:]
    if rest:
        rows.append(
            {
                "type": f"{len(rest)} other types",
                "operators": sum(entry["operators"] for entry in rest),
                "share": sum(entry["share"] for entry in rest),
            }
        )
    return rows


def _bars(
    rows: list[dict[str, Any]], field: str, title: str, form: str, *, colour: str = PALETTE[0]
) -> alt.LayerChart | alt.FacetChart:
    """Return horizontal bars of a field, each with its figure behind it in the given form."""
    import altair as alt

    base = alt.Chart(inline(rows), width=300, height={"step": 24})
    scale = alt.Scale(domain=[0, max(row[field] for row in rows) * 1.18], nice=False)
    x = alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4))
    words = base.mark_text(align="left", dx=4, fontSize=11, color="currentColor")
    return alt.layer(
        base.mark_bar(color=colour).encode(x=x),
        words.encode(x=x, text=alt.Text(f"{field}:Q", format=form)),
    )

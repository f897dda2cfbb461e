"""The report's plots as SVG text that inherits the page's colours, so that light, dark and print all fit."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dedup_storage.report.model import Curve, Report
from dedup_storage.report.show.cells import times
from dedup_storage.words import human_bytes

__all__ = ["BAR", "INK", "MUTED", "plots", "svg"]

# Drawn in these two colours, replaced by CSS variables: matplotlib cannot name one.
INK, BAR, MUTED = "#010203", "#040506", "#070809"
_VARIABLES = {INK: "var(--ink)", BAR: "var(--bar)", MUTED: "var(--muted)"}
_MOST_COLUMNS, _MOST_BUCKETS = 16, 64
_STYLE: Any = {
    "font.size": 10, "font.family": "sans-serif", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "dedup_storage", "figure.facecolor": "none", "axes.facecolor": "none",
    # Names come from the data: two dollar signs in one are no formula.
    "text.parse_math": False,
}  # fmt: skip


def plots(report: Report) -> list[tuple[str, str]]:
    """(caption, SVG) of every plot the report has data for."""
    drawn = []
    if report.baselines:
        layouts = [("as stored now", float(report.sequence_bytes))]
        layouts += [(b.title, b.sequences.value) for b in report.baselines]
        drawn.append(
            ("Sequence columns: stored bytes by layout (logarithmic)", svg(_bars(layouts, log=True), len(layouts)))
        )
    columns = [
        (f"{c.column} ({c.table.rsplit('/', 1)[-1]})" if len(report.tables) > 1 else c.column, float(c.stored_bytes))
        for c in sorted(report.columns, key=lambda c: -c.stored_bytes)[:_MOST_COLUMNS]
    ]
    drawn.append(("Stored bytes by column", svg(_bars(columns), len(columns))))
    for curve in report.curves:
        drawn.append(
            (f"Ratio of the sequence columns, flat shuffled / split, against the {curve.name}", svg(_line(curve), 7))
        )
    if len(report.buckets) > 1:
        buckets = [float(p.stored_bytes) for p in report.buckets]
        caption = f"Stored bytes by bucket (largest / mean {report.skew.get('bucket', 1):.2f})"
        drawn.append((caption, svg(_buckets(buckets), 7)))
    return drawn


def _bars(rows: Sequence[tuple[str, float]], log: bool = False) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        labels, values = [r[0] for r in rows][::-1], [r[1] for r in rows][::-1]
        bars = axes.barh(labels, values, color=BAR, height=0.7)
        axes.bar_label(bars, [human_bytes(v) for v in values], padding=4)
        if log and min(values) > 0:
            axes.set_xscale("log")
            axes.set_xlim(min(values) / 3, max(values) * 6)
        else:
            axes.set_xlim(0, max([*values, 1.0]) * 1.2)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    return draw


def _line(curve: Curve) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.plot(curve.x, curve.ratio, color=BAR, marker="o", linewidth=2)
        for x, y in zip(curve.x, curve.ratio, strict=True):
            axes.annotate(times(y), (x, y), textcoords="offset points", xytext=(0, 7), ha="center")
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve.x, [f"{x:,}" for x in curve.x])
        axes.minorticks_off()
        axes.set_ylim(0, max([*curve.ratio, 1.0]) * 1.25)
        axes.set_xlabel(curve.name)
        axes.set_ylabel("flat shuffled / split")
        axes.grid(axis="y", color=MUTED, linewidth=0.6)
        axes.set_axisbelow(True)

    return draw


def _buckets(values: Sequence[float]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        # Many buckets become equal groups of neighbours, each shown by its largest.
        step = -(-len(values) // _MOST_BUCKETS)
        shown = [max(values[i : i + step]) for i in range(0, len(values), step)]
        axes.bar(range(0, len(values), step), shown, width=0.8 * step, color=BAR)
        axes.axhline(sum(values) / len(values), color=INK, linewidth=1, linestyle="--")
        axes.yaxis.set_major_formatter(lambda v, _: human_bytes(v))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("bucket" if step == 1 else f"bucket (largest of {step})")
        axes.margins(x=0.02)

    return draw


def svg(draw: Callable[[Axes], None], rows: int) -> str:
    """Draw one plot, ``rows`` lines of text high, as SVG text."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 0.7 + 0.36 * rows), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Black is matplotlib's default and the only colour left to a fixed value; sizes come from the page.
    text = text.replace("#000000", "var(--ink)")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1)

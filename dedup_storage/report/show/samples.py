"""The report on a sample as one HTML page with plots."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from dedup_storage.report.show.html import render
from dedup_storage.report.show.plots import BAR, INK, MUTED, svg
from dedup_storage.sampling.summary import MetricEstimate, SampleReport, StratumRow
from dedup_storage.words import human_bytes

__all__ = ["html"]

_MOST_STRATA = 24


def html(report: SampleReport) -> str:
    """The page's text, self-contained."""
    summary = report.summary
    share = report.planned_bytes / report.all_bytes if report.all_bytes else 0.0
    tiles = [
        ("users in the sample", f"{summary.users:,}"),
        ("of all", f"{summary.population:,}"),
        ("effective users", f"{summary.effective_users:,.0f}"),
        ("weights", f"{report.weights.least:.3g} to {report.weights.most:.3g}"),
        ("files to open", f"{human_bytes(report.planned_bytes)} ({share:.1%})"),
        ("read for this page", human_bytes(report.read_bytes)),
    ]
    verified = any(m.truth is not None for m in report.metrics)
    headings = ["metric", "estimate", f"{report.confidence:.0%} interval", "standard error", "unweighted"]
    rows = [_metric_row(m, verified) for m in report.metrics]
    strata = [_stratum_row(s) for s in summary.strata]
    tables = [
        ("Estimates", headings + (["truth", "covered"] if verified else []), rows),
        ("Strata", ["stratum", "users", "requested", "sampled", "share", "weight"], strata),
    ]
    page = {"report": report, "tiles": tiles, "plots": _plots(report), "tables": tables, "left": ("metric", "stratum")}
    return render("sample.html.j2", page)


def _metric_row(metric: MetricEstimate, verified: bool) -> list[str]:
    row = [
        metric.metric,
        f"{metric.estimate:.5g}",
        f"{metric.low:.5g} to {metric.high:.5g}",
        f"{metric.standard_error:.3g}",
        "" if metric.unweighted is None else f"{metric.unweighted:.5g}",
    ]
    if verified:
        row += ["" if metric.truth is None else f"{metric.truth:.5g}"]
        row += ["" if metric.covered is None else "yes" if metric.covered else "no"]
    return row


def _stratum_row(s: StratumRow) -> list[str]:
    return [s.stratum, f"{s.users:,}", f"{s.requested:,.1f}", f"{s.sampled:,}", f"{s.share:.2%}", f"{s.weight:.4g}"]


def _plots(report: SampleReport) -> list[tuple[str, str]]:
    strata = report.summary.strata[:_MOST_STRATA]
    drawn = [("Users by stratum: sampled, and requested (line)", svg(_strata(strata), len(strata) + 1))]
    metrics = [m for m in report.metrics if m.low == m.low and m.estimate]
    if metrics:
        caption = "Estimates and intervals, relative to the estimate"
        if any(m.truth is not None for m in metrics):
            caption += "; the cross is the truth"
        drawn.append((caption, svg(_intervals(metrics), len(metrics) + 1)))
    return drawn


def _strata(strata: tuple[StratumRow, ...]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        labels = [s.stratum for s in strata][::-1]
        bars = axes.barh(labels, [s.sampled for s in strata][::-1], color=BAR, height=0.7)
        axes.bar_label(bars, [f"{s.sampled:,}" for s in strata][::-1], padding=4)
        for place, s in enumerate(strata[::-1]):
            axes.plot([s.requested, s.requested], [place - 0.4, place + 0.4], color=INK, linewidth=2)
        axes.set_xlim(0, max([1.0, *(float(max(s.sampled, s.requested)) for s in strata)]) * 1.2)
        axes.set_xlabel("users")

    return draw


def _intervals(metrics: list[MetricEstimate]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for place, m in enumerate(metrics[::-1]):
            low, high = m.low / m.estimate - 1, m.high / m.estimate - 1
            axes.plot([low, high], [place, place], color=BAR, linewidth=3)
            axes.plot([0], [place], color=BAR, marker="o")
            if m.truth is not None:
                axes.plot([m.truth / m.estimate - 1], [place], color=INK, marker="x", markersize=8)
        axes.set_yticks(range(len(metrics)), [m.metric for m in metrics][::-1])
        axes.set_ylim(-0.6, len(metrics) - 0.4)
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:+.1%}")
        axes.grid(axis="x", color=MUTED, linewidth=0.6)
        axes.set_axisbelow(True)

    return draw

"""The report as one HTML page that needs nothing else: no network, no scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dedup_storage.report.model import Report
from dedup_storage.report.show.cells import times
from dedup_storage.report.show.plots import plots
from dedup_storage.report.show.text import LEFT_HEADINGS, headline, titled_tables
from dedup_storage.report.show.user_grain import grain_title, verdicts
from dedup_storage.words import human_bytes

__all__ = ["html", "render"]


def html(report: Report) -> str:
    """The page's text. Names from the data are escaped; only the plots made here are not."""
    return render(
        "report.html.j2",
        {
            "report": report,
            "headline": headline(report),
            "tiles": _tiles(report),
            "plots": plots(report),
            "tables": list(titled_tables(report)),
            "left": LEFT_HEADINGS,
            "grain_title": grain_title(report.layout),
            "verdicts": verdicts(report.user_grain),
        },
    )


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this package; names from the data are escaped."""
    environment = Environment(
        loader=PackageLoader("dedup_storage.report.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(values)


def _tiles(report: Report) -> list[tuple[str, str]]:
    tiles = [("stored, all files", human_bytes(report.stored_bytes))]
    tiles.append(("of it sequence columns", human_bytes(report.sequence_bytes)))
    if report.dedup_factor is not None:
        tiles.append(("impressions a request (B / R)", f"{report.dedup_factor:.1f}"))
    by_layout = {b.layout: b for b in report.baselines}
    for layout, label in (
        ("flat_shuffled", "smaller than flat, shuffled"),
        ("flat_arrival", "smaller than flat, arrival order"),
    ):
        if layout in by_layout and by_layout[layout].sequence_ratio is not None:
            about = "~" if by_layout[layout].rough else ""
            tiles.append((f"sequences {label}", about + times(by_layout[layout].sequence_ratio)))
    if "floor" in by_layout and by_layout["floor"].sequence_ratio:
        tiles.append(("sequences, times the floor", times(1 / (by_layout["floor"].sequence_ratio or 1))))
    tiles += [(f"smaller than a list a request ({g.group})", times(g.ratio)) for g in report.user_lists if g.ratio]
    tiles += [(f"tokens for each event of a user ({g.group})", times(g.ratio.value)) for g in report.user_grain]
    return tiles

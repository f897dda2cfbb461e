"""What histories repeat and what the user grain would save, as cells and sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from dedup_storage.layout import Layout
from dedup_storage.report.model import Range, UserGrain
from dedup_storage.report.show.cells import span, times

__all__ = ["grain_rows", "grain_text", "grain_title", "verdicts"]

_DIRECTIONS = {False: "at the end", True: "at the front", None: "either end"}
_Cell = Callable[[UserGrain], str]


def grain_title(layout: str | None = None) -> str:
    """Title of the table.

    Args:
        layout: Of the dataset that is reported on, where there is one.
    """
    if layout == Layout.USER:
        return "The user grain: every event of a user once (estimated from the lists alone, as for any log)"
    return "The user grain: every event of a user once (an estimate; written with --layout user)"


def grain_rows(groups: Sequence[UserGrain]) -> list[tuple[str, ...]]:
    """A row for each measure, with a cell for each group."""
    return [(title, *(cell(group) for group in groups)) for title, cell in _ROWS]


def verdicts(groups: Sequence[UserGrain]) -> list[str]:
    """Whether it pays, a sentence for each group."""
    return [f"{group.group}: {group.verdict}" for group in groups]


def grain_text(groups: Sequence[UserGrain]) -> list[Text | Table]:
    """Table and sentences for a terminal; nothing without groups."""
    if not groups:
        return []
    table = Table(title=grain_title(), title_justify="left", box=None, pad_edge=False)
    table.add_column("sequence group", overflow="fold")
    for group in groups:
        table.add_column(Text(group.group), justify="right", overflow="fold")
    for row in grain_rows(groups):
        table.add_row(*(Text(cell) for cell in row))
    return [Text(), table, *(Text(sentence) for sentence in verdicts(groups))]


def _count(value: Range) -> str:
    whole = f"{value.value:,.0f}"
    return whole if value.low == value.high else f"{whole} ({value.low:,.0f} to {value.high:,.0f})"


def _ratio(value: Range | None) -> str:
    if value is None:
        return "-"
    return times(value.value) + ("" if value.low == value.high else f" ({times(value.low)} to {times(value.high)})")


def _share(value: Range) -> str:
    return f"{value.value:.1%}" + ("" if value.low == value.high else f" ({value.low:.1%} to {value.high:.1%})")


def _slide(group: UserGrain) -> str:
    if group.slide is None or group.slide_mean is None:
        return "-"
    return f"{group.slide:,.0f} (mean {group.slide_mean:,.1f})"


_ROWS: tuple[tuple[str, _Cell], ...] = (
    ("columns of the event", lambda g: ", ".join(g.event_columns)),
    ("columns that depend on the request", lambda g: ", ".join(g.request_columns) or "none"),
    ("new events come", lambda g: _DIRECTIONS[g.newest_first]),
    ("requests with a history", lambda g: _count(g.requests)),
    ("tokens in their lists", lambda g: _count(g.tokens)),
    ("tokens to store, each event once", lambda g: _count(g.events)),
    ("tokens / tokens to store, over all dates", lambda g: _ratio(g.ratio)),
    ("... lists begun anew each month", lambda g: _ratio(g.ratio_month)),
    ("... lists begun anew each day", lambda g: _ratio(g.ratio_day)),
    ("new events from request to request, median", _slide),
    ("runs a request", lambda g: f"{g.runs.value:.2f} (99 %: {g.runs_p99:,.0f})"),
    ("lists that are no windows", lambda g: _share(g.no_windows)),
    ("stored, split layout", lambda g: span(g.stored_split)),
    ("stored, user grain", lambda g: span(g.stored_user)),
    ("decoded in an epoch, split layout", lambda g: span(g.decoded_split)),
    ("decoded in an epoch, user grain", lambda g: span(g.decoded_user)),
    ("moved to the device, a list a request", lambda g: span(g.moved_split)),
    ("... by user and day", lambda g: span(g.moved_user_day)),
    ("... by user, all dates", lambda g: span(g.moved_user)),
)

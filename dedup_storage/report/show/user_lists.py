"""What layout ``user`` stores in place of a list for each request, as cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dedup_storage.report.model import UserLists
from dedup_storage.report.show.cells import span, times
from dedup_storage.words import human_bytes

__all__ = ["LISTS_TITLE", "list_rows"]

LISTS_TITLE = "Users' lists as they are stored: each event once, and of each request its runs"
_Cell = Callable[[UserLists], str]


def list_rows(groups: Sequence[UserLists]) -> list[tuple[str, ...]]:
    """A row for each measure, with a cell for each group."""
    return [(title, *(cell(group) for group in groups)) for title, cell in _ROWS]


_ROWS: tuple[tuple[str, _Cell], ...] = (
    ("list columns", lambda g: ", ".join(g.columns)),
    ("the log's lists begin with", lambda g: "the newest event" if g.newest_first else "the oldest event"),
    ("events stored", lambda g: f"{g.events:,}"),
    ("runs of all requests", lambda g: f"{g.runs:,}"),
    ("stored: values of the events", lambda g: human_bytes(g.event_bytes)),
    ("stored: their users, positions, epochs", lambda g: human_bytes(g.key_bytes)),
    ("stored: runs of the requests", lambda g: human_bytes(g.run_bytes)),
    ("stored: lists that are no windows", lambda g: human_bytes(g.list_bytes)),
    ("stored, together", lambda g: human_bytes(g.stored_bytes)),
    ("a list for each request (split layout)", lambda g: span(g.request_lists)),
    ("... times what is stored", lambda g: times(g.ratio)),
    ("floor: every event of every user once", lambda g: span(g.floor)),
    ("... stored, times the floor", lambda g: times(g.times_floor)),
)

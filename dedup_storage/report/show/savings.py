"""The estimate of what a flat log would save, for a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dedup_storage.report.estimate.savings import Savings
from dedup_storage.report.show.cells import span, times
from dedup_storage.report.show.user_grain import grain_text
from dedup_storage.words import human_bytes

__all__ = ["savings_text"]


def savings_text(savings: Savings, *, made_plain: bool = False) -> Group:
    """The estimate for a terminal.

    Args:
        savings: The estimate.
        made_plain: What was measured are plain flat rows that were made of the log, which does not lie so.
    """
    table = Table(title="Expected stored bytes", title_justify="left", box=None, pad_edge=False)
    table.add_column("stored as")
    for heading in ("sequence columns", "smaller by", "all columns", "smaller by", "users measured"):
        table.add_column(heading, justify="right")
    now = (human_bytes(savings.sequence_bytes), "1", human_bytes(savings.stored_bytes), "1", "")
    table.add_row("plain flat rows, in the log's order" if made_plain else "as it is now", *now)
    for row in savings.layouts:
        floor = row.total_saving is None
        total = "-" if floor else span(row.total, row.rough)
        cells = (
            span(row.sequences, row.rough),
            times(row.sequence_saving),
            total,
            times(row.total_saving),
            f"{row.share:.2%}",
        )
        table.add_row(row.title, *cells)
    s = savings.sample
    drawn = f"{s.share:.2%} of the users ({s.users:,} users, {s.impressions:,} rows)"
    requests = f"{savings.requests.value:,.0f}"
    if savings.requests.low < savings.requests.high:
        requests += f" ({savings.requests.low:,.0f} to {savings.requests.high:,.0f})"
    return Group(
        Text(f"{savings.source}: {savings.rows:,} rows; measured on {drawn}."),
        Text(f"Requests: {requests}; impressions a request (B / R): {savings.dedup_factor:.1f}."),
        table,
        Text(
            f"In memory, as rows are shuffled and sent to the GPU: {human_bytes(savings.flat_wire_bytes)} "
            f"flat, {human_bytes(savings.split_wire_bytes)} split: {times(savings.wire_saving)} less."
        ),
        *grain_text(savings.user_grain),
    )

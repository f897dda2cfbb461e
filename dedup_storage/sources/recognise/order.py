"""Whether lists of times run the way that a schema takes them to. Pure Arrow."""

from __future__ import annotations

import pyarrow as pa

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.forms import Order
from dedup_storage.forms.models import ListForm
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.forms.lists import Lists
from dedup_storage.sources.recognise.lists import clearly_down, time_numbers, time_steps
from dedup_storage.sources.source import Source

__all__ = ["order_notes", "turned_lists"]


def order_notes(source: Source, schema: LogSchema) -> list[str]:
    """What ``turned_lists`` finds in a log's first rows; nothing where only Spark reads it, or no list has times."""
    timed = [s.column for s in schema.sequences if s.times]
    if not timed:
        return []
    # A list with a form may be made of any columns.
    columns = None if schema.forms else [c for c in timed if c in source.schema.names]
    table = next((table for table in source.tables(columns) if table.num_rows), None)
    return [] if table is None else turned_lists(standard_table(table, schema), schema)


def turned_lists(table: pa.Table, schema: LogSchema) -> list[str]:
    """A sentence for each list of times that begins with its newest element, while lists count as oldest first.

    Args:
        table: Rows in their standard columns, forms applied.
        schema: The log's meaning.
    """
    told = []
    for sequence in schema.sequences:
        if not sequence.times or sequence.column not in table.column_names:
            continue
        lists = Lists.of(single_chunk(table[sequence.column]))
        times = time_numbers(lists.values)
        if times is None:
            continue
        up, down = time_steps(times[1], lists.offsets)
        if not clearly_down(up, down):
            continue
        form = schema.forms.get(sequence.column)
        turned = isinstance(form, ListForm) and form.order is Order.NEWEST_FIRST
        remedy = "Leave out order: newest-first" if turned else "Say order: newest-first"
        told.append(
            f"The times of {sequence.column} go down {down:,} times and up {up:,} times in the first rows, and lists "
            f"count as oldest first: what takes the newest elements would take the oldest. {remedy} under forms for "
            f"each list of the group."
        )
    return told

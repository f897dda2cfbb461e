"""What is known of a whole log before anything is estimated."""

from __future__ import annotations

from dedup_storage.errors import InputError
from dedup_storage.layout import TableRole
from dedup_storage.report.estimate.layouts import KnownTotals, is_list
from dedup_storage.report.parquet.measured import Measured
from dedup_storage.report.parquet.raw_bytes import element_count

__all__ = ["known_totals"]


def known_totals(measured: Measured) -> KnownTotals:
    """What the footers say about the whole log, for estimates."""
    requests, impressions = measured.of_role(TableRole.REQUESTS), measured.of_role(TableRole.IMPRESSIONS)
    flat = measured.of_role(TableRole.LOGS)
    anchor = requests if requests is not None else flat
    if anchor is None:
        raise InputError("the tables hold no log", expected="a requests and an impressions table, or a logs table")
    # Of lists that are made of events nothing tells the elements: they are counted by requests.
    events = [measured.totals[t.name].columns for t in measured.tables if t.role == TableRole.EVENTS.value]
    lists = [f for f in anchor.arrow_schema if is_list(f.type) and not any(f.name in columns for columns in events)]
    elements = {f.name: element_count(f.type, anchor.columns[f.name]) for f in lists}
    rows = impressions.rows if impressions is not None else anchor.rows
    return KnownTotals(rows, requests.rows if requests is not None else None, elements, requests is not None)

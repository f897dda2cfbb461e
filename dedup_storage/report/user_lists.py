"""What layout ``user`` stores of each group of histories, beside what a list for each request would take."""

from __future__ import annotations

from collections.abc import Mapping

from dedup_storage.event_groups import EventGroup
from dedup_storage.layout import TableRole
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.estimate.layouts import LayoutEstimate
from dedup_storage.report.estimate.ranges import columns_range
from dedup_storage.report.model import UserLists
from dedup_storage.report.parquet.footers import ColumnTotals
from dedup_storage.report.parquet.measured import Measured

__all__ = ["user_lists"]

_NOTHING = ColumnTotals()


def user_lists(measured: Measured, group: EventGroup, estimates: Mapping[BaselineLayout, LayoutEstimate]) -> UserLists:
    """One group's users' lists.

    Args:
        measured: Footers of the dataset's tables.
        group: The group.
        estimates: Stored bytes of the same rows in other layouts, as far as they were measured.
    """
    events = measured.totals[group.table]
    requests = measured.of_role(TableRole.REQUESTS)
    of_requests = {} if requests is None else requests.columns
    runs = of_requests.get(group.runs_column, _NOTHING)
    event_bytes = sum(column.stored_bytes for name, column in events.columns.items() if name in group.columns)
    list_bytes = sum(of_requests.get(name, _NOTHING).stored_bytes for name in group.columns)
    stored = events.column_bytes + runs.stored_bytes + list_bytes
    lists = columns_range(estimates, BaselineLayout.SPLIT, group.columns)
    floor = columns_range(estimates, BaselineLayout.FLOOR, group.columns)
    return UserLists(
        group=group.name,
        columns=group.columns,
        newest_first=group.newest_first,
        events=events.rows,
        # Of a missing list of runs, and of an empty one, a leaf has a null.
        runs=max((values - nulls for values, nulls in runs.leaves.values()), default=0),
        event_bytes=event_bytes,
        key_bytes=events.column_bytes - event_bytes,
        run_bytes=runs.stored_bytes,
        list_bytes=list_bytes,
        stored_bytes=stored,
        request_lists=lists,
        floor=floor,
        ratio=lists.value / stored if lists is not None and stored else None,
        times_floor=stored / floor.value if floor is not None and floor.value else None,
    )

"""The tables that the user grain would lay a draw into: request rows with windows, and each event of a user once.

They are written to nowhere and counted, as all baselines are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather
from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.grain_plan import Plans, plan_history
from dedup_storage.report.estimate.histories import History, histories, user_time_order
from dedup_storage.windows import Windows, match

__all__ = ["EventTable", "UserTables", "plan_histories", "user_tables"]


@dataclass(frozen=True)
class EventTable:
    """One sequence group's events.

    Attributes:
        columns: Columns of the group's events; the first of them also answers for the windows' bytes.
        events: (events,) rows sorted by user and position: both, and the columns.
        windows: (num_requests,) start and length of each request's first run, and the further ones.
    """

    columns: tuple[str, ...]
    events: pa.Table
    windows: pa.Table


@dataclass(frozen=True)
class UserTables:
    """A draw in user layout.

    Attributes:
        requests: (num_requests,) request rows: scalars, lists of columns that depend on the request, and of the
            others those that are no windows.
        groups: Of each sequence group its events and windows.
    """

    requests: pa.Table
    groups: tuple[EventTable, ...]


def plan_histories(draw: LogDraw) -> Plans:
    """How to read each sequence group of a draw."""
    return {history.columns: plan_history(history) for history in histories(draw, user_time_order(draw))}


def user_tables(draw: LogDraw, plans: Plans) -> UserTables:
    """Lay a draw into the user grain.

    Args:
        draw: Rows of whole users.
        plans: How to read each group (``plan_histories``); found here where there is none.
    """
    order = user_time_order(draw)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    requests, groups = draw.requests, []
    for history in histories(draw, order):
        plan = plans.get(history.columns) or plan_history(history)
        lists = plan.lists(history)
        windows = match(lists)
        users = gather(draw.requests[draw.schema.user], order[np.searchsorted(lists.users, np.arange(lists.num_users))])
        groups.append(
            EventTable(plan.events, _events(lists.columns, windows, users), _windows(windows, back))
        )  # fmt: skip
        for name in plan.events:
            at = requests.column_names.index(name)
            requests = requests.set_column(at, name, _left(history, name, windows, back))
    return UserTables(requests, tuple(groups))


def _events(columns: Mapping[str, pa.Array], windows: Windows, users: pa.Array) -> pa.Table:
    counts = np.diff(windows.new_offsets)
    owners = pa.array(np.repeat(np.arange(len(counts)), counts))
    positions = ranges(np.zeros_like(counts), counts).astype(np.int32)
    chosen = pa.array(windows.new)
    return pa.table(
        {"user": users.take(owners), "position": pa.array(positions)}
        | {name: values.take(chosen) for name, values in columns.items()}
    )


def _windows(windows: Windows, back: Int64) -> pa.Table:
    """Start and length of the first run, lists of them for the rest; in the order of the request rows."""
    some = windows.runs > 0
    first = np.where(some, windows.run_offsets[:-1], 0)
    more = ranges(windows.run_offsets[:-1] + some, windows.runs - some)
    offsets = pa.array(offsets_from_lengths(windows.runs - some))
    columns: dict[str, pa.Array] = {}
    for name, values in (("start", windows.starts), ("length", windows.lengths)):
        values = values.astype(np.int32)
        head = values[first] if len(values) else np.zeros(len(some), dtype=np.int32)
        columns[name] = pa.array(head, mask=~some).take(pa.array(back))
        rest = pa.LargeListArray.from_arrays(offsets, pa.array(values[more]))
        columns[f"more_{name}s"] = gather(rest, back)
    return pa.table(columns)


def _left(history: History, name: str, windows: Windows, back: Int64) -> pa.Array:
    """The lists that stay with their requests: those that are no windows."""
    lists = history.lists
    lengths = np.where(windows.kept, lists.lengths, 0)
    values = lists.columns[name].take(pa.array(ranges(lists.offsets[:-1], lengths)))
    mask = pa.array(history.missing[name]) if history.missing[name].any() else None
    return gather(pa.LargeListArray.from_arrays(pa.array(offsets_from_lengths(lengths)), values, mask=mask), back)

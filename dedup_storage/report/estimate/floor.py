"""The floor: every event of every user stored once, which no layout that keeps the lists can undercut by much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup import ranges, run_starts
from dedup_storage.dedup.hashing import WindowHashes, combine, hash_column
from dedup_storage.dedup.runs import Int64
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.histories import histories, user_time_order

__all__ = ["events_once", "new_events"]


def new_events(elements: npt.NDArray[np.uint64], offsets: Int64, follows: npt.NDArray[np.bool_]) -> Int64:
    """How many elements at the end of each list do not stand at the end of the list before it.

    A history that slides repeats the newest part of the one before: the fewest new elements k are wanted such that
    the list without its last k elements is a suffix of the list before. k = 0 for a list that ends as the one
    before does; k = its length when nothing overlaps.

    Args:
        elements: (events,) hashes of the elements of all lists.
        offsets: (lists + 1,) int64.
        follows: (lists,) whether the list before belongs to the same user.

    Returns:
        (lists,) int64 in [0, length].
    Example: lists [1, 2, 3] and [2, 3, 4] of one user -> [3, 1]
    """
    lengths = np.diff(offsets)
    new = lengths.copy()
    windows = WindowHashes(elements)
    open_lists = np.flatnonzero(follows & (lengths > 0))
    k = 0
    while len(open_lists):
        kept = lengths[open_lists] - k
        fits = kept <= lengths[open_lists - 1]
        starts, before = offsets[open_lists], offsets[open_lists]
        here = windows.hashes(starts, starts + np.where(fits, kept, 0))
        there = windows.hashes(before - np.where(fits, kept, 0), before)
        same = fits & (here == there)
        new[open_lists[same]] = k
        k += 1
        open_lists = open_lists[~same]
        open_lists = open_lists[lengths[open_lists] > k]
    return new


def events_once(draw: LogDraw) -> pa.Table:
    """One row for each user with the user's events of every sequence column, each event once, oldest first.

    Lists of one group are taken together: an event is one element of each. The requests of a user are taken in
    order of event time (of request key where there is none).

    Returns:
        (num_users,) the sequence columns alone.
    """
    order = user_time_order(draw)
    users = draw.users[order]
    follows = np.zeros(len(order), dtype=bool)
    follows[1:] = users[1:] == users[:-1]
    first = run_starts([pa.array(users)])
    columns: dict[str, pa.Array] = {}
    for history in histories(draw, order):
        lists = history.lists
        new = new_events(combine([hash_column(values) for values in lists.columns.values()]), lists.offsets, follows)
        kept = ranges(lists.offsets[1:] - new, new)
        per_user = np.add.reduceat(new, first) if len(first) else np.empty(0, dtype=np.int64)
        bounds = np.concatenate([[0], np.cumsum(per_user)]).astype(np.int64)
        for name, values in lists.columns.items():
            columns[name] = pa.LargeListArray.from_arrays(pa.array(bounds), values.take(pa.array(kept)))
    return pa.table({name: columns[name] for name in draw.schema.sequence_columns})

"""The floor: every event of every user stored once, which no layout that keeps the lists can undercut by much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup import gather, ranges, run_starts
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.hashing import WindowHashes, combine, hash_column
from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.report.draw.users import LogDraw

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
    order = _user_time_order(draw)
    users = draw.users[order]
    follows = np.zeros(len(order), dtype=bool)
    follows[1:] = users[1:] == users[:-1]
    first = run_starts([pa.array(users)])
    groups: dict[str, list[str]] = {}
    for sequence in draw.schema.sequences:
        groups.setdefault(sequence.group or f"\0{sequence.column}", []).append(sequence.column)
    columns: dict[str, pa.Array] = {}
    for members in groups.values():
        lists = {name: single_chunk(gather(draw.requests[name], order)) for name in members}
        parts = {name: list_parts(array) for name, array in lists.items()}
        together = len({tuple(offsets[-1:]) for _, offsets in parts.values()}) == 1 and all(
            np.array_equal(offsets, next(iter(parts.values()))[1]) for _, offsets in parts.values()
        )
        for batch in [members] if together else [[m] for m in members]:
            offsets = parts[batch[0]][1]
            new = new_events(combine([hash_column(parts[m][0]) for m in batch]), offsets, follows)
            kept = ranges(offsets[1:] - new, new)
            per_user = np.add.reduceat(new, first) if len(first) else np.empty(0, dtype=np.int64)
            bounds = np.concatenate([[0], np.cumsum(per_user)]).astype(np.int64)
            for name in batch:
                values = parts[name][0].take(pa.array(kept))
                columns[name] = pa.LargeListArray.from_arrays(pa.array(bounds), values)
    return pa.table({name: columns[name] for name in draw.schema.sequence_columns})


def _user_time_order(draw: LogDraw) -> Int64:
    """Request rows by user, then time. (num_requests,) int64."""
    position = np.empty(draw.num_impressions, dtype=np.int64)
    position[draw.arrival] = np.arange(draw.num_impressions)
    # Arrival order is time order; a request arrives with the first of its impressions.
    arrived = np.full(draw.num_requests, draw.num_impressions, dtype=np.int64)
    np.minimum.at(arrived, draw.inverse, position)
    if draw.schema.event_time is None:
        arrived = np.arange(draw.num_requests, dtype=np.int64)
    return np.lexsort((arrived, draw.users)).astype(np.int64)

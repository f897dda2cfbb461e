"""The proof of a batch that was laid: its lists are made again of what is handed on, and compared with the logged ones.

Only what goes on to the tables is used, as it goes on: the runs, the new events and their positions, and the events
that were there.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import StorageError
from dedup_storage.windows.model import Bools, Events, Lists, Memory, Windows
from dedup_storage.windows.places import Places
from dedup_storage.windows.rebuild import differing, grown

__all__ = ["unproved"]


def unproved(
    lists: Lists, rows: Int64, users: Int64, stored: Events, places: Places, runs: pa.Array, new: pa.Array
) -> tuple[Bools, Events]:
    """Which lists do not come back, and the users' lists as they are afterwards.

    Args:
        lists: What was logged, oldest token first.
        rows: (lists,) the request of each, ascending.
        users: (requests,) int64, ascending.
        stored: The users' lists before.
        places: The positions in them.
        runs: (requests,) lists of (start, length); null where a request's lists stay as they are.
        new: (requests,) lists of new events: position, and a value of each column.

    Raises:
        StorageError: new events do not follow those that there were, or a request has runs and no lists.
    """
    events, offsets = list_parts(new)
    owners = np.repeat(users, np.diff(offsets))
    counts = np.bincount(owners, minlength=len(stored.offsets) - 1).astype(np.int64)
    position, *values = events.flatten()
    expected = ranges(places.ends, counts)
    if not np.array_equal(position.to_numpy(zero_copy_only=False), expected):
        raise _unsound("new events of users do not follow those that there were")
    after = grown(stored, counts, dict(zip(lists.columns, values, strict=True)))
    spans, bounds = list_parts(runs)
    listed = np.diff(bounds)[rows]
    if int(listed.sum()) != len(spans):
        raise _unsound("requests have runs and no lists")
    starts, lengths = (part.to_numpy(zero_copy_only=False).astype(np.int64) for part in spans.flatten())
    kept = runs.is_null().to_numpy(zero_copy_only=False).astype(np.bool_)[rows]
    # Requests without lists have no runs, so that those of the others lie one behind the other.
    run_offsets = np.append(bounds[rows], bounds[-1])
    starts = places.number(np.repeat(lists.users, np.diff(run_offsets)), starts, lengths)
    found = Windows(
        run_offsets, starts, lengths, kept, after.offsets, np.empty(0, dtype=np.int64),
        Memory.none(0),
    )  # fmt: skip
    return differing(lists, found, after), after


def _unsound(what: str) -> StorageError:
    return StorageError(what, fix="Nothing was published. Please report it.")

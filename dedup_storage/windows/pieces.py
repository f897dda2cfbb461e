"""A user's stored events as lists: rows of events, as they come from a table, in pieces without a gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import run_starts

__all__ = ["event_pieces"]


def event_pieces(batch: pa.RecordBatch, user: str, position: str, columns: Sequence[str]) -> pa.RecordBatch:
    """One row for each run of a user's events that follow each other: user, first position, a list of each column.

    Args:
        batch: Events in any order; the fewer pieces, the more of a user's events lie together by position.
        user, position: Its key columns. A missing position counts as -1, which no event has.
        columns: The events' columns.
    """
    users = batch.column(user)
    places = pc.fill_null(batch.column(position), -1).to_numpy(zero_copy_only=False)
    new = np.ones(len(users), dtype=np.bool_)
    new[1:] = np.diff(places) != 1
    if len(users):
        new[run_starts([users])] = True
    starts = np.flatnonzero(new)
    offsets = pa.array(np.append(starts, len(users)).astype(np.int32))
    heads = pa.array(starts)
    lists = [pa.ListArray.from_arrays(offsets, batch.column(name)) for name in columns]
    arrays = [users.take(heads), pa.array(places[starts]), *lists]
    return pa.RecordBatch.from_arrays(arrays, names=[user, position, *columns])

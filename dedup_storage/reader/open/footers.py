"""What a file's footer tells of its row groups: their rows, and the users that each can hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dedup_storage.dedup.runs import Int64

__all__ = ["Users", "ascending", "bounds", "group_starts", "overlapping"]


class Users(NamedTuple):
    """A range of values, both ends in it; ``None`` is no end.

    Attributes:
        low: The least.
        high: The greatest.
    """

    low: Any
    high: Any


def group_starts(metadata: pq.FileMetaData) -> Int64:
    """(groups + 1,) first row of each row group, and the end; deleted rows included."""
    return np.cumsum([0, *(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))]).astype(np.int64)


def bounds(metadata: pq.FileMetaData, column: str) -> list[Users | None]:
    """Least and greatest value of a column in each row group; ``None`` where statistics do not say."""
    found: list[Users | None] = []
    place = next((i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column), None)
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(place).statistics if place is not None else None
        if statistics is not None and statistics.has_min_max:
            found.append(Users(statistics.min, statistics.max))
        else:
            found.append(None)
    return found


def overlapping(metadata: pq.FileMetaData, column: str, wanted: Users) -> npt.NDArray[np.bool_]:
    """(groups,) whether a row group can hold a value in the range; True where its statistics do not say."""
    return np.array([_overlaps(found, wanted) for found in bounds(metadata, column)], dtype=np.bool_)


def _overlaps(found: Users | None, wanted: Users) -> bool:
    if found is None or any(end is not None and type(found.low) is not type(end) for end in wanted):
        return True
    below = wanted.low is not None and found.high < wanted.low
    above = wanted.high is not None and found.low > wanted.high
    return not (below or above)


def ascending(found: list[Users | None]) -> bool:
    """Whether each row group begins where the one before ends, or behind."""
    return all(a is not None and b is not None and a.high <= b.low for a, b in pairwise(found))

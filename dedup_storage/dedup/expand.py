"""Inverse indices: from request rows to impression rows and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.gather import gather_table, list_parts
from dedup_storage.dedup.runs import ArrowColumn, Int64, run_lengths, run_starts, single_chunk
from dedup_storage.errors import InverseIndexError

__all__ = [
    "check_inverse",
    "collapse_table",
    "expand_array",
    "expand_table",
    "inverse_from_lengths",
    "lengths_from_inverse",
    "newest",
    "offsets_from_lengths",
    "ranges",
]


def offsets_from_lengths(lengths: npt.ArrayLike) -> Int64:
    """(n,) lengths -> (n + 1,) int64 offsets, beginning with 0."""
    counts = np.asarray(lengths, dtype=np.int64)
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def inverse_from_lengths(lengths: npt.ArrayLike) -> Int64:
    """(num_requests,) impressions of each request -> (num_impressions,) request of each impression.

    Example: [2, 0, 1] -> [0, 0, 2]
    """
    counts = np.asarray(lengths, dtype=np.int64)
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def lengths_from_inverse(inverse: npt.ArrayLike, num_requests: int) -> Int64:
    """Impressions of each request. (num_requests,) int64.

    Raises:
        InverseIndexError: an index is out of range.
    """
    indices = check_inverse(inverse, num_requests)
    return np.bincount(indices, minlength=num_requests).astype(np.int64)


def check_inverse(inverse: npt.ArrayLike, num_requests: int) -> Int64:
    """The indices as int64.

    Raises:
        InverseIndexError: an index is out of range.
    """
    indices = np.asarray(inverse, dtype=np.int64)
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= num_requests):
        bad = indices[(indices < 0) | (indices >= num_requests)][0]
        raise InverseIndexError(
            "an inverse index points outside the request rows",
            expected=f"0 to {num_requests - 1}",
            got=str(int(bad)),
            fix="Pass the inverse indices of the same batch.",
        )
    return indices


def ranges(starts: npt.ArrayLike, lengths: npt.ArrayLike) -> Int64:
    """The rows of several ranges, one after the other. Example: ranges([5, 0], [2, 1]) -> [5, 6, 0]"""
    first, counts = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    offsets = offsets_from_lengths(counts)
    return np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1], dtype=np.int64)


def expand_array(values: npt.NDArray[Any], inverse: npt.ArrayLike) -> npt.NDArray[Any]:
    """One row per impression from one row per request. (num_requests, ...) -> (num_impressions, ...).

    Raises:
        InverseIndexError: an index is out of range.
    Example: values [[7], [9]], inverse [0, 0, 1] -> [[7], [7], [9]]
    """
    expanded: npt.NDArray[Any] = np.take(values, check_inverse(inverse, len(values)), axis=0)
    return expanded


def expand_table(requests: pa.Table, inverse: npt.ArrayLike) -> pa.Table:
    """Like ``expand_array`` for every column of a table."""
    return gather_table(requests, check_inverse(inverse, requests.num_rows))


def collapse_table(flat: pa.Table, keys: Sequence[str], request_columns: Sequence[str]) -> tuple[pa.Table, Int64]:
    """Request rows of a flat table whose requests lie together.

    Args:
        flat: One row per impression.
        keys: Columns that identify a request.
        request_columns: Columns to keep, constant inside every request.

    Returns:
        The first row of every run of equal keys (num_requests rows, ``request_columns``) and the impressions
        of each (num_requests,) int64.
    """
    starts = run_starts([flat[k] for k in keys])
    return gather_table(flat.select(list(request_columns)), starts), run_lengths(starts, flat.num_rows)


def newest(column: ArrowColumn, most: int) -> pa.Array:
    """Each list's last ``most`` elements, as one array; null lists stay null.

    Args:
        column: (num_rows,) lists, newest element last.
        most: At least 1.
    """
    array = single_chunk(column)
    values, offsets = list_parts(array)
    lengths = np.diff(offsets)
    if not np.any(lengths > most):
        return array
    kept = np.minimum(lengths, most)
    elements = values.take(pa.array(ranges(offsets[1:] - kept, kept)))
    bounds = pa.array(offsets_from_lengths(kept))
    mask = array.is_null() if array.null_count else None
    return pa.LargeListArray.from_arrays(bounds, elements, mask=mask)

"""Matching rows of two tables by their keys without a Python loop and without assuming an order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import ArrowColumn, Int64, large_offsets, single_chunk

__all__ = ["key_codes", "match_keys", "strictly_ascending"]


def key_codes(columns: Sequence[ArrowColumn]) -> Int64:
    """One integer for each row, equal exactly where all key columns are equal (nulls equal nulls).

    Args:
        columns: Key columns of equal length (num_rows,).

    Returns:
        (num_rows,) int64. The numbers carry no order.
    """
    codes: Int64 | None = None
    for column in columns:
        encoded = single_chunk(column).dictionary_encode(null_encoding="encode")
        these = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if codes is None:
            codes = these
            continue
        # Renumbering after each column keeps the product of the two code spaces below rows squared.
        pairs = codes * np.int64(max(len(encoded.dictionary), 1)) + these
        codes = np.unique(pairs, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return codes if codes is not None else np.empty(0, dtype=np.int64)


def strictly_ascending(columns: Sequence[ArrowColumn]) -> bool:
    """Whether each row's key is greater than the row's before it, columns compared from first to last.

    Nulls count as not ascending.
    """
    arrays = [single_chunk(c) for c in columns]
    if any(a.null_count for a in arrays):
        return False
    rows = len(arrays[0])
    if rows < 2:
        return True
    undecided: pa.Array | None = None
    for array in arrays:
        before, after = array.slice(0, rows - 1), array.slice(1)
        falls, equal = pc.greater(before, after), pc.equal(before, after)
        if undecided is not None:
            falls, equal = pc.and_(falls, undecided), pc.and_(equal, undecided)
        if pc.any(falls).as_py():
            return False
        undecided = equal
    return not pc.any(undecided).as_py()


def match_keys(left: Sequence[ArrowColumn], right: Sequence[ArrowColumn]) -> Int64:
    """For every right row the left row of the same key.

    Args:
        left: Key columns (num_left,); where a key occurs twice its first row is taken.
        right: Key columns (num_right,) of the same types.

    Returns:
        (num_right,) int64 in [0, num_left), -1 where the key has no left row.
    Example: match_keys([[7, 9]], [[9, 8, 7]]) -> [1, -1, 0]
    """
    lefts, rights = [single_chunk(c) for c in left], [single_chunk(c) for c in right]
    for i, (x, r) in enumerate(zip(lefts, rights, strict=True)):
        if large_offsets(x.type) == r.type:
            lefts[i] = x.cast(r.type)
        elif r.type != x.type:
            rights[i] = pc.cast(r, x.type)
    num_left, num_right = len(lefts[0]), len(rights[0])
    same = num_left == num_right and all(x.equals(y) for x, y in zip(lefts, rights, strict=True))
    # Sorted files of two co-bucketed tables usually hold the same keys in the same order.
    if same and strictly_ascending(lefts):
        return np.arange(num_left, dtype=np.int64)
    codes = key_codes([pa.chunked_array([x, y]) for x, y in zip(lefts, rights, strict=True)])
    first = np.full(int(codes.max(initial=-1)) + 1, -1, dtype=np.int64)
    # Writing backwards leaves the first row of a repeated key.
    first[codes[:num_left][::-1]] = np.arange(num_left - 1, -1, -1, dtype=np.int64)
    return first[codes[num_left:]]

"""Runs of equal consecutive values: what a request looks like in a log that is sorted by its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ArrowColumn", "Int64", "dedup_factor", "large_offsets", "run_lengths", "run_starts", "single_chunk"]

ArrowColumn: TypeAlias = "pa.Array | pa.ChunkedArray"
Int64 = npt.NDArray[np.int64]


def single_chunk(column: ArrowColumn) -> pa.Array:
    """The column as one array; copies only when it has several chunks.

    More than 2 GiB of text, or 2**31 elements, come in the large form of the type, whose offsets have 64 bits.
    """
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    try:
        combined = column.combine_chunks()
        return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
    except pa.ArrowInvalid:
        # Offsets of 32 bits reach 2 GiB of text, or 2**31 elements of lists.
        large = large_offsets(column.type)
        if large == column.type:
            raise
        return pa.concat_arrays([chunk.cast(large) for chunk in column.chunks])


def large_offsets(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits wherever it has any; maps, which have no such form, stay."""
    types = pa.types
    if types.is_string(kind):
        return pa.large_string()
    if types.is_binary(kind):
        return pa.large_binary()
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(large_offsets(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([f.with_type(large_offsets(f.type)) for f in kind])
    return kind


def _changes(column: pa.Array) -> npt.NDArray[np.bool_]:
    """For rows 1..n-1, whether the value differs from the row before; two nulls are equal."""
    fixed = pa.types.is_integer(column.type) or pa.types.is_temporal(column.type)
    if fixed and column.null_count == 0:
        values = np.frombuffer(column.buffers()[1], dtype=f"i{column.type.bit_width // 8}")
        values = values[column.offset : column.offset + len(column)]
        return np.not_equal(values[1:], values[:-1])
    before, after = column.slice(0, len(column) - 1), column.slice(1)
    differs = pc.not_equal(before, after)
    if column.null_count:
        differs = pc.if_else(
            pc.or_(before.is_null(), after.is_null()), pc.xor(before.is_null(), after.is_null()), differs
        )
    return np.asarray(differs.to_numpy(zero_copy_only=False), dtype=np.bool_)


def run_starts(columns: Sequence[ArrowColumn]) -> Int64:
    """First row of every run of equal consecutive keys.

    Args:
        columns: Key columns of equal length (num_rows,). Nulls equal nulls.

    Returns:
        (num_runs,) int64, ascending, beginning with 0; empty for no rows.
    Example: run_starts([[7, 7, 9]]) -> [0, 2]
    """
    arrays = [single_chunk(c) for c in columns]
    rows = len(arrays[0])
    if rows == 0:
        return np.empty(0, dtype=np.int64)
    changed = np.zeros(rows, dtype=np.bool_)
    changed[0] = True
    for array in arrays:
        changed[1:] |= _changes(array)
    return np.flatnonzero(changed).astype(np.int64, copy=False)


def run_lengths(starts: Int64, rows: int) -> Int64:
    """Rows of each run, from the runs' first rows. (num_runs,) int64."""
    return np.diff(starts, append=np.int64(rows))


def dedup_factor(column: Any) -> float:
    """Rows divided by runs of equal values in the order given: what run-length storage could save at most."""
    rows = len(column)
    return rows / len(run_starts([column])) if rows else 1.0

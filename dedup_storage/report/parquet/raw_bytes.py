"""Raw size: the bytes that a column takes in Arrow memory, from metadata alone."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from dedup_storage.report.parquet.footers import ColumnTotals, Totals
from dedup_storage.report.parquet.pages import ColumnPages

__all__ = ["element_count", "raw_bytes", "total_raw_bytes"]

_OFFSET_BYTES = 4


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind))


def _leaf_types(kind: pa.DataType, repeated: bool = False) -> list[tuple[pa.DataType, bool]]:
    """(type, inside a list) of every leaf, in Parquet's order."""
    if pa.types.is_dictionary(kind):
        return _leaf_types(kind.value_type, repeated)
    if kind.num_fields == 0:
        return [(kind, repeated)]
    inside = repeated or _is_list(kind) or pa.types.is_fixed_size_list(kind)
    return [leaf for i in range(kind.num_fields) for leaf in _leaf_types(kind.field(i).type, inside)]


def element_count(kind: pa.DataType, totals: ColumnTotals) -> int:
    """Leaf values that exist: elements of lists without the placeholders of empty and missing lists."""
    return sum(
        values - nulls if repeated else values
        for (_, repeated), (values, nulls) in zip(_leaf_types(kind), totals.leaves.values(), strict=False)
    )


def raw_bytes(kind: pa.DataType, totals: ColumnTotals, rows: int, pages: ColumnPages | None = None) -> tuple[int, bool]:
    """Bytes of a column in Arrow: values, offsets and validity bitmaps.

    Args:
        kind: The column's Arrow type.
        totals: The column's sums over all footers.
        rows: Rows of the table.
        pages: Page facts, for the mean length of strings.

    Returns:
        The bytes and whether they follow from metadata; ``False`` where strings were written without their sizes,
        and the encoded size stands in (too small where a dictionary is used).
    """
    total, known = 0.0, True
    leaves = _leaf_types(kind)
    for (leaf, repeated), (values, nulls) in zip(leaves, totals.leaves.values(), strict=False):
        count = values - nulls if repeated else values
        try:
            total += count * leaf.bit_width / 8
        except ValueError:
            mean = pages.mean_text_bytes if pages is not None else None
            if mean is None:
                known = known and count == 0
                total += totals.encoded_bytes / len(leaves)
            else:
                # The mean is over all values, nulls among them: what a text of nothing is counts as such.
                total += mean * values + _OFFSET_BYTES * count
    if _is_list(kind):
        total += _OFFSET_BYTES * rows
    if totals.nulls:
        total += rows / 8
    return round(total), known


def total_raw_bytes(totals: Totals, pages: Mapping[str, ColumnPages] | None = None) -> int:
    """Raw bytes of all columns of a table."""
    return sum(
        raw_bytes(totals.arrow_schema.field(name).type, column, totals.rows, (pages or {}).get(name))[0]
        for name, column in totals.columns.items()
    )

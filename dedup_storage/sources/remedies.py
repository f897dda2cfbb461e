"""What to do about a column of another type than is asked for, by how the log is written: JSON has no casts. Pure."""

from __future__ import annotations

import pyarrow as pa

from dedup_storage.sources.address import Kind

__all__ = ["change_of"]

_TEXTS = (Kind.CSV, Kind.TSV)


def change_of(kind: Kind | None, column: str, wanted: pa.DataType | None, found: pa.DataType | None = None) -> str:
    """A sentence without its full stop.

    Args:
        kind: How the log is written; ``None`` where its rows come as a frame.
        column: The column.
        wanted: The type that its values are to have; ``None`` where several will do.
        found: The type that they have.
    """
    types = pa.types
    if wanted is not None and types.is_list(wanted) and found is not None and types.is_string(found):
        return f"Say under forms how the texts of {column} are read (split, json)"
    if kind is Kind.JSON:
        told = _in_json(wanted)
        if told is None:
            return f"JSON has no {wanted}: keep {column} a number or a text, or write the log as Parquet"
        return f"Write {column} {told} in every line"
    if kind in _TEXTS:
        example = " in their plain form (5, not 5.0)" if wanted is not None and types.is_integer(wanted) else ""
        told = "values that fit" if wanted is None else f"values of type {wanted}"
        return f"Write {told}{example} into {column} in every row"
    return f"Cast {column} in the log" + ("" if wanted is None else f" to {wanted}")


def _in_json(wanted: pa.DataType | None) -> str | None:
    types = pa.types
    if wanted is None:
        return "as a whole number without a point (5, not 5.0), or as a text in quotes,"
    if types.is_integer(wanted):
        return "as a whole number, without a point and without quotes (5, not 5.0),"
    if types.is_floating(wanted):
        return "as a number, without quotes,"
    if types.is_string(wanted):
        return 'in quotes ("5")'
    if types.is_boolean(wanted):
        return "as true or false, without quotes,"
    if types.is_list(wanted):
        return "as a list ([1, 2])"
    if types.is_struct(wanted) or types.is_map(wanted):
        return 'as an object ({"a": 1})'
    return None

"""The one row of a global aggregate."""

from __future__ import annotations

from pyspark.sql import DataFrame, Row

from dedup_storage.errors import StorageError

__all__ = ["only_row"]


def only_row(df: DataFrame) -> Row:
    """The row of a frame that has exactly one, such as an aggregate without keys.

    Raises:
        StorageError: there is none.
    """
    row = df.first()
    if row is None:
        raise StorageError("Spark gave no row for an aggregate", expected="exactly one")
    return row

"""Small results of a query, on the driver."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Row

from dedup_storage.errors import StorageError

__all__ = ["buckets_of", "only_row"]


def buckets_of(rows: DataFrame, bucket: Column) -> list[int]:
    """Distinct buckets of rows, ascending; at most as many as the dataset has. Rows without a bucket count for none."""
    found = rows.select(bucket.alias("b")).distinct().collect()
    return sorted(row["b"] for row in found if row["b"] is not None)


def only_row(df: DataFrame) -> Row:
    """The row of a frame that has exactly one, such as an aggregate without keys.

    Raises:
        StorageError: there is none.
    """
    row = df.first()
    if row is None:
        raise StorageError("Spark gave no row for an aggregate", expected="exactly one")
    return row

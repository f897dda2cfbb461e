"""Small results of a query on the driver, and small frames made there."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, SparkSession

from dedup_storage.errors import StorageError

__all__ = ["buckets_of", "only_row", "text_frame"]


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


def text_frame(spark: SparkSession, column: str, values: Iterable[str]) -> DataFrame:
    """One text column of values at hand; made by Arrow, without a Python process in the executors."""
    return spark.createDataFrame(pa.table({column: pa.array(list(values), pa.string())}))

"""The sampling hash as Spark expressions."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.sampling.hashing import POINT_SHIFT, check_seed

__all__ = ["row_hash", "user_point"]

_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)


def _hashable(df: DataFrame, column: str) -> Column:
    # XXH64 of an int and of the equal bigint differ: ids count as bigint everywhere.
    return F.col(column).cast("bigint") if isinstance(df.schema[column].dataType, _INTEGERS) else F.col(column)


def user_point(df: DataFrame, user: str, seed: int) -> Column:
    """bigint in [0, 2**53): ``sampling.hashing.user_points`` in Spark."""
    return F.shiftrightunsigned(F.xxhash64(F.lit(check_seed(seed)).cast("bigint"), _hashable(df, user)), POINT_SHIFT)


def row_hash(df: DataFrame, columns: Sequence[str], seed: int) -> Column:
    """bigint: order in which caps choose requests or impressions, independent of the users' points."""
    keys = [_hashable(df, c) for c in columns]
    return F.xxhash64(F.lit(check_seed(seed)).cast("bigint"), F.lit("row"), *keys)

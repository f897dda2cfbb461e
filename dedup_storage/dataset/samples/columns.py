"""The sampling hash, and what a label counts, as Spark expressions."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import SchemaError
from dedup_storage.sampling.hashing import POINT_SHIFT, check_seed
from dedup_storage.spark.types import not_nan

__all__ = ["counts_as_label", "label_value", "row_hash", "user_point"]

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


def counts_as_label(kind: T.DataType) -> bool:
    """Whether a label's type says how positive an impression is: a number or a truth value."""
    return isinstance(kind, (T.NumericType, T.BooleanType))


def label_value(df: DataFrame, label: str) -> Column:
    """double: a label's value, 1 and 0 of a truth value; null where it is NaN, which is no label.

    Raises:
        SchemaError: the label has another type.
    """
    kind = df.schema[label].dataType
    if not counts_as_label(kind):
        raise SchemaError(
            f"the label {label} tells no positives",
            expected="a number or a truth value",
            got=kind.simpleString(),
            fix="Name another label, or leave out what needs one.",
        )
    return not_nan(F.col(label).cast("double"), T.DoubleType())

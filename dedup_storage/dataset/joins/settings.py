"""The settings that let Spark join buckets where they lie."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

__all__ = [
    "BUCKET_JOIN", "COMPATIBLE_COUNTS", "EQUAL_COUNTS", "NO_BUCKETS", "ONE_SIDE", "UNSAFE", "fenced", "missing",
]  # fmt: skip

_BUCKETING = "spark.sql.sources.v2.bucketing."

# Wrong rows are known of both of these (SPARK-58996, SPARK-58968).
UNSAFE = {
    f"{_BUCKETING}partiallyClusteredDistribution.enabled": "false",
    f"{_BUCKETING}allowJoinKeysSubsetOfPartitionKeys.enabled": "false",
}
# Spark 4.1. What each is for: docs/decisions.md, 'Joins'.
BUCKET_JOIN = {
    "spark.sql.iceberg.planning.preserve-data-grouping": "true",
    f"{_BUCKETING}enabled": "true",
    f"{_BUCKETING}pushPartValues.enabled": "true",
    # A position in a request need not be a partition column for the join on it to stay in the bucket.
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
    **UNSAFE,
}
COMPATIBLE_COUNTS = {f"{_BUCKETING}allowCompatibleTransforms.enabled": "true"}
EQUAL_COUNTS = {f"{_BUCKETING}allowCompatibleTransforms.enabled": "false"}
NO_BUCKETS = {f"{_BUCKETING}enabled": "false"}
ONE_SIDE = {f"{_BUCKETING}shuffle.enabled": "true"}

# More than any plan has partitions: nothing is merged, yet what Spark knows of the layout ends here.
_NO_LIMIT = 2**31 - 1


def missing(spark: SparkSession, wanted: Mapping[str, str] = BUCKET_JOIN) -> dict[str, str]:
    """Settings whose value in the session differs from the one wanted, with that value."""
    found = {key: _value(spark, key) for key in wanted}
    return {key: value for key, value in found.items() if value.lower() != wanted[key]}


def _value(spark: SparkSession, key: str) -> str:
    """A setting's value or Spark's default; ``none`` for one that is not set and not Spark's own."""
    try:
        return str(spark.conf.get(key))
    except PySparkException:
        return "none"


def fenced(df: DataFrame) -> DataFrame:
    """The same rows, of whose layout Spark knows nothing any more; costs nothing.

    A join of different bucket counts goes on reporting the counts it started from, and a join above it that trusts them
    loses rows (SPARK-59121, not in 4.1). Filters and column pruning pass through.
    """
    return df.coalesce(_NO_LIMIT)

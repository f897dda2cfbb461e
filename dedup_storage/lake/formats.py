"""The table format that settings name."""

from __future__ import annotations

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.lake.iceberg.format import IcebergFormat
from dedup_storage.lake.protocol import TableFormat

__all__ = ["table_format"]


def table_format(spark: SparkSession, settings: Settings) -> TableFormat:
    """The table format of some settings, in a session that knows it (``get_spark``)."""
    if settings.format == "delta":
        from dedup_storage.lake.delta.format import DeltaFormat

        return DeltaFormat(spark, settings)
    return IcebergFormat(spark, settings)

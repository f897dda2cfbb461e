"""The table format that settings name, and the reads of tables in a plan, of whichever format."""

from __future__ import annotations

from pyspark.sql import SparkSession

from dedup_storage.config import FORMATS, Settings
from dedup_storage.lake.engine.plans import Operator
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.rooms import room_part
from dedup_storage.lake.scans import Scan

__all__ = ["scan_of", "table_format"]


def table_format(spark: SparkSession, settings: Settings) -> TableFormat:
    """The table format of some settings, in a session that knows it (``get_spark``)."""
    found: TableFormat = room_part(settings.format, "format").open_format(spark, settings)
    return found


def scan_of(operator: Operator) -> Scan | None:
    """The read of a table that an operator of a physical plan is; ``None`` for everything else."""
    for name in FORMATS:
        found: Scan | None = room_part(name, "scans").scan_of(operator)
        if found is not None:
            return found
    return None

"""How much a read holds, from Iceberg's metadata alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.dataset.joins.scan import Scan
from dedup_storage.spark.rows import only_row

__all__ = ["FIXED_WIDTHS", "SLOT", "TEXT", "ScanSize", "size_of"]

# Bytes of a value in Spark's row format: a slot of 8 for each column, a list's elements at their own width. Text is
# taken for 16 bytes beside its slot, which no metadata tells.
SLOT = 8
TEXT = 16
FIXED_WIDTHS = {"boolean": 1, "int": 4, "float": 4, "date": 4}


@dataclass(frozen=True)
class ScanSize:
    """What a snapshot holds of the columns read.

    Attributes:
        rows, files: Of the whole snapshot, before filters.
        stored_bytes: Of the columns read, on disk; of all columns where the writer kept no column sizes.
        row_bytes: Of the columns read, as Spark's rows; an estimate.
        specs: Ids of the partition specs that its files were written under.
        buckets: Stored bytes of each bucket of the table's own spec, in no order.
    """

    rows: int
    files: int
    stored_bytes: int
    row_bytes: int
    specs: tuple[int, ...] = ()
    buckets: tuple[int, ...] = ()

    @property
    def skew(self) -> float | None:
        """Bytes of the largest bucket over those of the median one."""
        if len(self.buckets) < 2:
            return None
        middle = statistics.median(self.buckets)
        return max(self.buckets) / middle if middle else None


def size_of(spark: SparkSession, scan: Scan) -> ScanSize:
    """Read the manifests of one snapshot, on the cluster; what comes back is one row, and one a bucket.

    Args:
        spark: Any session with the table's catalog.
        scan: The read.
    """
    if scan.snapshot_id is None:
        return ScanSize(0, 0, 0, 0)
    files = _metadata(spark, scan, "files").where("content = 0")
    leaves = scan.leaves(scan.columns)
    totals = files.agg(
        F.coalesce(F.sum("record_count"), F.lit(0)).alias("rows"),
        F.count(F.lit(1)).alias("files"),
        F.coalesce(F.sum("file_size_in_bytes"), F.lit(0)).alias("bytes"),
        F.collect_set("spec_id").alias("specs"),
        *(_total("column_sizes", i).alias(f"s{i}") for i, _, _ in leaves),
        *(_total("value_counts", i).alias(f"v{i}") for i, _, _ in leaves),
    )
    row = only_row(totals)
    rows, stored, wide = int(row["rows"]), 0, 0
    for number, kind, repeated in leaves:
        stored += int(row[f"s{number}"] or 0)
        values = int(row[f"v{number}"] or rows)
        width = FIXED_WIDTHS.get(kind, SLOT + (TEXT if kind in ("string", "binary") else 0))
        wide += values * (width if repeated else max(width, SLOT))
    known = any(row[f"s{number}"] for number, _, _ in leaves)
    return ScanSize(
        rows=rows,
        files=int(row["files"]),
        stored_bytes=stored if known else int(row["bytes"]),
        row_bytes=wide,
        specs=tuple(sorted(int(s) for s in row["specs"])),
        buckets=_buckets(files, scan),
    )


def _metadata(spark: SparkSession, scan: Scan, name: str) -> DataFrame:
    return spark.read.option("versionAsOf", str(scan.snapshot_id)).table(f"{scan.table}.{name}")


def _total(column: str, field_id: int) -> Column:
    return F.sum(F.col(column).getItem(F.lit(field_id)))


def _buckets(files: DataFrame, scan: Scan) -> tuple[int, ...]:
    if scan.bucket is None:
        return ()
    field = f"partition.`{scan.bucket.field}`"
    grouped = files.where(F.col("spec_id") == scan.spec_id).groupBy(F.col(field)).agg(F.sum("file_size_in_bytes"))
    # One row for each bucket.
    return tuple(int(row[1]) for row in grouped.collect())

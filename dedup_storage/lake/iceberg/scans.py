"""One read of an Iceberg table inside a plan, and how much it holds, from Iceberg's metadata alone."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.lake.engine.plans import Operator
from dedup_storage.lake.engine.scans import IcebergRead, iceberg_read
from dedup_storage.lake.scans import PartitionColumn, Scan, ScanSize, row_width
from dedup_storage.spark.rows import only_row

__all__ = ["IcebergScan", "scan_of"]


def scan_of(operator: Operator) -> Scan | None:
    """The Iceberg read that an operator is; ``None`` for another one."""
    found = iceberg_read(operator)
    return None if found is None else IcebergScan(found)


class IcebergScan(Scan):
    """The ``Scan`` of Iceberg.

    Args:
        found: The read, as Spark's operator knows it.
    """

    tells_buckets = True

    def __init__(self, found: IcebergRead) -> None:
        self._read = found
        self.table, self.columns, self.grouped_by = found.table, found.columns, found.grouped_by

    @property
    def snapshot_id(self) -> int | None:
        """See ``Scan``."""
        return self._read.snapshot_id

    @property
    def partitions(self) -> tuple[PartitionColumn, ...]:
        """See ``Scan``; fields that were dropped are left out."""
        return self._read.partitions

    @property
    def empty(self) -> bool:
        """See ``Scan``; the planned tasks say so, filters and all."""
        return self._read.splits == 0

    def size(self, spark: SparkSession) -> ScanSize:
        """Read the manifests of the snapshot, on the cluster; what comes back is one row, and one a bucket."""
        if self.snapshot_id is None:
            return ScanSize(0, 0, 0, 0)
        files = self._files(spark)
        leaves = self._read.leaves(self.columns)
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
            wide += int(row[f"v{number}"] or rows) * row_width(kind, repeated=repeated)
        known = any(row[f"s{number}"] for number, _, _ in leaves)
        return ScanSize(
            rows=rows,
            files=int(row["files"]),
            stored_bytes=stored if known else int(row["bytes"]),
            row_bytes=wide,
            specs=tuple(sorted(int(s) for s in row["specs"])),
            buckets=self._buckets(files),
        )

    def _files(self, spark: SparkSession) -> DataFrame:
        """Data files of the snapshot."""
        listed = spark.read.option("versionAsOf", str(self.snapshot_id)).table(f"{self.table}.files")
        return listed.where("content = 0")

    def _buckets(self, files: DataFrame) -> tuple[int, ...]:
        if self.bucket is None:
            return ()
        field, own = f"partition.`{self.bucket.field}`", F.col("spec_id") == self._read.spec_id
        grouped = files.where(own).groupBy(F.col(field)).agg(F.sum("file_size_in_bytes"))
        # One row for each bucket.
        return tuple(int(row[1]) for row in grouped.collect())


def _total(column: str, field_id: int) -> Column:
    return F.sum(F.col(column).getItem(F.lit(field_id)))

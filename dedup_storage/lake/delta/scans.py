"""One read of a Delta table inside a plan: it has bytes, but no buckets that Spark knows of."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from dedup_storage.lake.delta.files import LiveFiles, live_files
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.engine.plans import Operator
from dedup_storage.lake.engine.scans import DeltaRead, delta_read
from dedup_storage.lake.folders import open_folder
from dedup_storage.lake.scans import PartitionColumn, Scan, ScanSize, row_width

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["DeltaScan", "scan_of"]

_PHYSICAL = {"INT32": "int", "INT64": "bigint", "INT96": "bigint", "FLOAT": "float", "DOUBLE": "double"}
# Footers that are read to tell a table's columns apart; the rest are taken to be alike.
_MOST_FOOTERS = 16


def scan_of(operator: Operator) -> Scan | None:
    """The Delta read that an operator is; ``None`` for another one."""
    found = delta_read(operator)
    return None if found is None else DeltaScan(found)


class DeltaScan(Scan):
    """The ``Scan`` of Delta.

    Args:
        found: The read, as Spark's operator knows it.
    """

    tells_buckets = False

    def __init__(self, found: DeltaRead) -> None:
        self._read = found
        self.table, self.columns = f"delta.{found.uri}", found.columns
        self._ref = DeltaRef(self.table, found.uri, {})

    @property
    def snapshot_id(self) -> int | None:
        """The Delta version."""
        return self._read.version

    @property
    def partitions(self) -> tuple[PartitionColumn, ...]:
        """The partition columns; none is a bucket to Spark."""
        return tuple(PartitionColumn(name, "identity", "", name) for name in self._read.partitions)

    @cached_property
    def _files(self) -> LiveFiles:
        return live_files(self._ref, self._read.version)

    @property
    def empty(self) -> bool:
        """Whether the table has no rows."""
        return not self._files.rows

    def size(self, spark: SparkSession) -> ScanSize:
        """Rows, files and bytes of the version; of its columns from the footers of some of its files."""
        files = self._files
        if not files.rows:
            return ScanSize(0, 0, 0, 0)
        paths = files.paths[:: max(len(files.paths) // _MOST_FOOTERS, 1)][:_MOST_FOOTERS]
        footers = [self._footer(path) for path in paths]
        seen_rows, stored, wide = (sum(values) for values in zip(*footers, strict=True))
        share = files.rows / max(seen_rows, 1)
        return ScanSize(
            rows=files.rows,
            files=len(files.paths),
            stored_bytes=round(stored * share),
            row_bytes=round(wide * share),
        )

    def _footer(self, path: str) -> tuple[int, int, int]:
        """Rows of a file, stored bytes of the columns read, and their bytes as Spark's rows."""
        filesystem, place = open_folder(self._ref.place(path), self._ref.store)
        with filesystem.open_input_file(place) as stream:
            metadata = pq.read_metadata(stream)
        stored = wide = 0
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                if column.path_in_schema.split(".", 1)[0] not in self.columns:
                    continue
                kind = _PHYSICAL.get(column.physical_type, "string")
                stored += column.total_compressed_size
                wide += column.num_values * row_width(kind, repeated="." in column.path_in_schema)
        return metadata.num_rows, stored, wide

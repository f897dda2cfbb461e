"""One read of a Delta table inside a plan: it has bytes, but no buckets that Spark knows of."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from dedup_storage.dataset.joins.scan import PartitionColumn, Scan, items
from dedup_storage.dataset.joins.sizes import FIXED_WIDTHS, SLOT, TEXT, ScanSize
from dedup_storage.lake.delta.files import LiveFiles, live_files
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import open_folder

__all__ = ["DeltaScan", "delta_scan_of"]

_INDEXES = ("PreparedDeltaFileIndex", "TahoeLogFileIndex", "DeltaFileIndex")
_PHYSICAL = {"INT32": "int", "INT64": "bigint", "INT96": "bigint", "FLOAT": "float", "DOUBLE": "double"}
# Footers that are read to tell a table's columns apart; the rest are taken to be alike.
_MOST_FOOTERS = 16


def delta_scan_of(java: Any) -> DeltaScan | None:
    """The Delta read that a ``FileSourceScanExec`` is; ``None`` for another source's."""
    index = java.relation().location()
    if str(index.getClass().getSimpleName()) not in _INDEXES:
        return None
    snapshot = index.preparedScan().scannedSnapshot() if hasattr_java(index, "preparedScan") else index.getSnapshot()
    columns = tuple(str(a.name()) for a in items(java.output()))
    partitions = tuple(str(f.name()) for f in items(java.relation().partitionSchema().toList()))
    return DeltaScan(_plain(str(index.path().toString())), int(snapshot.version()), columns, partitions)


def hasattr_java(java: Any, method: str) -> bool:
    """Whether a Java object has a method without arguments."""
    return any(str(m.getName()) == method for m in java.getClass().getMethods())


def _plain(uri: str) -> str:
    return "/" + uri.removeprefix("file:").lstrip("/") if uri.startswith(("file:", "/")) else uri


class DeltaScan(Scan):
    """One read of a Delta table.

    Args:
        uri: The table's folder.
        version: Delta version read.
        columns: Columns read.
        partitions: Partition columns of the table.
    """

    def __init__(self, uri: str, version: int, columns: tuple[str, ...], partitions: tuple[str, ...]) -> None:
        self.table, self.columns, self.splits, self.grouped_by = f"delta.{uri}", columns, 0, ()
        self._uri, self._version, self._partitions = uri, version, partitions

    @cached_property
    def snapshot_id(self) -> int | None:
        """The Delta version."""
        return self._version

    @cached_property
    def partitions(self) -> tuple[PartitionColumn, ...]:
        """The partition columns; none is a bucket to Spark."""
        return tuple(PartitionColumn(name, "identity", "", name) for name in self._partitions)

    @cached_property
    def _ref(self) -> DeltaRef:
        return DeltaRef(self.table, self._uri, {})

    @cached_property
    def _files(self) -> LiveFiles:
        return live_files(self._ref, self._version)

    @property
    def empty(self) -> bool:
        """Whether the table has no rows."""
        return not self._files.rows

    def size(self) -> ScanSize:
        """Rows, files and bytes of the version; of its columns from the footers of some of its files."""
        files = self._files
        if not files.rows:
            return ScanSize(0, 0, 0, 0)
        paths = files.paths[:: max(len(files.paths) // _MOST_FOOTERS, 1)][:_MOST_FOOTERS]
        seen_rows, stored, wide = 0, 0, 0
        for path in paths:
            rows, stored_here, wide_here = self._footer(path)
            seen_rows, stored, wide = seen_rows + rows, stored + stored_here, wide + wide_here
        share = files.rows / max(seen_rows, 1)
        return ScanSize(
            rows=files.rows,
            files=len(files.paths),
            stored_bytes=round(stored * share),
            row_bytes=round(wide * share),
        )

    def _footer(self, path: str) -> tuple[int, int, int]:
        """Rows of a file, stored bytes of the columns read, and their bytes as Spark's rows."""
        filesystem, place = open_folder(self._ref.place(path))
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
                width = FIXED_WIDTHS.get(kind, SLOT + (TEXT if kind == "string" else 0))
                repeated = "." in column.path_in_schema
                stored += column.total_compressed_size
                wide += column.num_values * (width if repeated else max(width, SLOT))
        return metadata.num_rows, stored, wide

"""Which files a version has, pruned by the filters, grouped by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, In, LessThanOrEqual
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile as ManifestFile
from pyiceberg.manifest import FileFormat
from pyiceberg.table import FileScanTask
from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
from pyiceberg.table.puffin import PuffinFile
from pyiceberg.transforms import BucketTransform

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.layout import DatasetSpec
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open.cut import CutTable
from dedup_storage.reader.open.delta import plan_delta
from dedup_storage.reader.options import Filters
from dedup_storage.reader.retry import with_retries

__all__ = ["SegmentKey", "TableScan", "plan_table", "say_segment", "with_common_segments"]

SegmentKey = tuple[Any, ...]


@dataclass(frozen=True)
class TableScan:
    """The files of one table, by segment, each list in the order of the paths."""

    ref: TableRef
    segments: dict[SegmentKey, tuple[DataFile, ...]]

    @property
    def num_files(self) -> int:
        """Files left after pruning."""
        return sum(map(len, self.segments.values()))


def say_segment(segment: SegmentKey) -> str:
    """A segment, for messages."""
    return ", ".join(f"{field}={value}" for field, value in segment) or "the whole table"


def with_common_segments(scans: Sequence[TableScan]) -> list[TableScan]:
    """The scans with segments by the partition fields that all their files have.

    Usually all have the same. Where a table or an older file is partitioned otherwise, segments become coarser, so
    that rows of one request never lie in different ones.
    """
    labels = [tuple(field for field, _ in key) for scan in scans for key in scan.segments]
    if len(set(labels)) <= 1:
        return list(scans)
    common = set(labels[0]).intersection(*labels[1:])
    coarse = []
    for scan in scans:
        segments: dict[SegmentKey, list[DataFile]] = {}
        for key, files in scan.segments.items():
            segments.setdefault(tuple((f, v) for f, v in key if f in common), []).extend(files)
        coarse.append(TableScan(scan.ref, {k: tuple(sorted(f, key=lambda d: d.path)) for k, f in segments.items()}))
    return coarse


def row_filter(spec: DatasetSpec, filters: Filters) -> BooleanExpression:
    """The filters as an Iceberg expression.

    Raises:
        ConfigError: dates are filtered in a dataset that has none.
    """
    parts: list[BooleanExpression] = []
    if filters.start is not None or filters.end is not None:
        if spec.event_date_column is None:
            raise ConfigError(f"the dataset {spec.name} has no event date to filter on", fix="Leave start and end out.")
        if filters.start is not None:
            parts.append(GreaterThanOrEqual(term=spec.event_date_column, value=filters.start.isoformat()))
        if filters.end is not None:
            parts.append(LessThanOrEqual(term=spec.event_date_column, value=filters.end.isoformat()))
    if filters.users is not None:
        parts.append(In(term=spec.schema_.user, literals=set(filters.users)))
    expression: BooleanExpression = AlwaysTrue()
    for part in parts:
        expression = And(expression, part)
    return expression


@with_retries
def plan_table(spec: DatasetSpec, table: CutTable, filters: Filters) -> TableScan:
    """Plan the scan of one table of a version.

    Raises:
        StorageError: a manifest cannot be read, or a file is no Parquet.
    """
    if isinstance(table.table, DeltaRef):
        ref, found = plan_delta(spec, table, filters)
        return TableScan(ref, found)
    iceberg = table.table
    scan = iceberg.scan(row_filter=row_filter(spec, filters), snapshot_id=table.snapshot_id)
    try:
        tasks = list(scan.plan_files())
    except FileNotFoundError as error:
        raise StorageError(f"a manifest of the table {table.name} is missing: {error}") from error
    schema = scan.projection()
    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    fields = {f.name: (f.field_id, arrow.field(f.name).type) for f in schema.fields}
    ref = TableRef(table.name, iceberg.location(), dict(iceberg.io.properties), fields)
    segments: dict[SegmentKey, list[DataFile]] = {}
    deletes = _Deletes(iceberg.io)
    for task in sorted(tasks, key=lambda t: t.file.file_path):
        key, bucket = _segment(iceberg, task)
        if filters.buckets is not None and bucket is not None and bucket not in filters.buckets:
            continue
        segments.setdefault(key, []).append(deletes.data_file(table.name, task))
    ordered = sorted(segments.items(), key=lambda item: tuple(map(str, item[0])))
    return TableScan(ref, {key: tuple(files) for key, files in ordered})


def _segment(iceberg: Any, task: FileScanTask) -> tuple[SegmentKey, int | None]:
    """The partition's values, and its user bucket."""
    spec = iceberg.metadata.specs()[task.file.spec_id]
    key, bucket = [], None
    for place, partition in enumerate(spec.fields):
        value = task.file.partition[place]
        source = iceberg.schema().find_column_name(partition.source_id)
        key.append((f"{partition.transform}({source})", value))
        if isinstance(partition.transform, BucketTransform):
            bucket = value
    return tuple(key), bucket


class _Deletes:
    """Deleted positions of data files, each delete file read once."""

    def __init__(self, io: FileIO) -> None:
        self._io = io
        self._read: dict[str, dict[str, Int64]] = {}

    def data_file(self, table: str, task: FileScanTask) -> DataFile:
        file = task.file
        if file.file_format is not FileFormat.PARQUET:
            raise StorageError(f"the file {file.file_path} is no Parquet file", got=str(file.file_format))
        found = [p for d in task.delete_files if (p := self._positions(d).get(file.file_path)) is not None]
        deleted = np.unique(np.concatenate(found)).astype(np.int64) if found else None
        return DataFile(table, file.file_path, int(file.record_count), deleted)

    def _positions(self, delete: ManifestFile) -> dict[str, Int64]:
        path = delete.file_path
        if path not in self._read:
            self._read[path] = _read_deletes(self._io, path, delete.file_format)
        return self._read[path]


@with_retries
def _read_deletes(io: FileIO, path: str, form: FileFormat) -> dict[str, Int64]:
    """Deleted positions by data file, of a deletion vector (v3) or a position delete file (v2)."""
    with io.new_input(path).open() as stream:
        if form is FileFormat.PUFFIN:
            vectors = deletion_vectors_from_puffin_file(PuffinFile(stream.read()))
            return {v.referenced_data_file: v.to_vector().to_numpy().astype(np.int64) for v in vectors}
        table = pq.read_table(stream, columns=["file_path", "pos"])
    paths: Sequence[str] = table["file_path"].unique().to_pylist()
    return {p: table.filter(pc.equal(table["file_path"], p))["pos"].to_numpy().astype(np.int64) for p in paths}

"""Opening a version of a dataset of Delta tables with ``deltalake``; tables that cannot be read are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.delta.files import LiveFiles, file_bounds, touched_files
from dedup_storage.lake.delta.layout import bucket_column, generated_columns, partition_columns
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.open import refuse_unreadable
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.retries import with_retries
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.reader.cache.file_cache import FileCache
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open.cut import Cut, CutTable
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.options import Filters
from dedup_storage.reader.segment import SegmentKey

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["DeltaSnapshot", "delta_cut"]


@with_retries
def delta_cut(name: str, settings: Settings, version: int | None = None) -> Cut:
    """See ``open_cut``."""
    meta = DeltaLake(settings).load(name)
    number = meta.resolve(version)
    spec = meta.spec_of(number)
    hidden = frozenset(generated_columns(spec))
    tables = {}
    for table, snapshot_id in meta.snapshots(number).items():
        role = TableRole(meta.role(table) or "")
        if role is not TableRole.QUARANTINE:
            stored = DeltaSnapshot(meta.tables[table], snapshot_id, hidden)
            tables[table] = CutTable(table, role, stored, snapshot_id, meta.definition(number, table))
    return Cut(spec=spec, version=number, tables=tables, samples=meta.samples, users=meta.stored_users)


@dataclass(frozen=True)
class DeltaSnapshot:
    """A Delta table at one of its versions: a ``StoredTable``.

    Attributes:
        ref: Where the table lies.
        version: Delta's version.
        generated: Columns that Delta makes for its partitions, no columns of the log.
    """

    ref: DeltaRef
    version: int
    generated: frozenset[str]

    @property
    def properties(self) -> Mapping[str, str]:
        """See ``StoredTable``."""
        return self.ref.properties

    def types(self) -> dict[str, pa.DataType]:
        """See ``StoredTable``."""
        return {name: kind for name, kind in _types(self._load()).items() if name not in self.generated}

    @with_retries
    def plan(self, name: str, spec: DatasetSpec, filters: Filters, cache: FileCache | None = None) -> TableScan:
        """See ``StoredTable``."""
        loaded = self._load()
        files = LiveFiles(pa.table(loaded.get_add_actions(flatten=True)))
        if files.table.num_rows:
            files = files.where(_kept(spec, files.table, filters))
        fields = {column: (-1, kind) for column, kind in _types(loaded).items()}
        ref = TableRef(name, self.ref.uri, dict(self.ref.store), fields, cache=cache)
        found = self._data_files(name, spec, files)
        return TableScan.of(ref, found, _positions(spec, files.table), bucket_column(spec))

    def _load(self) -> DeltaTable:
        loaded = self.ref.load(self.version)
        refuse_unreadable(loaded, self.ref.uri)
        return loaded

    def _data_files(self, name: str, spec: DatasetSpec, files: LiveFiles) -> Iterator[tuple[SegmentKey, DataFile]]:
        counts, sizes = (files.table[name].to_pylist() for name in ("num_records", "size_bytes"))
        for path, partition, rows, size in zip(files.paths, files.partitions, counts, sizes, strict=True):
            if rows is None:
                raise StorageError(
                    f"the log of {self.ref.uri} does not say how many rows {path} has", fix="Rewrite the table."
                )
            key = tuple((column, partition[column]) for column in partition_columns(spec) if column in partition)
            yield key, DataFile(name, self.ref.place(path), int(rows), constants=partition, size_bytes=size)


def _positions(spec: DatasetSpec, table: pa.Table) -> int | None:
    """Different values of the position between the log's bounds; ``None`` where a file has none."""
    low, high = file_bounds(table, spec.position_column) if table.num_rows else (None, None)
    if low is None or high is None or low.null_count or high.null_count:
        return None
    return int(pc.max(high).as_py()) - int(pc.min(low).as_py()) + 1


def _types(loaded: DeltaTable) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in pa.schema(loaded.schema().to_arrow())}


def _kept(spec: DatasetSpec, table: pa.Table, filters: Filters) -> pa.Array:
    """Which files the filters can touch, by partition values and the log's statistics."""
    if spec.event_date_column is None and (filters.start is not None or filters.end is not None):
        raise ConfigError(f"the dataset {spec.name} has no event date to filter on", fix="Leave start and end out.")
    mask = touched_files(spec, table, filters.start, filters.end, filters.buckets)
    if filters.users:
        low, high = file_bounds(table, spec.schema_.user)
        if low is not None and high is not None and not pa.types.is_string(low.type):
            touched = pc.and_(
                pc.less_equal(low, pa.scalar(max(filters.users), low.type)),
                pc.greater_equal(high, pa.scalar(min(filters.users), high.type)),
            )
            mask = pc.and_(mask, pc.fill_null(touched, True))
    return mask

"""Which files a Delta version has, pruned by the filters, by segment; tables that cannot be read are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.delta.files import LiveFiles, file_bounds, touched_files
from dedup_storage.lake.delta.layout import partition_columns
from dedup_storage.lake.delta.open import refuse_unreadable
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.layout import DatasetSpec
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open.cut import CutTable
from dedup_storage.reader.options import Filters

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["delta_types", "plan_delta"]


def _readable(table: CutTable) -> tuple[DeltaRef, DeltaTable]:
    assert isinstance(table.table, DeltaRef)  # noqa: S101 - callers looked
    loaded = table.table.load(table.snapshot_id)
    refuse_unreadable(loaded, table.table.uri)
    return table.table, loaded


def delta_types(table: CutTable) -> dict[str, pa.DataType]:
    """Arrow type of each column of a table at its version."""
    _, loaded = _readable(table)
    return {f.name: f.type for f in pa.schema(loaded.schema().to_arrow()) if f.name not in table.generated}


def plan_delta(
    spec: DatasetSpec, table: CutTable, filters: Filters
) -> tuple[TableRef, dict[tuple[Any, ...], tuple[DataFile, ...]]]:
    """The table and its files by segment, each list in the order of the paths.

    Raises:
        StorageError: the log cannot be read, or the table cannot be read without Spark.
        ConfigError: dates are filtered in a dataset that has none.
    """
    ref, loaded = _readable(table)
    files = LiveFiles(pa.table(loaded.get_add_actions(flatten=True)))
    if files.table.num_rows:
        files = files.where(_kept(spec, files.table, filters))
    fields = {f.name: (-1, f.type) for f in pa.schema(loaded.schema().to_arrow())}
    counts = files.table["num_records"].to_pylist()
    segments: dict[tuple[Any, ...], list[DataFile]] = {}
    for path, partition, rows in zip(files.paths, files.partitions, counts, strict=True):
        if rows is None:
            raise StorageError(f"the log of {ref.uri} does not say how many rows {path} has", fix="Rewrite the table.")
        key = tuple((column, partition[column]) for column in partition_columns(spec) if column in partition)
        segments.setdefault(key, []).append(DataFile(table.name, ref.place(path), int(rows), constants=partition))
    ordered = sorted(segments.items(), key=lambda item: tuple(map(str, item[0])))
    io = TableRef(table.name, ref.uri, dict(ref.store), fields)
    return io, {key: tuple(sorted(found, key=lambda f: f.path)) for key, found in ordered}


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

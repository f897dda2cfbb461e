"""The files of Delta tables, listed with ``deltalake``."""

from __future__ import annotations

from urllib.parse import unquote

import pyarrow as pa

from dedup_storage.errors import MissingDependencyError, UsageError
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.layout import iceberg_names, partition_columns
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import Store
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.stores import delta_options
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.report.parquet.tables import TableFiles

__all__ = ["delta_folder_files", "delta_member_files"]


def delta_member_files(metadata: DatasetMetadata, name: str, role: str, version: int) -> TableFiles:
    """The files of a dataset's Delta table at one of its versions, partitions named as those of an Iceberg table."""
    spec, ref = metadata.spec.partitioned(name), metadata.tables[name]
    assert isinstance(ref, DeltaRef)  # noqa: S101 - the dataset's format says so
    files = live_files(ref, version)
    columns = () if spec.adopted else partition_columns(spec)
    names = dict(zip(columns, (str(spec.event_date_column), "bucket")[2 - len(columns) :], strict=True))
    found = [
        DataFile(ref.place(path), size, {names.get(key, key): str(value) for key, value in partition.items()})
        for path, size, partition in zip(
            files.paths, files.table["size_bytes"].to_pylist(), files.partitions, strict=True
        )
    ]
    return TableFiles(ref.name, role, tuple(found), iceberg_names(ref.properties), Store(ref.store))


def delta_folder_files(path: str, store: Store) -> TableFiles:
    """The files of a Delta table, by its folder.

    Raises:
        MissingDependencyError: ``deltalake`` is not installed.
        UsageError: the table cannot be read.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise MissingDependencyError(
            f"the input {path} is a Delta table and deltalake is not installed",
            fix="Install it with: pip install 'dedup_storage[delta]'.",
        ) from None
    try:
        opened = DeltaTable(path, storage_options=delta_options(store.properties))
        rows = pa.table(opened.get_add_actions(flatten=False)).to_pylist()
    except (DeltaError, OSError) as error:
        raise UsageError(f"the Delta table {path} cannot be read: {error}") from None
    prefix = path.rstrip("/")
    files = tuple(
        DataFile(
            f"{prefix}/{unquote(row['path'])}" if "://" not in row["path"] else row["path"],
            row["size_bytes"],
            {key: str(value) for key, value in (row.get("partition") or {}).items()},
        )
        for row in rows
    )
    return TableFiles(path, TableRole.LOGS.value, files, resolve=store)

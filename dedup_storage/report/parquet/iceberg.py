"""The files of Iceberg tables, listed with PyIceberg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from dedup_storage.config import Settings
from dedup_storage.errors import InputError, StorageError
from dedup_storage.lake.folders import resolve_uri
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.origin import open_access
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.footers import DataFile, Resolve
from dedup_storage.report.parquet.tables import TableFiles

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["catalog_table", "catalog_table_files", "iceberg_member_files", "table_files"]


def iceberg_member_files(metadata: DatasetMetadata, name: str, role: str, snapshot_id: int) -> TableFiles:
    """The files of a dataset's Iceberg table at a snapshot."""
    return table_files(metadata.tables[name], name, role, snapshot_id)


def table_files(
    table: Table, name: str, role: str = TableRole.LOGS.value, snapshot_id: int | None = None
) -> TableFiles:
    """List the data files of an Iceberg table.

    Args:
        table: A table loaded with PyIceberg.
        name: How the report calls it.
        role: Its role in the dataset.
        snapshot_id: ``None`` takes the table's current snapshot.

    Raises:
        StorageError: a manifest cannot be read, or a data file is not Parquet.
    """
    specs = table.specs()
    files: list[DataFile] = []
    deletes: dict[tuple[str, str], Any] = {}
    if snapshot_id is None and table.current_snapshot() is None:
        return TableFiles(name, role, (), table.properties)
    try:
        for task in table.scan(snapshot_id=snapshot_id).plan_files():
            file = task.file
            if file.file_format.value.lower() != "parquet":
                raise StorageError(
                    f"the data file {file.file_path} of {name} is not Parquet", got=file.file_format.value.lower()
                )
            partition = _partition(specs[file.spec_id], table, file.partition)
            files.append(DataFile(file.file_path, file.file_size_in_bytes, partition))
            for delete in task.delete_files:
                # Deletion vectors share a Puffin file, one for each data file; a Parquet delete file counts once.
                vector = delete.file_format.value.lower() == "puffin"
                deletes[(delete.file_path, file.file_path if vector else "")] = delete
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the files of the table {name} cannot be listed: {error}") from error
    sizes = {path: delete.file_size_in_bytes for (path, _), delete in deletes.items()}
    return TableFiles(
        name,
        role,
        tuple(files),
        dict(table.properties),
        _resolver(table),
        delete_files=len(sizes),
        delete_bytes=sum(sizes.values()),
        deleted_rows=sum(d.record_count for d in deletes.values()),
    )


def _partition(spec: Any, table: Table, record: Any) -> dict[str, str]:
    """Partition field -> readable value; bucket fields are named ``bucket``, date fields by their source column."""
    values: dict[str, str] = {}
    names = table.schema().as_struct()
    for position, part in enumerate(spec.fields):
        source = names.field(part.source_id)
        if source is None:
            continue
        value = record[position]
        if str(part.transform).startswith("bucket"):
            values["bucket"] = str(value)
        else:
            values[source.name] = part.transform.to_human_string(source.field_type, value)
    return values


def _resolver(table: Table) -> Resolve:
    if not hasattr(table.io, "fs_by_scheme"):
        return resolve_uri
    # Thousands of footers may take longer than the keys are good that came with the table.
    access = open_access(table)

    def resolve(path: str) -> tuple[pafs.FileSystem, str]:
        io: Any = access.lease().client
        scheme, netloc, inner = io.parse_location(path, table.properties)
        return io.fs_by_scheme(scheme, netloc), inner

    return resolve


def catalog_table_files(identifier: str, settings: Settings) -> TableFiles:
    """The files of any table of the catalog, by ``namespace.table``.

    Raises:
        InputError: there is no such table.
    """
    return table_files(catalog_table(identifier, settings), identifier)


def catalog_table(identifier: str, settings: Settings) -> Table:
    """Any table of the catalog, by ``namespace.table``.

    Raises:
        InputError: there is no such table.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return Lake(settings).catalog.load_table(identifier)
    except (NoSuchTableError, NoSuchNamespaceError):
        raise InputError(
            f"there is no table {identifier} in the catalog {settings.catalog.name}",
            expected="namespace.table, or a path with a slash in it",
        ) from None

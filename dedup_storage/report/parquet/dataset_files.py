"""Which Parquet files make a table: of a dataset's version, of any Iceberg or Delta table, of a plain folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from dedup_storage.config import Settings
from dedup_storage.errors import InputError, MissingDependencyError, StorageError, UsageError
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.layout import iceberg_names, partition_columns
from dedup_storage.lake.delta.metadata import DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import is_delta_table, is_hidden, open_folder, resolve_uri
from dedup_storage.lake.iceberg.metadata import DatasetMetadata, Lake
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.report.parquet.footers import DataFile, Resolve, Totals

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["DatasetFiles", "TableFiles", "dataset_files", "folder_files", "input_files", "table_files"]

_DATA_ROLES = (TableRole.REQUESTS.value, TableRole.IMPRESSIONS.value, TableRole.LOGS.value, TableRole.FEATURES.value)
_HIVE_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([^/]*)/")


@dataclass(frozen=True)
class TableFiles:
    """The files of one table at one snapshot.

    Attributes:
        name: Table name, or the folder.
        role: ``requests``, ``impressions``, ``logs``, ``features``; a plain input is ``logs``.
        files: Its data files.
        properties: The table's properties, among them its Parquet encoding; empty for a folder.
        resolve: Finds the file system of a path, with the table's own credentials.
        delete_files, delete_bytes: Delete files and deletion vectors that lie beside the data.
        deleted_rows: Rows in the data files that they take away.
        arrow_schema: One schema over all files, columns of their paths included; ``None`` where each file has it.
    """

    name: str
    role: str
    files: tuple[DataFile, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    resolve: Resolve = resolve_uri
    delete_files: int = 0
    delete_bytes: int = 0
    deleted_rows: int = 0
    arrow_schema: pa.Schema | None = None

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes that the table's metadata states."""
        return sum(f.size_bytes or 0 for f in self.files)

    def columns(self, totals: Totals) -> list[str]:
        """Names of its columns: of the one schema where there is one, else of all its footers."""
        return list((totals.arrow_schema if self.arrow_schema is None else self.arrow_schema).names)


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one version of a dataset, anchor table first."""

    spec: DatasetSpec
    version: int
    tables: tuple[TableFiles, ...]


def dataset_files(settings: Settings, dataset: str, version: int | None = None) -> DatasetFiles:
    """List the data files of a published version through the catalog alone.

    Args:
        settings: Where the catalog is.
        dataset: Dataset name.
        version: ``None`` takes the newest.

    Raises:
        DatasetNotFoundError, VersionNotFoundError: names those that exist.
        StorageError: the catalog or a manifest cannot be read.
    """
    metadata = open_lake(settings).load(dataset)
    number = metadata.resolve(version)
    tables = tuple(_members(metadata, number))
    return DatasetFiles(metadata.spec, number, tables)


def _members(metadata: DatasetMetadata, version: int) -> Iterator[TableFiles]:
    for name, snapshot_id in metadata.snapshots(version).items():
        role = metadata.role(name) or name
        if role not in _DATA_ROLES:
            continue
        if isinstance(metadata, DeltaMetadata):
            yield _delta_table(metadata.spec, metadata.tables[name], role, snapshot_id)
        else:
            yield table_files(metadata.tables[name], name, role, snapshot_id)


def _delta_table(spec: DatasetSpec, ref: DeltaRef, role: str, version: int) -> TableFiles:
    """The files of a dataset's Delta table, partitions named as those of an Iceberg table."""
    files = live_files(ref, version)
    columns = () if spec.adopted else partition_columns(spec)
    names = dict(zip(columns, (str(spec.event_date_column), "bucket")[2 - len(columns) :], strict=True))
    found = [
        DataFile(ref.place(path), size, {names.get(key, key): str(value) for key, value in partition.items()})
        for path, size, partition in zip(
            files.paths, files.table["size_bytes"].to_pylist(), files.partitions, strict=True
        )
    ]
    resolve = partial(open_folder, properties=ref.store)
    return TableFiles(ref.name, role, tuple(found), iceberg_names(ref.properties), resolve)


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
    io: Any = table.io
    if not hasattr(io, "fs_by_scheme"):
        return resolve_uri

    def resolve(path: str) -> tuple[pafs.FileSystem, str]:
        scheme, netloc, inner = io.parse_location(path, table.properties)
        return io.fs_by_scheme(scheme, netloc), inner

    return resolve


def input_files(path: str, settings: Settings | None = None) -> TableFiles:
    """The files of a raw log: a Parquet file or folder, a Delta table's folder, or ``namespace.table``.

    Raises:
        InputError: there is nothing of the kind, or it has no Parquet files.
    """
    if settings is not None and "/" not in path and "." in path and not path.endswith(".parquet"):
        return _catalog_table(path, settings)
    if is_delta_table(path):
        return _delta_files(path)
    return folder_files(path)


def folder_files(path: str) -> TableFiles:
    """The Parquet files under a folder (or one file), hive-style partition keys from their paths.

    Raises:
        InputError: the path does not exist or holds no Parquet file.
    """
    filesystem, inner = resolve_uri(path)
    info = filesystem.get_file_info(inner)
    if info.type is pafs.FileType.NotFound:
        raise InputError(f"the input {path} does not exist", expected="a Parquet file or a folder of them")
    if info.is_file:
        return TableFiles(path, TableRole.LOGS.value, (DataFile(path, info.size),))
    prefix = path.rstrip("/")
    found = []
    for entry in filesystem.get_file_info(pafs.FileSelector(inner, recursive=True)):
        relative = entry.path[len(inner.rstrip("/")) :]
        if entry.is_file and entry.base_name.endswith((".parquet", ".pq")) and not is_hidden(relative):
            keys = {key: unquote(value) for key, value in _HIVE_KEY.findall(relative)}
            found.append(DataFile(prefix + relative, entry.size, keys))
    if not found:
        raise InputError(f"the folder {path} holds no Parquet files", expected="files ending in .parquet")
    return TableFiles(path, TableRole.LOGS.value, tuple(sorted(found, key=lambda f: f.path)))


def _catalog_table(identifier: str, settings: Settings) -> TableFiles:
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return table_files(Lake(settings).catalog.load_table(identifier), identifier)
    except (NoSuchTableError, NoSuchNamespaceError):
        raise InputError(
            f"there is no table {identifier} in the catalog {settings.catalog.name}",
            expected="namespace.table, or a path with a slash in it",
        ) from None


def _delta_files(path: str) -> TableFiles:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise MissingDependencyError(
            f"the input {path} is a Delta table and deltalake is not installed",
            fix="Install it with: pip install 'dedup_storage[delta]'.",
        ) from None
    try:
        rows = pa.table(DeltaTable(path).get_add_actions(flatten=False)).to_pylist()
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
    return TableFiles(path, TableRole.LOGS.value, files)

"""Which Parquet files make a table: of a dataset's version, of any Iceberg or Delta table, of a plain folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow.fs as pafs

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.lake.folders import Store, is_delta_table, is_hidden
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.delta import delta_folder_files, delta_member_files
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.report.parquet.iceberg import catalog_table_files, iceberg_member_files
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles

__all__ = ["dataset_files", "folder_files", "input_files"]

_DATA_ROLES = (
    TableRole.REQUESTS.value, TableRole.IMPRESSIONS.value, TableRole.LOGS.value, TableRole.EVENTS.value,
    TableRole.FEATURES.value,
)  # fmt: skip
_HIVE_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([^/]*)/")


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
    tables = tuple(_members(settings, metadata, number))
    return DatasetFiles(metadata.spec_of(number), number, tables)


def _members(settings: Settings, metadata: DatasetMetadata, version: int) -> Iterator[TableFiles]:
    member_files = delta_member_files if settings.format == "delta" else iceberg_member_files
    for name, snapshot_id in metadata.snapshots(version).items():
        role = metadata.role(name) or name
        if role in _DATA_ROLES:
            yield member_files(metadata, name, role, snapshot_id)


def input_files(path: str, settings: Settings | None = None) -> TableFiles:
    """The files of a raw log: a Parquet file or folder, a Delta table's folder, or ``namespace.table``.

    Args:
        path: Where it is.
        settings: Where the catalog of table names is, and the store of the log.

    Raises:
        InputError: there is nothing of the kind, or it has no Parquet files.
    """
    if settings is not None and "/" not in path and "." in path and not path.endswith(".parquet"):
        return catalog_table_files(path, settings)
    store = Store() if settings is None else Store(settings.catalog.properties)
    if is_delta_table(path, store.properties):
        return delta_folder_files(path, store)
    return folder_files(path, store)


def folder_files(path: str, store: Store | None = None) -> TableFiles:
    """The Parquet files under a folder (or one file), hive-style partition keys from their paths.

    Args:
        path: Where they are.
        store: Opens it; by default as this machine is set up.

    Raises:
        InputError: the path does not exist or holds no Parquet file.
    """
    store = store or Store()
    filesystem, inner = store(path)
    info = filesystem.get_file_info(inner)
    if info.type is pafs.FileType.NotFound:
        raise InputError(f"the input {path} does not exist", expected="a Parquet file or a folder of them")
    if info.is_file:
        return TableFiles(path, TableRole.LOGS.value, (DataFile(path, info.size),), resolve=store)
    prefix = path.rstrip("/")
    found = []
    for entry in filesystem.get_file_info(pafs.FileSelector(inner, recursive=True)):
        relative = entry.path[len(inner.rstrip("/")) :]
        if entry.is_file and entry.base_name.endswith((".parquet", ".pq")) and not is_hidden(relative):
            keys = {key: unquote(value) for key, value in _HIVE_KEY.findall(relative)}
            found.append(DataFile(prefix + relative, entry.size, keys))
    if not found:
        raise InputError(f"the folder {path} holds no Parquet files", expected="files ending in .parquet")
    return TableFiles(path, TableRole.LOGS.value, tuple(sorted(found, key=lambda f: f.path)), resolve=store)

"""Folders that are tables of other formats: what a table says its rows are, never all files that lie there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from dedup_storage.errors import InputError, MissingDependencyError, StorageError
from dedup_storage.lake.delta.open import load_delta, refuse_unreadable
from dedup_storage.lake.folders import Store
from dedup_storage.lake.stores import delta_options, with_region
from dedup_storage.report.parquet.footers import DataFile

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["delta_input", "iceberg_rows", "scanned"]

_NUMBER = re.compile(r"(\d+)")
_UNREADABLE = (OSError, ValueError, TypeError, NotImplementedError)
_BY_NAME = "Give its name in the catalog: namespace.table."


def delta_input(place: str, store: Store) -> tuple[tuple[DataFile, ...], pa.Schema]:
    """The files of a Delta table now, with the partition values that its log states, and the table's schema.

    Raises:
        InputError: the table cannot be read, marks rows as deleted, or maps columns to other names; says which.
        MissingDependencyError: ``deltalake`` is not installed.
    """
    try:
        table = load_delta(place, delta_options(store.properties))
        refuse_unreadable(table, place)
    except StorageError as error:
        raise InputError(error.what, expected=error.expected, got=error.got, fix=error.fix) from None
    prefix = place.rstrip("/")
    found = []
    for action in pa.table(table.get_add_actions(flatten=False)).to_pylist():
        values = (action.get("partition") or {}).items()
        if any(isinstance(value, bytes) for _, value in values):
            column = next(key for key, value in values if isinstance(value, bytes))
            raise InputError(
                f"the Delta table {place} is partitioned by bytes: {column}",
                expected="partitions by texts, numbers, dates or times",
                fix="Export its rows to Parquet files, or partition it otherwise.",
            )
        path = action["path"] if "://" in action["path"] else f"{prefix}/{unquote(action['path'])}"
        found.append(DataFile(path, action["size_bytes"], {k: _text(v) for k, v in values if v is not None}))
    return tuple(sorted(found, key=lambda file: file.path)), pa.schema(table.schema().to_arrow())


def _text(value: object) -> str:
    """A value as it stands in paths."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def iceberg_rows(place: str, store: Store) -> Iterator[pa.RecordBatch]:
    """The rows of an Iceberg table's newest metadata, deletes and renamed columns applied.

    Raises:
        InputError: the table cannot be read.
        MissingDependencyError: PyIceberg is not installed.
    """
    try:
        from pyiceberg.table import StaticTable
    except ImportError:
        raise MissingDependencyError(
            f"the input {place} is an Iceberg table and pyiceberg is not installed",
            fix="Install it with: pip install 'dedup_storage[spark]'.",
        ) from None
    filesystem, inner = store(f"{place}/metadata")
    names = [e for e in filesystem.get_file_info(pafs.FileSelector(inner)) if e.base_name.endswith(".metadata.json")]
    number = max(_numbered(e.base_name) for e in names)
    newest = sorted(e.base_name for e in names if _numbered(e.base_name) == number)
    if len(newest) > 1:
        # Of two writers that began with one state the catalog took one.
        raise InputError(
            f"the Iceberg table {place} has {len(newest)} newest metadata files, of which its catalog knows one",
            expected="one metadata file of each number",
            got=", ".join(newest),
            fix=_BY_NAME,
        )
    try:
        table = StaticTable.from_metadata(f"{place}/metadata/{newest[0]}", with_region(store.properties))
    except _UNREADABLE as error:
        raise _unread(place, error) from None
    yield from scanned(table, place)


def scanned(table: Table, name: str) -> Iterator[pa.RecordBatch]:
    """The rows of an Iceberg table, deletes and renamed columns applied.

    Raises:
        InputError: the table cannot be read.
    """
    try:
        yield from table.scan().to_arrow_batch_reader()
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise _unread(name, error) from None


def _unread(name: str, error: Exception) -> InputError:
    return InputError(f"the Iceberg table {name} cannot be read: {str(error).splitlines()[0]}", fix=_BY_NAME)


def _numbered(name: str) -> int:
    found = _NUMBER.search(name)
    return int(found.group(1)) if found else 0

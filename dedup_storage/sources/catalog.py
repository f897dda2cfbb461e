"""Iceberg tables by name, without Spark: their files where these hold the columns under the table's names. Pure.

A file keeps the names that columns had when it was written. A table knows its columns by number alone, so that one
that was renamed, dropped or added again since stands in older files under a name that means nothing, or another column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.report.parquet.iceberg import catalog_table, table_files
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.sources.foreign import scanned

__all__ = ["CatalogTable", "catalog_input"]

_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class CatalogTable:
    """An Iceberg table of the catalog.

    Attributes:
        files: Its files now.
        schema: Its schema.
        names: Number of a column, or of something inside one -> its path.
        made: Numbers of columns that have a value where a file lacks them.
        rows: Reads it as Iceberg says, renamed columns and all.
    """

    files: TableFiles
    schema: pa.Schema
    names: Mapping[int, str]
    made: frozenset[int]
    rows: Callable[[], Iterator[pa.RecordBatch]]

    def lies_by_name(self, file: pa.Schema) -> bool:
        """Whether a file's columns, read by their names, are the table's."""
        told = list(_numbered(file, ""))
        found = {number: path for number, path in told if number is not None}
        same = all(self.names.get(number) == path for number, path in found.items())
        return same and len(found) == len(told) and self.made <= found.keys()


def catalog_input(name: str, settings: Settings) -> CatalogTable:
    """Look a table up.

    Args:
        name: ``namespace.table``, also behind the catalog's name.
        settings: Where the catalog is.

    Raises:
        InputError: there is no such table, or delete files take rows of it away.
        StorageError: its manifests cannot be read.
    """
    bare = name.removeprefix(f"{settings.catalog.name}.")
    bare = bare if "." in bare else name
    if "." not in bare:
        raise InputError(
            f"there is no file and no table {name}",
            expected="a file, a folder, a pattern of files, or namespace.table",
            fix="Check the name.",
        )
    table = catalog_table(bare, settings)
    files = table_files(table, bare)
    if files.deleted_rows:
        raise InputError(
            f"the table {name} has {files.deleted_rows} rows that delete files take away",
            fix="Compact the table first, or write it into a dataset: Spark reads it as it is.",
        )
    schema = table.schema()
    identity = {p.source_id for s in table.specs().values() for p in s.fields if str(p.transform) == "identity"}
    made = {f.field_id for f in schema.fields if f.field_id in identity or f.initial_default is not None}
    names = {number: schema.find_column_name(number) or "" for number in schema.field_ids}
    return CatalogTable(files, _bare(schema.as_arrow()), names, frozenset(made), lambda: scanned(table, name))


def _bare(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.remove_metadata() for f in schema])


def _numbered(fields: Any, above: str) -> Iterator[tuple[int | None, str]]:
    """Number and path of each column of a file and of all that is inside them; no number where the file has none."""
    for field in fields:
        yield _number(field), f"{above}{field.name}"
        yield from _inside(field.type, f"{above}{field.name}.")


def _inside(kind: pa.DataType, above: str) -> Iterator[tuple[int | None, str]]:
    types = pa.types
    if types.is_struct(kind):
        yield from _numbered(kind, above)
    elif types.is_map(kind):
        for part, field in (("key", kind.key_field), ("value", kind.item_field)):
            yield _number(field), f"{above}{part}"
            yield from _inside(field.type, f"{above}{part}.")
    elif types.is_list(kind) or types.is_large_list(kind):
        yield _number(kind.value_field), f"{above}element"
        yield from _inside(kind.value_type, f"{above}element.")


def _number(field: pa.Field) -> int | None:
    told = (field.metadata or {}).get(_ID)
    return None if told is None else int(told)

"""The first rows of a log, without reading the rest. Pure Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.lake.folders import Store
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.report.parquet.one_schema import conform
from dedup_storage.schema import LogSchema
from dedup_storage.sources.address import Address, Kind, find_address
from dedup_storage.sources.check import check_columns, check_named, check_source
from dedup_storage.sources.json_lines import json_tables
from dedup_storage.sources.source import Source, open_source
from dedup_storage.sources.texts import Dialect, TextColumns, csv_batches, dialects, typed

__all__ = ["Head", "read_head"]

_ROWS = 10_000
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Head:
    """The first rows of a log.

    Attributes:
        table: Some thousand rows, as they lie.
        header: Names given to the columns of files that have no header.
        source: The log, where metadata tells its columns and their types; ``None`` of texts.
        whole: Whether the rows have all columns of the log: later lines of JSON may have more.
    """

    table: pa.Table
    header: tuple[str, ...] = ()
    source: Source | None = None
    whole: bool = True

    def check(self, schema: LogSchema, place: str) -> None:
        """Refuse a schema that names columns which the log does not have, as far as the head tells.

        Args:
            schema: What the columns are taken for.
            place: The log, for the message.

        Raises:
            SchemaError: names the column and those that are there.
        """
        if self.source is not None:
            check_source(self.source, schema)
            check_named(self.source, schema)
        elif self.whole:
            # The types of texts follow from all rows.
            check_columns({f.name: f.type for f in self.table.schema}, schema, place)


def read_head(
    source: str,
    *,
    format: str | None = None,
    header: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    settings: Settings | None = None,
) -> Head:
    """Read the first rows.

    Args:
        source: The log, as for ``open_source``.
        format: Its kind, where names do not tell.
        header: Names of the columns of CSV files that have no header; found out when not given.
        texts: Columns whose texts stay texts.
        settings: Where the catalog of table names is, and the store of the log.

    Raises:
        InputError: it cannot be read, or holds no rows.
    """
    address = find_address(source, format, None if settings is None else Store(settings.catalog.properties))
    if address.kind in (Kind.CSV, Kind.TSV):
        return _text_head(address, header, texts)
    tables: Iterator[pa.Table]
    opened = None
    if address.kind is Kind.JSON:
        tables = chain.from_iterable(json_tables(file.path, address.store) for file in address.files)
    else:
        opened = open_source(source, format=format, settings=settings)
        tables = opened.tables()
    found = next((table for table in tables if table.num_rows), None)
    if found is None:
        raise InputError(f"{source} holds no rows", fix="Check the path.")
    return Head(found.slice(0, _ROWS), source=opened, whole=opened is not None)


def _text_head(address: Address, header: tuple[str, ...], texts: tuple[str, ...]) -> Head:
    for file in address.files:
        dialect = dialects([file.path], address.kind, (), header, address.store)[0]
        made = header
        if not header and _are_values(dialect.names):
            made = tuple(f"column_{number}" for number in range(1, len(dialect.names) + 1))
            dialect = replace(dialect, names=made, header=False)
        rows = next(_some(dialect), None)
        if rows is not None:
            return Head(_typed_head(rows, file, texts), made)
    raise InputError(f"{address.source} holds no rows", fix="Check the path.")


def _typed_head(rows: pa.Table, file: DataFile, texts: tuple[str, ...]) -> pa.Table:
    seen = TextColumns()
    for batch in rows.to_batches():
        seen.watch(batch)
    table = typed(rows, seen.kinds(texts))
    partition = {k: v for k, v in file.partition.items() if k not in table.column_names}
    schema = pa.schema([*table.schema, *(pa.field(k, pa.string()) for k in partition)])
    return conform(table, schema, partition)


def _some(dialect: Dialect) -> Iterator[pa.Table]:
    for batch in csv_batches(dialect):
        if batch.num_rows:
            yield pa.Table.from_batches([batch]).slice(0, _ROWS)


def _are_values(names: tuple[str, ...]) -> bool:
    """Whether a first row holds values: a number is no name, unless pandas numbered its columns."""
    numbered = list(names) == [str(number) for number in range(len(names))]
    return not numbered and any(_NUMBER.fullmatch(name) for name in names)

"""Counting the bytes that an Iceberg writer would store, page by page, without one and without a file.

Every column is cut into pages where parquet-java cuts it (``page_rule``), keeps or gives up its dictionary by the
same test, and is encoded and compressed by pyarrow: a page without a dictionary as a row group of its own, so that
memory is one page; a column with a dictionary as one row group, since its pages share it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.report.parquet.encoding import Encoding, dictionary_pays, stored_bytes, writer_options
from dedup_storage.report.parquet.page_rule import PageRule, row_bytes

__all__ = ["Written", "encode"]

# Rows that show how far the delta encodings of page version 2 shrink values before a page's size is looked at.
_PROBE_ROWS = 1_000


@dataclass(frozen=True)
class Written:
    """What writing rows came to.

    Attributes:
        rows: Rows written.
        columns: Top-level column -> stored bytes.
        seconds: Processor time spent encoding.
    """

    rows: int
    columns: Mapping[str, int]
    seconds: float

    def of(self, names: Iterable[str]) -> int:
        """Stored bytes of some columns."""
        return sum(self.columns.get(name, 0) for name in names)


def encode(batches: Iterable[pa.RecordBatch], schema: pa.Schema, encoding: Encoding) -> Written:
    """Write batches to nowhere, as one row group, and count.

    Args:
        batches: Rows with ``schema``.
        schema: Columns.
        encoding: Settings.
    """
    before = time.process_time()
    columns = {field.name: _Column(field, encoding) for field in schema}
    rule = PageRule(schema.names, encoding.page_bytes, encoding.least_rows, encoding.most_rows)
    rows = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        sizes = {n: row_bytes(batch.column(n)) * columns[n].shrinkage(batch.column(n)) for n in schema.names}
        for name, ends in rule.advance(sizes).items():
            columns[name].add(batch.column(name), ends)
        rows += batch.num_rows
    stored = {name: column.finish() for name, column in columns.items()}
    return Written(rows, stored, time.process_time() - before)


class _Column:
    """One column: rows held until their page ends, or until the file does where a dictionary is shared."""

    def __init__(self, field: pa.Field, encoding: Encoding) -> None:
        self._schema, self._encoding = pa.schema([field]), encoding
        self._dictionary: bool | None = None if encoding.uses_dictionary(field.name) else False
        self._held: list[pa.Array] = []
        self._page_rows = 0
        self._shrinkage: float | None = None if encoding.page_version == 2 and self._dictionary is False else 1.0
        self._files: list[pq.FileMetaData] = []
        self._writer: pq.ParquetWriter | None = None

    def shrinkage(self, array: pa.Array) -> float:
        """Size of the values as a page counts them against ``row_bytes``: less than 1 for delta encodings."""
        if self._shrinkage is None:
            probe = pa.Table.from_arrays([array.slice(0, _PROBE_ROWS)], schema=self._schema)
            options = writer_options(self._schema, self._encoding, dictionary=False)
            found: list[pq.FileMetaData] = []
            options |= {"compression": "none", "compression_level": None}
            with pq.ParquetWriter(pa.MockOutputStream(), self._schema, metadata_collector=found, **options) as writer:
                writer.write_table(probe)
            raw = float(row_bytes(probe.column(0)).sum())
            self._shrinkage = stored_bytes(found[0]) / max(1.0, raw)
        return self._shrinkage

    def add(self, array: pa.Array, ends: list[int]) -> None:
        """Take rows, of which those before each end complete a page."""
        start = 0
        for end in ends:
            self._held.append(array.slice(start, end - start))
            self._page()
            start = end
        if start < len(array):
            self._held.append(array.slice(start))

    def finish(self) -> int:
        """Write what is held; stored bytes of the column."""
        if self._held:
            self._page()
        if self._dictionary:
            self._write(max_rows_per_page=self._page_rows)
        if self._writer is not None:
            self._writer.close()
        return sum(stored_bytes(metadata) for metadata in self._files)

    def _page(self) -> None:
        if self._dictionary is None:
            # The first page decides, as it does in the writer; its rows stand for those of the others.
            self._page_rows = sum(len(a) for a in self._held)
            self._dictionary = dictionary_pays(self._table(), self._encoding)
        if not self._dictionary:
            self._write()

    def _table(self) -> pa.Table:
        return pa.Table.from_arrays([pa.chunked_array(self._held, self._schema.field(0).type)], schema=self._schema)

    def _write(self, **more: int) -> None:
        table = self._table().combine_chunks()
        self._held = []
        if self._writer is None:
            options = writer_options(self._schema, self._encoding, dictionary=bool(self._dictionary)) | more
            self._writer = pq.ParquetWriter(
                pa.MockOutputStream(), self._schema, metadata_collector=self._files, **options
            )
        self._writer.write_table(table, row_group_size=table.num_rows)

"""The Parquet settings of an Iceberg table, and a file in memory that follows them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.report.parquet.footers import leaf_columns
from dedup_storage.report.parquet.page_rule import PageRule, row_bytes
from dedup_storage.table_properties import DICTIONARY_COLUMN

__all__ = [
    "ICEBERG_DEFAULTS",
    "Encoding",
    "decode_seconds",
    "dictionary_pays",
    "stored_bytes",
    "write_buffer",
    "writer_options",
]

_MIB = 1024**2
_PAGE = "write.parquet.page-size-bytes"
_GROUP = "write.parquet.row-group-size-bytes"
_LEVEL = "write.parquet.compression-level"
_VERSION = "write.parquet.page-version"
_DICTIONARY_BYTES = "write.parquet.dict-size-bytes"
_DICTIONARY = "write.parquet.dict-encoding-enabled"
# What parquet-java's page version 2 writes where no dictionary is used.
_V2_ENCODINGS = {
    "INT32": "DELTA_BINARY_PACKED", "INT64": "DELTA_BINARY_PACKED", "BYTE_ARRAY": "DELTA_BYTE_ARRAY", "BOOLEAN": "RLE",
}  # fmt: skip
_LEAST_ROWS = "write.parquet.row-group-check-min-record-count"
_MOST_ROWS = "write.parquet.row-group-check-max-record-count"
# A page ends between 90 % and 100 % of its size.
_V2_FULL = 0.95
# More than any page: pages then end by their rows alone.
_ENDLESS = 2**31 - 1


@dataclass(frozen=True)
class Encoding:
    """The Parquet settings of an Iceberg table.

    Attributes:
        page_bytes: Target size of a data page before compression.
        row_group_bytes: Target size of a row group after compression.
        level: zstd level.
        page_version: 1 or 2.
        dictionary: Whether columns use a dictionary unless ``columns`` says otherwise.
        dictionary_bytes: A larger dictionary is given up.
        least_rows, most_rows: Rows between two looks at the size of the open pages.
        columns: Top-level column -> dictionary on or off.
    """

    page_bytes: int = _MIB
    row_group_bytes: int = 128 * _MIB
    level: int = 3
    page_version: int = 1
    dictionary: bool = True
    dictionary_bytes: int = 2 * _MIB
    least_rows: int = 100
    most_rows: int = 10_000
    columns: Mapping[str, bool] = field(default_factory=dict)

    def uses_dictionary(self, column: str) -> bool:
        """Whether a top-level column tries a dictionary."""
        return self.columns.get(column, self.dictionary)

    def with_columns(self, columns: Mapping[str, bool]) -> Encoding:
        """The same with further per-column choices."""
        return replace(self, columns={**self.columns, **columns})

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Encoding:
        """The encoding that an Iceberg table's properties ask for."""
        columns = {
            key.removeprefix(DICTIONARY_COLUMN).split(".")[0]: value.lower() == "true"
            for key, value in properties.items()
            if key.startswith(DICTIONARY_COLUMN)
        }
        return cls(
            page_bytes=int(properties.get(_PAGE, _MIB)),
            row_group_bytes=int(properties.get(_GROUP, 128 * _MIB)),
            level=int(properties.get(_LEVEL, 3)),
            page_version=2 if properties.get(_VERSION, "v1").lower() == "v2" else 1,
            dictionary=properties.get(_DICTIONARY, "true").lower() == "true",
            dictionary_bytes=int(properties.get(_DICTIONARY_BYTES, 2 * _MIB)),
            least_rows=int(properties.get(_LEAST_ROWS, 100)),
            most_rows=int(properties.get(_MOST_ROWS, 10_000)),
            columns=columns,
        )

    def to_properties(self, leaves: Mapping[str, Iterable[str]]) -> dict[str, str]:
        """The Iceberg table properties of this encoding.

        Args:
            leaves: Top-level column -> its leaf columns as Iceberg names them (``hist.element``); a column whose
                choice is the default gets no property.
        """
        properties = {
            "write.parquet.compression-codec": "zstd",
            _PAGE: str(self.page_bytes),
            _GROUP: str(self.row_group_bytes),
            _LEVEL: str(self.level),
            _VERSION: f"v{self.page_version}",
            _DICTIONARY_BYTES: str(self.dictionary_bytes),
            _LEAST_ROWS: str(self.least_rows),
            _MOST_ROWS: str(self.most_rows),
        }
        for column, on in sorted(self.columns.items()):
            for leaf in leaves.get(column, ()):
                properties[DICTIONARY_COLUMN + leaf] = "true" if on else "false"
        return properties


ICEBERG_DEFAULTS = Encoding()


def write_buffer(table: pa.Table, encoding: Encoding, *, rows_per_group: int | None = None) -> tuple[int, pa.Buffer]:
    """Write one column as a file in memory.

    Pages end where an Iceberg writer ends the first of them, and a dictionary that it would give up is not used.

    Args:
        table: (rows,) one column.
        encoding: Settings.
        rows_per_group: Rows of a row group; ``None`` puts all into one, as Iceberg does below its row-group size.

    Returns:
        Stored bytes of the column, and the file.
    """
    name = table.schema.names[0]
    rule = PageRule([name], encoding.page_bytes, encoding.least_rows, encoding.most_rows)
    ends = rule.advance({name: row_bytes(table[name])})[name]
    first = ends[0] if ends else table.num_rows
    on = encoding.uses_dictionary(name) and dictionary_pays(table.slice(0, first), encoding)
    options = writer_options(table.schema, encoding, dictionary=on)
    if encoding.page_version == 2 and not on:
        # The delta encodings of this version are counted as they are, encoded.
        options |= {"data_page_size": round(_V2_FULL * encoding.page_bytes)}
    else:
        options |= {"max_rows_per_page": first}
    sink = pa.BufferOutputStream()
    collected: list[pq.FileMetaData] = []
    with pq.ParquetWriter(sink, table.schema, metadata_collector=collected, **options) as writer:
        writer.write_table(table.combine_chunks(), row_group_size=rows_per_group or max(1, table.num_rows))
    return stored_bytes(collected[0]), sink.getvalue()


def decode_seconds(buffer: pa.Buffer, *, rounds: int = 3) -> float:
    """Least processor time of some rounds of decoding a file in memory, on one thread."""
    best = float("inf")
    for _ in range(rounds):
        before = time.process_time()
        pq.ParquetFile(pa.BufferReader(buffer), pre_buffer=False).read(use_threads=False)
        best = min(best, time.process_time() - before)
    return best


def stored_bytes(metadata: pq.FileMetaData) -> int:
    """Stored bytes of all column chunks of a file."""
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    return sum(group.column(c).total_compressed_size for group in groups for c in range(group.num_columns))


def dictionary_pays(first_page: pa.Table, encoding: Encoding) -> bool:
    """Whether an Iceberg writer keeps a column's dictionary after its first page: it must be smaller than the values.

    Source: apache/parquet-java 1.17, ``FallbackValuesWriter.getBytes`` and ``DictionaryValuesWriter``.

    Args:
        first_page: (rows,) the first page of one column.
        encoding: With the limit of a dictionary.
    """
    options = writer_options(first_page.schema, encoding, dictionary=True)
    options |= {"compression": "none", "compression_level": None}
    collected: list[pq.FileMetaData] = []
    with pq.ParquetWriter(pa.MockOutputStream(), first_page.schema, metadata_collector=collected, **options) as writer:
        writer.write_table(first_page, row_group_size=max(1, first_page.num_rows))
    group = collected[0].row_group(0) if collected[0].num_row_groups else None
    if group is None or not any(group.column(c).has_dictionary_page for c in range(group.num_columns)):
        return False
    encoded = sum(group.column(c).total_uncompressed_size for c in range(group.num_columns))
    return encoded < float(row_bytes(first_page.column(0)).sum())


@lru_cache(maxsize=256)
def _leaves(schema: pa.Schema) -> tuple[tuple[str, str, str], ...]:
    """(top-level column, leaf path, physical type) of every leaf, as the writer names them."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    tops = leaf_columns(schema)
    leaves = [parquet.column(i) for i in range(len(tops))]
    return tuple((top, leaf.path, leaf.physical_type) for top, leaf in zip(tops, leaves, strict=True))


def writer_options(schema: pa.Schema, encoding: Encoding, *, dictionary: bool) -> dict[str, Any]:
    """pyarrow's options for columns that all use a dictionary or all do not; pages without end.

    Statistics stay out of page headers and checksums go in, as parquet-java does it.
    """
    leaves = _leaves(schema)
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": encoding.level,
        "data_page_size": _ENDLESS,
        "max_rows_per_page": _ENDLESS,
        "data_page_version": f"{encoding.page_version}.0",
        "dictionary_pagesize_limit": encoding.dictionary_bytes,
        "use_dictionary": dictionary,
        "store_schema": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    if encoding.page_version == 2 and not dictionary:
        plain = {path: _V2_ENCODINGS[kind] for _, path, kind in leaves if kind in _V2_ENCODINGS}
        if plain:
            options["column_encoding"] = plain
    return options

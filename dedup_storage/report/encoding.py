"""Writing rows the way an Iceberg writer would, only to count the bytes.

pyarrow stands in for the Java writer: same page size, row-group size, dictionary limit, codec and level. Two habits
differ: the Java writer drops a dictionary that does not pay within its first page, and looks at the page size only
every 100 rows, so that its default pages of long lists exceed 1 MB. One is imitated: it ends a page at 90 % of the
size or at the next look after that (parquet-java, ColumnWriteStoreBase), 94 % where it was measured.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.report.footers import leaf_columns

__all__ = ["ICEBERG_DEFAULTS", "Encoding", "Written", "decode_seconds", "encode", "write_buffer"]

_MIB = 1024**2
_PAGE = "write.parquet.page-size-bytes"
_GROUP = "write.parquet.row-group-size-bytes"
_LEVEL = "write.parquet.compression-level"
_VERSION = "write.parquet.page-version"
_DICTIONARY_BYTES = "write.parquet.dict-size-bytes"
_DICTIONARY = "write.parquet.dict-encoding-enabled"
_DICTIONARY_COLUMN = _DICTIONARY + ".column."
# What parquet-java's page version 2 writes where no dictionary is used.
_V2_ENCODINGS = {
    "INT32": "DELTA_BINARY_PACKED", "INT64": "DELTA_BINARY_PACKED", "BYTE_ARRAY": "DELTA_BYTE_ARRAY", "BOOLEAN": "RLE",
}  # fmt: skip
_ROWS_PER_PAGE = 20_000
_PAGE_FILL = 0.94


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
        columns: Top-level column -> dictionary on or off.
    """

    page_bytes: int = _MIB
    row_group_bytes: int = 128 * _MIB
    level: int = 3
    page_version: int = 1
    dictionary: bool = True
    dictionary_bytes: int = 2 * _MIB
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
            key.removeprefix(_DICTIONARY_COLUMN).split(".")[0]: value.lower() == "true"
            for key, value in properties.items()
            if key.startswith(_DICTIONARY_COLUMN)
        }
        return cls(
            page_bytes=int(properties.get(_PAGE, _MIB)),
            row_group_bytes=int(properties.get(_GROUP, 128 * _MIB)),
            level=int(properties.get(_LEVEL, 3)),
            page_version=2 if properties.get(_VERSION, "v1").lower() == "v2" else 1,
            dictionary=properties.get(_DICTIONARY, "true").lower() == "true",
            dictionary_bytes=int(properties.get(_DICTIONARY_BYTES, 2 * _MIB)),
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
        }
        for column, on in sorted(self.columns.items()):
            for leaf in leaves.get(column, ()):
                properties[_DICTIONARY_COLUMN + leaf] = "true" if on else "false"
        return properties


ICEBERG_DEFAULTS = Encoding()


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


def encode(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, encoding: Encoding, *, rows_per_group: int | None = None
) -> Written:
    """Write batches to nowhere and count; memory is one row group's compressed pages.

    Args:
        batches: Rows with ``schema``.
        schema: Columns.
        encoding: Settings.
        rows_per_group: Rows of a row group; ``None`` puts all into one, as Iceberg does below its row-group size.
    """
    return _write(batches, schema, encoding, rows_per_group, pa.MockOutputStream())


def write_buffer(
    table: pa.Table, encoding: Encoding, *, rows_per_group: int | None = None
) -> tuple[Written, pa.Buffer]:
    """Like ``encode``, and give the file's bytes."""
    sink = pa.BufferOutputStream()
    written = _write(table.to_batches(), table.schema, encoding, rows_per_group, sink)
    return written, sink.getvalue()


def decode_seconds(buffer: pa.Buffer, *, rounds: int = 3) -> float:
    """Least processor time of some rounds of decoding a file in memory, on one thread."""
    best = float("inf")
    for _ in range(rounds):
        before = time.process_time()
        pq.ParquetFile(pa.BufferReader(buffer), pre_buffer=False).read(use_threads=False)
        best = min(best, time.process_time() - before)
    return best


def _write(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    encoding: Encoding,
    rows_per_group: int | None,
    sink: pa.NativeFile,
) -> Written:
    before = time.process_time()
    collected: list[pq.FileMetaData] = []
    group = rows_per_group or 2**31 - 1
    with pq.ParquetWriter(sink, schema, metadata_collector=collected, **_options(schema, encoding)) as writer:
        for batch in _nonempty(batches):
            # write_batch keeps one row group open across batches; write_table would begin a new one each time.
            writer.write_batch(batch, row_group_size=group)
    seconds = time.process_time() - before
    metadata = collected[0]
    names = _leaf_names(schema)
    columns: dict[str, int] = dict.fromkeys(schema.names, 0)
    for g in range(metadata.num_row_groups):
        row_group = metadata.row_group(g)
        for c, name in enumerate(names):
            columns[name] += row_group.column(c).total_compressed_size
    return Written(metadata.num_rows, columns, seconds)


def _nonempty(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in batches if batch.num_rows)


@lru_cache(maxsize=256)
def _leaves(schema: pa.Schema) -> tuple[tuple[str, str, str], ...]:
    """(top-level column, leaf path, physical type) of every leaf, as the writer names them."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    tops = leaf_columns(schema)
    leaves = [parquet.column(i) for i in range(len(tops))]
    return tuple((top, leaf.path, leaf.physical_type) for top, leaf in zip(tops, leaves, strict=True))


def _leaf_names(schema: pa.Schema) -> list[str]:
    return [top for top, _, _ in _leaves(schema)]


def _options(schema: pa.Schema, encoding: Encoding) -> dict[str, object]:
    leaves = _leaves(schema)
    with_dictionary = [path for top, path, _ in leaves if encoding.uses_dictionary(top)]
    options: dict[str, object] = {
        "compression": "zstd",
        "compression_level": encoding.level,
        "data_page_size": max(1, round(_PAGE_FILL * encoding.page_bytes)),
        "data_page_version": f"{encoding.page_version}.0",
        "dictionary_pagesize_limit": encoding.dictionary_bytes,
        "use_dictionary": with_dictionary or False,
        "store_schema": False,
    }
    if "max_rows_per_page" in inspect.signature(pq.write_table).parameters:
        options["max_rows_per_page"] = _ROWS_PER_PAGE
    if encoding.page_version == 2:
        plain = {path: _V2_ENCODINGS[kind] for top, path, kind in leaves
                 if not encoding.uses_dictionary(top) and kind in _V2_ENCODINGS}  # fmt: skip
        if plain:
            options["column_encoding"] = plain
    return options

"""Stored bytes per column, from the footers of Parquet files alone: no data page is read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from dedup_storage.errors import StorageError
from dedup_storage.lake.folders import resolve_uri
from dedup_storage.lake.retries import storage_reads, storage_trouble
from dedup_storage.report.parquet.one_schema import joined, plain_type

__all__ = [
    "ColumnTotals",
    "DataFile",
    "FileFooter",
    "Resolve",
    "Totals",
    "iter_footers",
    "leaf_columns",
    "leaf_places",
    "read_footer",
]

Resolve = Callable[[str], tuple[pafs.FileSystem, str]]
OnFile = Callable[[int], None]

_ATTEMPTS = 4
_THREADS = 16


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a table.

    Attributes:
        path: Absolute path or URI.
        size_bytes: Size that the table's metadata states; ``None`` when nothing states it.
        partition: Partition field name -> value, e.g. ``{"event_date": "2024-05-01", "bucket": "3"}``.
        changed_ns: When the file was last changed, in nanoseconds since the epoch; ``None`` when nobody asked.
    """

    path: str
    size_bytes: int | None = None
    partition: Mapping[str, str] = field(default_factory=dict)
    changed_ns: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class ColumnTotals:
    """Sums over the column chunks of one top-level column (all leaves of a nested one together).

    Attributes:
        stored_bytes: Compressed bytes, page headers and dictionary pages included.
        encoded_bytes: The same before compression.
        values: Leaf values, nulls and empty lists included.
        nulls: Leaf nulls (a null or empty list counts once); chunks without statistics count as none.
        encodings: Encoding -> number of chunks that use it.
        codecs: Codec -> number of chunks.
        dictionary_chunks: Chunks with a dictionary page.
        leaves: Place of a leaf in the column's type (``leaf_places``) -> (values, nulls).
    """

    stored_bytes: int = 0
    encoded_bytes: int = 0
    values: int = 0
    nulls: int = 0
    chunks: int = 0
    dictionary_chunks: int = 0
    encodings: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    leaves: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: ColumnTotals) -> None:
        """Add another sum to this one."""
        self.stored_bytes += other.stored_bytes
        self.encoded_bytes += other.encoded_bytes
        self.values += other.values
        self.nulls += other.nulls
        self.chunks += other.chunks
        self.dictionary_chunks += other.dictionary_chunks
        self.encodings.update(other.encodings)
        self.codecs.update(other.codecs)
        for path, (values, nulls) in other.leaves.items():
            before = self.leaves.get(path, (0, 0))
            self.leaves[path] = (before[0] + values, before[1] + nulls)


@dataclass(slots=True)
class FileFooter:
    """What the footer of one file says."""

    file: DataFile
    size_bytes: int
    rows: int
    row_groups: int
    columns: dict[str, ColumnTotals]
    arrow_schema: pa.Schema


@dataclass(slots=True)
class Totals:
    """Sums over files; memory grows with columns and partitions, never with files.

    Attributes:
        size_bytes: File sizes; what exceeds the columns' bytes is footers, indexes and magic numbers.
        columns: Top-level column -> sums.
        partitions: (partition field, value) -> sums for that value, without its own partitions.
        arrow_schema: Every column that any file has, in the type that holds all values; where there is none, in that of
            the first file that has it.
        mixed: Whether files differ in their columns or in a column's type.
    """

    files: int = 0
    rows: int = 0
    row_groups: int = 0
    size_bytes: int = 0
    columns: dict[str, ColumnTotals] = field(default_factory=dict)
    partitions: dict[tuple[str, str], PartitionTotals] = field(default_factory=dict)
    arrow_schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    mixed: bool = False

    @property
    def column_bytes(self) -> int:
        """Stored bytes of all columns."""
        return sum(c.stored_bytes for c in self.columns.values())

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the files that belong to no column: footers, page indexes, magic numbers."""
        return self.size_bytes - self.column_bytes

    def add(self, footer: FileFooter) -> None:
        """Add one file."""
        if self.files and not footer.arrow_schema.equals(self.arrow_schema):
            self._join(footer.arrow_schema)
        self.files += 1
        self.rows += footer.rows
        self.row_groups += footer.row_groups
        self.size_bytes += footer.size_bytes
        for name, column in footer.columns.items():
            if name not in self.columns:
                self.columns[name] = ColumnTotals()
                self.arrow_schema = self.arrow_schema.append(footer.arrow_schema.field(name))
            self.columns[name].add(column)
        for key in footer.file.partition.items():
            self.partitions.setdefault(key, PartitionTotals()).add(footer)

    def _join(self, schema: pa.Schema) -> None:
        """Take in a file whose schema is another one."""
        self.mixed |= set(schema.names) != set(self.arrow_schema.names)
        for place, known in enumerate(self.arrow_schema):
            if known.name in schema.names and not schema.field(known.name).type.equals(known.type):
                self.mixed = True
                both = _holding(known.type, schema.field(known.name).type)
                self.arrow_schema = self.arrow_schema.set(place, known.with_type(both))

    @classmethod
    def of(cls, footers: Iterable[FileFooter]) -> Totals:
        """Sum over footers."""
        totals = cls()
        for footer in footers:
            totals.add(footer)
        return totals


@dataclass(slots=True)
class PartitionTotals:
    """Sums over the files of one partition value."""

    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    column_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, footer: FileFooter) -> None:
        """Add one file."""
        self.files += 1
        self.rows += footer.rows
        self.size_bytes += footer.size_bytes
        self.column_bytes.update({name: column.stored_bytes for name, column in footer.columns.items()})


def _holding(first: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both; the first where there is none."""
    try:
        both = joined(plain_type(first), plain_type(other))
    except ValueError:
        return first
    return first if both is None else both


def _one_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]


def read_footer(file: DataFile, resolve: Resolve = resolve_uri, *, attempts: int = _ATTEMPTS) -> FileFooter:
    """Read the footer of one file.

    Args:
        file: The file.
        resolve: Finds the file system of a path; an Iceberg table's own credentials come in here.
        attempts: How often a failing read is tried, with exponential back-off.

    Raises:
        StorageError: names the file that is missing, unreadable, torn, or of another size than its table states.
    """
    try:
        metadata, size = storage_reads(attempts)(_open_footer, file, resolve)
    except FileNotFoundError:
        raise StorageError(
            f"the data file {file.path} is missing",
            expected="every file that the table names",
            fix="Restore it, or read a version that does not need it.",
        ) from None
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        trouble = storage_trouble(f"the data file {file.path} was read", error, attempts)
        if trouble is not None:
            raise trouble from error
        raise StorageError(
            f"the data file {file.path} cannot be read: {_one_line(error)}",
            expected="a Parquet file with a whole footer",
            fix="Write the file again, or restore it from a copy.",
        ) from None
    if file.size_bytes is not None and file.size_bytes != size:
        raise StorageError(
            f"the data file {file.path} has another size than its table states",
            expected=f"{file.size_bytes} bytes",
            got=f"{size} bytes",
            fix="Restore the file from a copy.",
        )
    return _summarise(file, metadata, size)


def _open_footer(file: DataFile, resolve: Resolve) -> tuple[pq.FileMetaData, int]:
    filesystem, path = resolve(file.path)
    with filesystem.open_input_file(path) as source:
        return pq.read_metadata(source), source.size()


def _summarise(file: DataFile, metadata: pq.FileMetaData, size: int) -> FileFooter:
    schema = metadata.schema.to_arrow_schema()
    names, places = leaf_columns(schema), leaf_places(schema)
    columns: dict[str, ColumnTotals] = {name: ColumnTotals() for name in schema.names}
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        for c, name in enumerate(names):
            chunk = group.column(c)
            statistics = chunk.statistics if chunk.is_stats_set else None
            nulls = statistics.null_count if statistics is not None and statistics.has_null_count else 0
            totals = columns[name]
            totals.stored_bytes += chunk.total_compressed_size
            totals.encoded_bytes += chunk.total_uncompressed_size
            totals.values += chunk.num_values
            totals.nulls += nulls
            totals.chunks += 1
            totals.dictionary_chunks += chunk.has_dictionary_page
            totals.encodings.update(chunk.encodings)
            totals.codecs[chunk.compression] += 1
            before = totals.leaves.get(places[c], (0, 0))
            totals.leaves[places[c]] = (before[0] + chunk.num_values, before[1] + nulls)
    return FileFooter(file, size, metadata.num_rows, metadata.num_row_groups, columns, schema)


def leaf_columns(schema: pa.Schema) -> list[str]:
    """The top-level column of each Parquet leaf column, in the file's order."""
    return [name for name, kind in zip(schema.names, schema.types, strict=True) for _ in _places(kind)]


def leaf_places(schema: pa.Schema) -> list[str]:
    """Where in its column's type each Parquet leaf column stands, in the file's order.

    Writers name what is inside a list as they like (``element``, ``item``, ``array``), so a file's own paths do not
    tell that two files hold the same leaf.

    Example: ``h: list<struct<a, b>>`` -> ``["0.a", "0.b"]``
    """
    return [place for kind in schema.types for place in _places(kind)]


def _places(kind: pa.DataType, place: str = "") -> list[str]:
    if pa.types.is_dictionary(kind):
        return _places(kind.value_type, place)
    if kind.num_fields == 0:
        return [place]
    named = pa.types.is_struct(kind)
    inner = [(kind.field(i).type, kind.field(i).name if named else str(i)) for i in range(kind.num_fields)]
    return [leaf for part, name in inner for leaf in _places(part, f"{place}.{name}".lstrip("."))]


def iter_footers(
    files: Iterable[DataFile],
    *,
    resolve: Resolve = resolve_uri,
    threads: int = _THREADS,
    on_file: OnFile | None = None,
) -> Iterator[FileFooter]:
    """Read many footers in parallel, in the files' order; at most ``2 * threads`` are held at a time.

    Args:
        files: The files, also a generator.
        resolve: Finds the file system of a path.
        threads: Reading threads; footers are small, so latency decides.
        on_file: Called with the number of files read so far, for progress.

    Raises:
        StorageError: names the first file that cannot be read; the others are left.
    """
    waiting: deque[Future[FileFooter]] = deque()
    done = 0
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="footers") as pool:
        try:
            for file in files:
                waiting.append(pool.submit(read_footer, file, resolve))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
                    done += 1
                    if on_file is not None:
                        on_file(done)
            while waiting:
                yield waiting.popleft().result()
                done += 1
                if on_file is not None:
                    on_file(done)
        finally:
            for future in waiting:
                future.cancel()

"""Rows of one data file, in ascending order, without ever holding more than asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import load_file_io

from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import StorageError
from dedup_storage.lake.credentials import Client, FileAccess, Origin
from dedup_storage.reader.cache.file_cache import FileCache

__all__ = ["DataFile", "RowStream", "TableRef", "row_bytes", "storage_error"]

T = TypeVar("T")
_FIELD_ID = b"PARQUET:field_id"
# Bytes of a column that a store is asked for at once, or a disk. Each open file has them for each of its columns.
_STORE_BYTES, _DISK_BYTES = 1 << 20, 1 << 17


@dataclass(frozen=True)
class TableRef:
    """What a worker needs to know of a table; crosses process borders.

    Attributes:
        name: Its name.
        location: Where it lies.
        io: Properties of its file system.
        fields: Field id and Arrow type of each column, in the table's order; an id of -1 stands for a format whose
            files name columns as the table does.
        origin: Where new properties come from when their credentials have ended; ``None`` where they have no end.
        cache: What keeps the bytes of its files on this machine; ``None`` where every read asks the store.
        mapped: Field id of each name that files without ids use, as a table has it that took over files of another
            writer; ``None`` where columns are called there as the table calls them.
    """

    name: str
    location: str
    io: Mapping[str, Any] = field(repr=False)
    fields: Mapping[str, tuple[int, pa.DataType]]
    origin: Origin | None = None
    cache: FileCache | None = field(default=None, compare=False)
    mapped: Mapping[str, int] | None = None
    _files: FileAccess = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        make = partial(load_file_io, location=self.location)
        object.__setattr__(self, "_files", FileAccess(make, self.io, self.origin))

    def file_io(self) -> FileAccess:
        """Opens the table's files, for all threads of a process."""
        return self._files


@dataclass(frozen=True)
class DataFile:
    """One data file of a version.

    Attributes:
        table: Name of its table.
        path: Its address.
        physical_rows: Rows in the file, deleted ones included.
        deleted: Positions of deleted rows, ascending; ``None`` when there are none.
        constants: Columns that the file need not hold, each with its one value there: of its partition, or the default
            of a column that was added later.
        size_bytes: Its bytes, by its table; ``None`` where that does not say.
    """

    table: str
    path: str
    physical_rows: int
    deleted: Int64 | None = field(default=None, compare=False)
    constants: Mapping[str, Any] = field(default_factory=dict, compare=False)
    size_bytes: int | None = field(default=None, compare=False)

    @property
    def rows(self) -> int:
        """Rows that are not deleted."""
        return self.physical_rows - (0 if self.deleted is None else len(self.deleted))

    def kept(self) -> Int64 | None:
        """Positions of the rows that are left, or ``None`` when all are."""
        if self.deleted is None:
            return None
        mask = np.ones(self.physical_rows, dtype=np.bool_)
        mask[self.deleted] = False
        return np.flatnonzero(mask)


def storage_error(path: str, error: Exception) -> StorageError:
    """A file that is missing or damaged, with its name."""
    gone = isinstance(error, FileNotFoundError)
    return StorageError(
        f"the file {path} " + ("is missing" if gone else f"cannot be read: {str(error).splitlines()[0][:200]}"),
        fix="Restore the file from a copy, or open a version that does not need it; pin the version that a training "
        "reads, so that it does not expire.",
    )


def open_parquet(io: Client, file: DataFile, cache: FileCache | None = None) -> pq.ParquetFile:
    """Open a Parquet file, a remote one through the cache."""
    source, metadata = open_stored(io, file, cache)
    buffer_bytes = _STORE_BYTES if FileCache.keeps(file.path) else _DISK_BYTES
    # Times of 96 bits, which Spark writes unless it is told otherwise, would else come as nanoseconds, and years before
    # 1678 or after 2261 as others.
    return pq.ParquetFile(
        source, metadata=metadata, pre_buffer=False, buffer_size=buffer_bytes, coerce_int96_timestamp_unit="us"
    )


def open_stored(io: Client, file: DataFile, cache: FileCache | None = None) -> tuple[Any, pq.FileMetaData | None]:
    """Open a file's bytes, a remote one's through the cache; with its footer where the cache has it."""
    if cache is not None and cache.keeps(file.path):
        return cache.open(io, file.path, file.size_bytes)
    return io.new_input(file.path).open(seekable=True), None


def physical_columns(file: pq.ParquetFile, table: TableRef, columns: Sequence[str]) -> dict[str, str | None]:
    """Name in the file of each column, found by field id; ``None`` where the file is older than the column."""
    there = set(file.schema_arrow.names)
    by_id = {}
    for place in file.schema_arrow:
        metadata = place.metadata if place.metadata is not None else {}
        if _FIELD_ID in metadata:
            by_id[int(metadata[_FIELD_ID])] = place.name
    # Files that were not written for their table carry no ids.
    named = not by_id and table.mapped is None
    if not by_id and table.mapped is not None:
        by_id = {table.mapped[name]: name for name in file.schema_arrow.names if name in table.mapped}
    ids = {c: table.fields[c][0] for c in columns}
    return {c: by_id.get(i) if i >= 0 and not named else c if c in there else None for c, i in ids.items()}


def decoded_bytes(file: pq.ParquetFile, columns: Sequence[str]) -> float:
    """Estimated bytes of one decoded row of these physical columns, from the footer."""
    wanted, total = set(columns), 0.0
    widths = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "BOOLEAN": 1, "INT96": 12}
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in range(row_group.num_columns):
            chunk = row_group.column(place)
            if chunk.path_in_schema.split(".", 1)[0] in wanted:
                width = widths.get(chunk.physical_type)
                total += chunk.num_values * width if width else max(chunk.total_uncompressed_size, chunk.num_values * 8)
    return total / max(metadata.num_rows, 1)


def row_bytes(table: TableRef, file: DataFile, columns: Sequence[str]) -> float:
    """Estimated bytes of one decoded row of these columns."""
    stream = RowStream(table.file_io(), table, file, columns)
    try:
        return decoded_bytes(stream.parquet, [n for n in stream.physical.values() if n is not None])
    finally:
        stream.close()


class RowStream:
    """Reads ascending rows of some columns of one file.

    Row numbers count the rows that are not deleted. Going forward decodes each row once; going back reopens the
    file at the row group that holds the row, and so does a read after one that storage failed, or after the table's
    credentials were renewed.

    Args:
        io: The table's files.
        table: The file's table.
        file: The file.
        columns: Logical names; the result has them in this order.
        piece_bytes: Decoded bytes to hold at a time.
        side_by_side: Whether Arrow's threads decode its columns; each keeps memory of its own.
    """

    def __init__(
        self,
        io: FileAccess,
        table: TableRef,
        file: DataFile,
        columns: Sequence[str],
        piece_bytes: int = 8 << 20,
        *,
        side_by_side: bool = True,
    ) -> None:
        self._io, self._table, self._file, self._columns = io, table, file, list(columns)
        self._piece_bytes, self._side_by_side = piece_bytes, side_by_side
        self._kept = file.kept()
        self._parquet: pq.ParquetFile | None = None
        self._opened_by: Client | None = None
        self._pieces: Iterator[pa.RecordBatch] = iter(())
        self._piece: Any = None
        self._start = self._stop = 0

    @property
    def parquet(self) -> pq.ParquetFile:
        """The open file."""
        return self._parquet if self._parquet is not None else self._reading(self._open)

    @property
    def physical(self) -> dict[str, str | None]:
        """Name in the file of each column; ``None`` where the file is older than the column."""
        if self._parquet is None:
            self.parquet  # noqa: B018 - opening resolves the names
        return self._physical

    def close(self) -> None:
        """Let the file go."""
        if self._parquet is not None:
            self._parquet.close()
        self._parquet, self._piece, self._pieces = None, None, iter(())

    def take(self, rows: Int64) -> pa.Table:
        """Rows by ascending number, as a table of ``len(rows)`` rows in pieces."""
        if len(rows) == 0:
            return self._conform(None, 0)
        if self._kept is None and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
            return self.read(int(rows[0]), int(rows[-1]) + 1)
        physical = rows if self._kept is None else self._kept[rows]
        tables, done = [], 0
        while done < len(physical):
            piece = self._seek(int(physical[done]))
            end = int(np.searchsorted(physical, self._stop, side="left"))
            wanted = physical[done:end] - self._start
            first, count = int(wanted[0]), len(wanted)
            if int(wanted[-1]) - first + 1 == count:
                tables.append(piece.slice(first, count))
            else:
                tables.append(gather_table(piece, wanted))
            done = end
        return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows ``start`` to ``stop`` (exclusive), in pieces that copy nothing where no row is deleted."""
        if start >= stop:
            return self._conform(None, 0)
        if self._kept is not None:
            return self.take(np.arange(start, stop, dtype=np.int64))
        tables, row = [], start
        while row < stop:
            piece = self._seek(row)
            end = min(stop, self._stop)
            tables.append(piece.slice(row - self._start, end - row))
            row = end
        return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]

    def _seek(self, row: int) -> pa.Table:
        """Make the piece that holds a physical row the current one."""
        if self._piece is None or not self._start <= row < self._stop:
            self._reading(partial(self._advance, row=row))
        return self._piece

    def _reading(self, function: Callable[[Client], T]) -> T:
        """Read, again where that can help.

        Raises:
            StorageError: the file is missing, damaged or shorter than its table says, or storage failed each time or
                refused.
        """
        try:
            return self._io.read(f"the file {self._file.path} was read", function)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(self._file.path, error) from error

    def _open(self, client: Client) -> pq.ParquetFile:
        opened = open_parquet(client, self._file, self._table.cache)
        self._physical = physical_columns(opened, self._table, self._columns)
        names = [p for p in self._physical.values() if p is not None]
        metadata = opened.metadata
        self._group_starts = np.cumsum([0, *(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))])
        self._piece_rows = int(min(max(self._piece_bytes / max(decoded_bytes(opened, names), 1.0), 1), 1 << 20))
        self._parquet, self._opened_by = opened, client
        return opened

    def _advance(self, client: Client, row: int) -> None:
        if self._opened_by is not client:
            # Of credentials that are about to end.
            self.close()
        try:
            parquet = self._parquet if self._parquet is not None else self._open(client)
            here = self._group_of(min(self._stop, int(self._group_starts[-1]) - 1))
            if row < self._start or self._piece is None or (row >= self._stop and self._group_of(row) > here):
                self._reopen(parquet, row)
            while row >= self._stop:
                batch = next(self._pieces, None)
                if batch is None:
                    raise StorageError(
                        f"the file {self._file.path} ends early", expected=f"row {row}", got=f"{self._stop} rows"
                    )
                self._start, self._stop = self._stop, self._stop + batch.num_rows
                self._piece = self._conform(batch, batch.num_rows) if row < self._stop else pa.table({})
        except OSError:
            # Nobody knows where a decoder stands that a read has failed: the next attempt opens the file anew.
            self.close()
            raise

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._group_starts, row, side="right")) - 1

    def _reopen(self, parquet: pq.ParquetFile, row: int) -> None:
        group = self._group_of(row)
        names = [p for p in self._physical.values() if p is not None]
        self._pieces = parquet.iter_batches(
            batch_size=self._piece_rows,
            row_groups=list(range(group, parquet.num_row_groups)),
            columns=names,
            # To decode one column needs no second thread, which would have to be woken for each piece.
            use_threads=self._side_by_side and len(names) > 1,
        )
        self._start = self._stop = int(self._group_starts[group])

    def _conform(self, batch: pa.RecordBatch | None, rows: int) -> pa.Table:
        """The table's columns and types, from a piece as the file has it."""
        arrays: list[Any] = []
        for name in self._columns:
            physical, target = self.physical[name], self._table.fields[name][1]
            if batch is None:
                arrays.append(pa.array([], target))
            elif physical is None:
                value = pa.scalar(self._file.constants.get(name), target)
                arrays.append(pa.repeat(value, rows))
            else:
                arrays.append(self._promoted(name, batch.column(physical), target))
        return pa.Table.from_arrays(arrays, names=self._columns)

    def _promoted(self, name: str, array: pa.Array, target: pa.DataType) -> pa.Array:
        try:
            return conform(array, target)
        except pa.ArrowInvalid as error:
            raise StorageError(
                f"the file {self._file.path} has values of the column {name} that its table cannot",
                expected=f"values of {target}",
                got=f"{array.type} ({str(error).splitlines()[0]})",
                fix="Write the file again in the table's type, or leave the column out of columns.",
            ) from None


def conform(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Promote an older file's narrower type; large and plain strings and lists are left as they are.

    Old Parquet writers store timestamps without a zone, which mean UTC.

    Raises:
        ArrowInvalid: a value would become another one, such as nanoseconds between two microseconds.
    """
    return array if _alike(array.type, target) else array.cast(target)


def _alike(have: pa.DataType, want: pa.DataType) -> bool:
    lists = (pa.types.is_list(have) or pa.types.is_large_list(have)) and (
        pa.types.is_list(want) or pa.types.is_large_list(want)
    )
    if lists:
        return _alike(have.value_type, want.value_type)
    text = (pa.types.is_string, pa.types.is_large_string)
    if any(t(have) for t in text) and any(t(want) for t in text):
        return True
    if pa.types.is_timestamp(have) and pa.types.is_timestamp(want):
        return bool(have.unit == want.unit and (have.tz is None) == (want.tz is None))
    return bool(have == want)

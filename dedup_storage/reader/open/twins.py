"""Files whose keys are stored in the same bytes: what was matched for one of them holds for the others.

Groups computed from one log and written by one writer have the same keys in the same order, and Parquet stores equal
columns of equally cut files as equal bytes. Comparing these proves that the keys are equal, without decoding one of
them and whoever wrote the files. Files that were cut elsewhere have other bytes; they are matched by their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from dedup_storage.errors import StorageError
from dedup_storage.lake.credentials import Client
from dedup_storage.reader.decode.files import (
    DataFile,
    TableRef,
    open_stored,
    physical_columns,
    storage_error,
)

__all__ = ["KeyDigests"]


@dataclass(frozen=True)
class KeyDigests:
    """Digests of files' stored key columns, each read once by a process.

    Attributes:
        known: By table, file and columns.
    """

    known: dict[tuple[str, str, tuple[str, ...]], bytes | None] = field(default_factory=dict)

    def of(self, table: TableRef, file: DataFile, columns: Sequence[str]) -> bytes | None:
        """What two files have in common whose columns hold equal values, row for row.

        Args:
            table: The file's table.
            file: The file.
            columns: Its key columns.

        Returns:
            ``None`` where stored bytes do not tell: rows are deleted, or a column is not in the file.

        Raises:
            StorageError: the file cannot be read.
        """
        if file.deleted is not None:
            return None
        name = (file.table, file.path, tuple(columns))
        if name not in self.known:
            self.known[name] = _read(table, file, columns)
        return self.known[name]


def _read(table: TableRef, file: DataFile, columns: Sequence[str]) -> bytes | None:
    def read(client: Client) -> bytes | None:
        stored, metadata = open_stored(client, file, table.cache)
        with stored, pq.ParquetFile(stored, metadata=metadata) as parquet:
            names = list(physical_columns(parquet, table, columns).values())
            found = hashlib.blake2b(digest_size=16)
            chunks = _chunks(parquet, names)
            if chunks is None:
                return None
            for kind, first, size in chunks:
                stored.seek(first)
                pages = stored.read(size)
                if len(pages) != size:
                    raise StorageError(f"the file {file.path} ends early", expected=f"{first + size:,} bytes or more")
                found.update(kind.encode())
                found.update(pages)
            return found.digest()

    try:
        return table.file_io().read(f"the file {file.path} was read", read)
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(file.path, error) from error


def _chunks(parquet: pq.ParquetFile, names: Sequence[str | None]) -> list[tuple[str, int, int]] | None:
    """Of each row group's columns what their bytes mean, where these begin and how many they are.

    Returns:
        ``None`` where the file lacks one of the columns.
    """
    there = {parquet.schema.column(place).path: place for place in range(len(parquet.schema))}
    if not all(name in there for name in names):
        return None
    found = []
    for group in range(parquet.metadata.num_row_groups):
        for name in names:
            place = there[str(name)]
            chunk, column = parquet.metadata.row_group(group).column(place), parquet.schema.column(place)
            dictionary = chunk.dictionary_page_offset
            first = chunk.data_page_offset if dictionary is None else min(dictionary, chunk.data_page_offset)
            levels = (column.max_definition_level, column.max_repetition_level, column.length)
            type_ = (column.physical_type, str(column.logical_type), column.converted_type)
            pages = (chunk.compression, chunk.num_values, chunk.data_page_offset - first, chunk.total_compressed_size)
            found.append((repr((group, *type_, *levels, *pages)), first, chunk.total_compressed_size))
    return found

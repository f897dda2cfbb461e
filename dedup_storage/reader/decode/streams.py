"""The open files of one unit."""

from __future__ import annotations

from collections.abc import Sequence

from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef

__all__ = ["LEAST_PIECE", "Streams"]

# Decoded bytes that a file which shares its room with others may hold all the same.
LEAST_PIECE = 64 << 10


class Streams:
    """Files by what is read of them, opened when they are asked for.

    Args:
        piece_bytes: Decoded bytes that each may hold.
    """

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._open: dict[tuple[str, DataFile], RowStream] = {}

    def of(self, part: str, ref: TableRef, file: DataFile, columns: Sequence[str], share: int = 1) -> RowStream:
        """One file's rows.

        Args:
            part: What for; one file may be read for several things.
            ref: Its table.
            file: The file.
            columns: Columns to read.
            share: Files that share what one alone may hold.
        """
        key = (part, file)
        if key not in self._open:
            size = self._piece_bytes if share == 1 else max(self._piece_bytes // share, LEAST_PIECE)
            self._open[key] = RowStream(ref.file_io(), ref, file, columns, size)
        return self._open[key]

    def close(self) -> None:
        """Let the files go."""
        for stream in self._open.values():
            stream.close()
        self._open.clear()

"""Metadata of Iceberg tables: small files, each read whole and for itself, again where storage fails or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile

if TYPE_CHECKING:
    from dedup_storage.lake.credentials import Client, FileAccess

__all__ = ["WholeFiles"]

Kept = Callable[[str, Callable[[], bytes]], bytes]


class WholeFiles(FileIO):
    """Reads manifests and delete files of one table; writes nothing.

    A plan reads many of them, and one that fails for a moment must not begin the plan anew.

    Args:
        files: The table's files.
        kept: Gives the content of a file by its address where this machine has it, else reads it; ``None`` reads it.
    """

    def __init__(self, files: FileAccess, kept: Kept | None = None) -> None:
        super().__init__(dict(files.properties))
        self._files, self._kept = files, kept

    def new_input(self, location: str) -> InputFile:
        """A file, not opened yet."""
        return _WholeFile(self._files, location, self._kept)

    def new_output(self, location: str) -> OutputFile:
        """Never."""
        raise NotImplementedError(f"{location} is read, not written")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Never."""
        raise NotImplementedError(f"{location} is read, not deleted")


class _WholeFile(InputFile):
    def __init__(self, files: FileAccess, location: str, kept: Kept | None) -> None:
        super().__init__(location)
        self._files, self._kept = files, kept

    def _content(self) -> bytes:
        return self._read() if self._kept is None else self._kept(self.location, self._read)

    def _read(self) -> bytes:
        def read(client: Client) -> bytes:
            with client.new_input(self.location).open() as stream:
                return bytes(stream.read())

        return self._files.read(f"the file {self.location} was read", read)

    def __len__(self) -> int:
        return len(self._content())

    def exists(self) -> bool:
        """Whether it is there."""
        try:
            self._content()
        except FileNotFoundError:
            return False
        return True

    def open(self, seekable: bool = True) -> InputStream:
        """Its content, in memory.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: storage failed each time, or refuses.
        """
        content: Any = pa.BufferReader(self._content())
        return content

"""A cache of remote files that every process of a machine shares: the second epoch asks the store for nothing."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.credentials import Client
from dedup_storage.lake.stores import scheme_of
from dedup_storage.reader.cache.folder import CacheFolder
from dedup_storage.reader.cache.state import Busy
from dedup_storage.reader.cache.stored_file import Footer, StoredFile, footer_name

__all__ = ["FileCache", "FileCacheStatistics", "check_cache"]

_LEAST = 1 << 20
# Processes that count beside each other, each in cells of its own: a later one of the same number goes on in them.
_PROCESSES = 1024
_HITS, _MISSES, _READ, _FETCHED, _TOLD, _CELLS = range(6)


@dataclass(frozen=True)
class FileCacheStatistics:
    """What a cache did for this process and its workers, and what it holds.

    Attributes:
        hits, misses: Reads answered by the folder, and reads for which the store was asked.
        read_bytes, fetched_bytes: Bytes that the folder and the store gave.
        num_bytes: Bytes on disk that the folder's entries take now, of every process that uses it.
    """

    hits: int
    misses: int
    read_bytes: int
    fetched_bytes: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of the reads that the folder answered; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class FileCache:
    """Bytes of remote files, kept in a folder of this machine for every process that names it.

    What a reader fetches of a file (its footer, blocks of columns) is kept under the file's address and size, with
    checksums, and read from there by workers, ranks and later runs. Entries that are damaged are fetched again; those
    used least recently make room, but none that was used since the dataset was opened. Files of a local warehouse are
    read where they are.

    A cache may hold rows of users who were erased since: ``clear`` it on every machine after an erasure.

    Args:
        folder: On a local disk; made where it is missing, readable for its owner alone.
        max_bytes: Bytes on disk that its entries may take; never exceeded where all who use the folder say the same.
            At least 1 MiB.

    Raises:
        ConfigError: the folder cannot be made or written, holds something else, or ``max_bytes`` is too small or no
            whole number.

    Example:
        >>> cache = FileCache("/mnt/nvme/clicks", max_bytes=200 << 30)  # doctest: +SKIP
        >>> batches = DedupDataset("clicks", cache=cache)  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        # Of a float that is no number nothing is too much.
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            given = type(max_bytes).__name__
            raise ConfigError(
                "max_bytes of the cache is no whole number", expected="bytes, such as 200 << 30", got=given
            )
        if max_bytes < _LEAST:
            raise ConfigError(
                "max_bytes of the cache is too small", expected=f"{_LEAST:,} bytes or more", got=f"{max_bytes:,}"
            )
        # A later process may have another working directory.
        self._folder = CacheFolder(Path(folder).expanduser().absolute(), max_bytes)
        self._folder.prepare()
        # Shared memory, so that workers count where this process reads.
        self._cells = torch.zeros((_PROCESSES, _CELLS), dtype=torch.int64).share_memory_()
        self._broken = False

    def __repr__(self) -> str:
        return f"FileCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder.path

    @property
    def max_bytes(self) -> int:
        """Bytes on disk that its entries may take."""
        return self._folder.max_bytes

    @property
    def statistics(self) -> FileCacheStatistics:
        """What it did so far for this process and its workers, and what it holds; looks through the folder."""
        hits, misses, read, fetched, _ = self._cells.sum(dim=0).tolist()
        return FileCacheStatistics(hits, misses, read, fetched, self._folder.num_bytes())

    def clear(self) -> int:
        """Remove everything, also what other processes have put there; who reads goes on and fills it again.

        Returns:
            Bytes on disk that it took.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            return self._folder.clear()
        except (OSError, Busy) as error:
            raise StorageError(
                f"the cache {self.folder} cannot be emptied: {error}", fix="End who reads, and remove the folder."
            ) from error

    # -- for the reader -----------------------------------------------------------------------------------------
    def for_dataset(self) -> FileCache:
        """The same cache for one dataset that is opened now: what it uses from now on stays for it."""
        made = copy(self)
        made._folder = replace(self._folder, since=time.time())
        return made

    @staticmethod
    def keeps(address: str) -> bool:
        """Whether a file is remote."""
        return scheme_of(address) not in ("", "file")

    def open(self, client: Client, address: str, size: int | None) -> tuple[Any, pq.FileMetaData | None]:
        """Open a Parquet file of a table.

        Args:
            client: Opens it at the store.
            address: Its address.
            size: Its bytes, by its table.

        Returns:
            A file for Arrow, and its footer where it is known.

        Raises:
            OSError: the store fails or refuses.
        """
        name = footer_name(address, size)
        footer, remote = Footer.find(self, name), None
        if footer is None:
            remote = client.new_input(address).open(seekable=True)
            footer = Footer.fetch(self, name, remote, size)
            if footer is None:
                # Read, or refused, as without a cache.
                remote.seek(0)
                return remote, None
        file = StoredFile(self, client, address, name, footer, remote)
        return pa.PythonFile(file, mode="r"), footer.metadata

    def whole(self, address: str, read: Callable[[], bytes]) -> bytes:
        """The content of a small file whose address is never used twice, such as a manifest.

        Args:
            address: Its address.
            read: Reads it at the store.
        """
        if not self.keeps(address):
            return read()
        name = f"whole {address}"
        found = self.read(name)
        if found is None:
            found = read()
            self.fetched(len(found))
            self.add(name, found)
        return found

    # -- bytes by name ------------------------------------------------------------------------------------------
    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """See ``Kept``."""
        found = self._folder.read(name, start, stop)
        if found is not None:
            self._count(_HITS, _READ, len(found))
        return found

    def admits(self, size: int) -> bool:
        """See ``Kept``."""
        return not self._broken and self._folder.admits(size)

    def add(self, name: str, payload: bytes) -> bool:
        """See ``Kept``. A disk that is full, or cannot be written any more, is told once, and reading goes on."""
        if self._broken:
            return False
        try:
            return self._folder.add(name, payload)
        except OSError as error:
            self._broken = True
            told, self._cells[0, _TOLD] = bool(self._cells[0, _TOLD]), 1
            if not told:
                warnings.warn(
                    f"the cache {self.folder} cannot be written, so nothing more is kept there: {error}",
                    UserWarning,
                    stacklevel=2,
                )
            return False

    def remove(self, name: str) -> None:
        """See ``Kept``."""
        self._folder.remove(name)

    def fetched(self, size: int) -> None:
        """See ``Kept``."""
        self._count(_MISSES, _FETCHED, size)

    def _count(self, reads: int, size: int, count: int) -> None:
        cells = self._cells[os.getpid() % _PROCESSES]
        with _counting[0]:
            cells[reads] += 1
            cells[size] += count


def check_cache(cache: object) -> None:
    """Refuse an option that is no cache.

    Raises:
        ConfigError: says what it is.
    """
    if cache is not None and not isinstance(cache, FileCache):
        found = type(cache).__name__
        raise ConfigError("the option cache is not valid", expected="FileCache(folder, max_bytes)", got=found)


# Of all caches of a process; a child that is forked while another thread holds it gets one of its own.
_counting = [threading.Lock()]


def _after_fork() -> None:
    _counting[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""A remote file as Arrow reads it: bytes from the cache, or from the store and into the cache."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.lake.credentials import Client
from dedup_storage.reader.cache.spans import Spans

__all__ = ["Footer", "Kept", "StoredFile", "footer_name", "identity_of"]

_TAIL = 64 << 10
_MAGIC = b"PAR1"
# What stores call the state of an object: any other value is another object.
_MARKS = ("etag", "versionid", "generation", "last-modified", "lastmodified", "mtime")


class Kept(Protocol):
    """Bytes by name, on this machine."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """A part of what is kept under a name; ``None`` where nothing is."""

    def admits(self, size: int) -> bool:
        """Whether so many bytes would be kept."""

    def add(self, name: str, payload: bytes) -> bool:
        """Keep bytes, as copied from the store."""

    def remove(self, name: str) -> None:
        """Forget a name."""

    def fetched(self, size: int) -> None:
        """Count bytes that the store was asked for."""


class ReplacedError(OSError):
    """A file is not the one any more whose footer was kept."""


@dataclass(frozen=True)
class Footer:
    """A file's footer, and which object it is of.

    Attributes:
        identity: The object, as its store tells it apart from others at the same address.
        size: Its bytes.
        metadata: The footer.
    """

    identity: str
    size: int
    metadata: pq.FileMetaData

    @classmethod
    def fetch(cls, kept: Kept, name: str, remote: Any, told: int | None) -> Footer | None:
        """Read it from the store, and keep it.

        Args:
            kept: Where.
            name: Under which name.
            remote: The open file.
            told: Bytes of the file by its table.

        Returns:
            The footer; ``None`` where the file has none that is plain, or is not the one that its table tells of.
        """
        size = _size(remote)
        if told not in (None, size):
            return None
        tail = _read(kept, remote, max(size - _TAIL, 0), size)
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if tail[-4:] != _MAGIC or needed > size:
            return None
        if needed > len(tail):
            tail = _read(kept, remote, size - needed, size)
        identity, tail = identity_of(remote, size), tail[-needed:]
        metadata = pq.read_metadata(pa.BufferReader(tail))
        kept.add(name, json.dumps({"identity": identity, "size": size}).encode() + b"\n" + tail)
        return cls(identity, size, metadata)

    @classmethod
    def find(cls, kept: Kept, name: str) -> Footer | None:
        """The one that is kept."""
        found = kept.read(name)
        if found is None:
            return None
        head, _, tail = found.partition(b"\n")
        return cls(**json.loads(head), metadata=pq.read_metadata(pa.BufferReader(tail)))


def footer_name(address: str, size: int | None) -> str:
    """What a file's footer is kept under: its address, and the bytes that its table says it has.

    Tables never write two files under one address; the size tells apart what somebody else has put there since.
    """
    return f"footer {size} {address}"


def identity_of(remote: Any, size: int) -> str:
    """Which object an open file is, as its store says on opening it: its size, and its tag or time where it has one."""
    about = getattr(remote, "metadata", None)
    told: Mapping[Any, Any] = (about() if callable(about) else getattr(remote, "details", None)) or {}
    marks = {
        str(key).lower(): value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for key, value in told.items()
    }
    return json.dumps([size, {name: marks[name] for name in _MARKS if name in marks}])


class StoredFile:
    """A remote file for Arrow, of whose methods it calls one at a time; asks the store for nothing that is kept.

    Args:
        kept: Where bytes are kept.
        client: Opens the file at the store.
        address: Its address.
        name: What its footer is kept under.
        footer: Its footer.
        remote: The open file, where it was opened for the footer.
    """

    def __init__(
        self, kept: Kept, client: Client, address: str, name: str, footer: Footer, remote: Any | None = None
    ) -> None:
        self._kept, self._client, self._address, self._name = kept, client, address, name
        self._footer, self._remote = footer, remote
        object_ = blake2b(f"{name}\n{footer.identity}".encode(), digest_size=16).hexdigest()
        self._prefix = f"bytes {object_}"
        self._spans: Spans | None = None
        self._place = 0
        self.closed = False

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte, counted from the beginning (0), from here (1), or from the end (2)."""
        self._place = offset + (0, self._place, self._footer.size)[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            OSError: the store fails or refuses, or has another file there now; the next attempt opens that one.
        """
        stop = self._footer.size if size < 0 else min(self._place + size, self._footer.size)
        parts = []
        while self._place < stop:
            parts.append(self._part(self._place, stop))
            self._place += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let the file go."""
        self.closed = True
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _part(self, start: int, stop: int) -> bytes:
        """Bytes from ``start`` on, as far as the span reaches that it is in."""
        if self._spans is None:
            self._spans = Spans.of(self._footer.metadata)
        span = self._spans.at(start)
        if span is None:
            # Between chunks of columns: what old writers have padded them with.
            behind = self._spans.next(start)
            return self._from_store(start, stop if behind is None else min(stop, behind))
        low, high = span
        stop = min(stop, high)
        name = f"{self._prefix} {low} {high}"
        found = self._kept.read(name, start - low, stop - low)
        if found is not None:
            return found
        if not self._kept.admits(high - low):
            return self._from_store(start, stop)
        fetched = self._from_store(low, high)
        self._kept.add(name, fetched)
        return fetched[start - low : stop - low]

    def _from_store(self, start: int, stop: int) -> bytes:
        if self._remote is None:
            remote = self._client.new_input(self._address).open()
            if identity_of(remote, _size(remote)) != self._footer.identity:
                remote.close()
                self._kept.remove(self._name)
                raise ReplacedError(f"another file lies at {self._address} than was read before")
            self._remote = remote
        return _read(self._kept, self._remote, start, stop)


def _size(remote: Any) -> int:
    remote.seek(0, io.SEEK_END)
    return int(remote.tell())


def _read(kept: Kept, remote: Any, start: int, stop: int) -> bytes:
    remote.seek(start)
    found = bytes(remote.read(stop - start))
    if len(found) != stop - start:
        raise OSError(f"the store gave {len(found)} bytes of {stop - start}")
    kept.fetched(len(found))
    return found

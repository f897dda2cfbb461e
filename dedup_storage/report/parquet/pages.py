"""Page sizes and encodings in use, from the page headers of a few files; pyarrow shows no pages.

Only headers are read, by seeking from one to the next, so the cost is a few hundred small reads however large the
table is. The structures are those of parquet.thrift (apache/parquet-format 2.12), in Thrift's compact protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dedup_storage.errors import StorageError
from dedup_storage.lake.folders import resolve_uri
from dedup_storage.report.parquet.footers import DataFile, Resolve

__all__ = ["ColumnPages", "read_pages", "read_struct"]

_FILES = 8
_PAGES_PER_CHUNK = 64
_HEADER_BYTES = 4096
_MOST_HEADER_BYTES = 16 * 1024**2
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
Struct = dict[int, Any]


@dataclass(slots=True)
class ColumnPages:
    """Data pages looked at for one top-level column.

    Attributes:
        pages: Data pages seen.
        encoded_bytes: Their size before compression, together.
        largest_bytes: The largest of them before compression.
        encodings: Encoding of their values -> pages.
        dictionaries: Dictionary pages seen.
        version: Data page version, 1 or 2; the newer where both occur.
        text_bytes: Unencoded bytes of strings, where the writer recorded them.
        text_values: Values that ``text_bytes`` belong to.
    """

    pages: int = 0
    encoded_bytes: int = 0
    largest_bytes: int = 0
    encodings: Counter[str] = field(default_factory=Counter)
    dictionaries: int = 0
    version: int = 1
    text_bytes: int = 0
    text_values: int = 0

    @property
    def mean_bytes(self) -> float | None:
        """Mean size of a data page before compression."""
        return self.encoded_bytes / self.pages if self.pages else None

    @property
    def mean_text_bytes(self) -> float | None:
        """Mean unencoded bytes of a string value, nulls counted as values without bytes."""
        return self.text_bytes / self.text_values if self.text_values else None


class _Reader:
    """Thrift compact protocol, read-only and without a schema."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def varint(self) -> int:
        shift = result = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise IndexError("the structure ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.zigzag()
        if kind == 7:
            return self.take(8)
        if kind == 8:
            return self.take(self.varint())
        if kind in (9, 10):
            head = self.byte()
            count, element = head >> 4, head & 15
            count = self.varint() if count == 15 else count
            return [self.byte() == 1 if element in (1, 2) else self.value(element) for _ in range(count)]
        if kind == 11:
            count = self.varint()
            kinds = self.byte() if count else 0
            return [(self.value(kinds >> 4), self.value(kinds & 15)) for _ in range(count)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"unknown Thrift type {kind}")

    def struct(self) -> Struct:
        fields: Struct = {}
        last = 0
        while head := self.byte():
            last = last + (head >> 4) if head >> 4 else self.zigzag()
            fields[last] = self.value(head & 15)
        return fields


def read_struct(data: bytes) -> tuple[Struct, int]:
    """Read one Thrift structure: field id -> value, and the bytes it took.

    Raises:
        IndexError: the bytes end inside the structure.
        ValueError: they are no Thrift structure.
    """
    reader = _Reader(data)
    return reader.struct(), reader.at


def read_pages(
    files: Sequence[DataFile], *, resolve: Resolve = resolve_uri, most_files: int = _FILES
) -> dict[str, ColumnPages]:
    """Look at the pages of some files, evenly spread over ``files``.

    Returns:
        First level of the column's path -> what its pages are like.

    Raises:
        StorageError: names a file whose headers cannot be read.
    """
    step = max(1, len(files) // most_files)
    found: dict[str, ColumnPages] = {}
    for file in list(files)[::step][:most_files]:
        try:
            filesystem, path = resolve(file.path)
            with filesystem.open_input_file(path) as source:
                _read_file(source, found)
        except (OSError, IndexError, ValueError, KeyError, RecursionError) as error:
            raise StorageError(
                f"the page headers of {file.path} cannot be read: {(str(error) or 'torn').splitlines()[0]}",
                expected="a whole, unencrypted Parquet file",
            ) from None
    return found


def _read_file(source: Any, found: dict[str, ColumnPages]) -> None:
    size = source.size()
    source.seek(max(0, size - 8))
    length = int.from_bytes(source.read(8)[:4], "little")
    source.seek(max(0, size - 8 - length))
    footer, _ = read_struct(source.read(length))
    seen: set[str] = set()
    for group in footer.get(4, []):
        for chunk in group[1]:
            meta = chunk.get(3)
            if meta is None:
                continue
            column = found.setdefault(meta[3][0].decode(), ColumnPages())
            text = meta.get(16, {}).get(1)
            if text is not None:
                column.text_bytes += text
                column.text_values += meta[5]
            leaf = b".".join(meta[3]).decode()
            if leaf not in seen:
                # One chunk of each leaf and file: the others were written with the same settings.
                seen.add(leaf)
                for header in _headers(source, min(meta[9], meta.get(11) or meta[9]), meta[7]):
                    _add(column, header)


def _headers(source: BinaryIO, offset: int, length: int) -> Iterator[Struct]:
    end = offset + length
    for _ in range(_PAGES_PER_CHUNK):
        if offset >= end:
            return
        header, taken = _header(source, offset, end)
        yield header
        offset += taken + header[3]


def _header(source: BinaryIO, offset: int, end: int) -> tuple[Struct, int]:
    window = _HEADER_BYTES
    while True:
        source.seek(offset)
        try:
            return read_struct(source.read(min(window, end - offset)))
        except IndexError:
            # Statistics of long strings make a header longer than the first guess.
            window *= 16
            if window > _MOST_HEADER_BYTES:
                raise


def _add(column: ColumnPages, header: Struct) -> None:
    kind = header[1]
    if kind == _DICTIONARY_PAGE:
        column.dictionaries += 1
        return
    inner = header.get(5) if kind == _DATA_PAGE else header.get(8) if kind == _DATA_PAGE_V2 else None
    if inner is None:
        return
    column.pages += 1
    column.encoded_bytes += header[2]
    column.largest_bytes = max(column.largest_bytes, header[2])
    column.version = max(column.version, 2 if kind == _DATA_PAGE_V2 else 1)
    column.encodings[_ENCODINGS.get(inner[2 if kind == _DATA_PAGE else 4], "unknown")] += 1

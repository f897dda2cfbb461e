"""Every byte below a folder, decoded: which files tell of a text, in whatever format and compression they lie."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["telling_files"]

_AVRO = b"Obj\x01"


def telling_files(folder: Path, *marks: str) -> set[str]:
    """Places below a folder that have one of some texts in their name or their content."""
    wanted = [mark.encode() for mark in marks]
    found = set()
    for path in folder.rglob("*"):
        place = str(path.relative_to(folder))
        contents = [place.encode(), *(_contents(path) if path.is_file() else ())]
        if any(mark in content for content in contents for mark in wanted):
            found.add(place)
    return found


def _contents(path: Path) -> Iterator[bytes]:
    """A file as it lies, and what its compressed parts hold."""
    stored = path.read_bytes()
    yield stored
    if stored[:4] == b"PAR1" and stored[-4:] == b"PAR1":
        yield from _columns(path)
    elif stored[:4] == _AVRO:
        yield from _avro_blocks(stored)
    elif stored[:2] == b"\x1f\x8b":
        yield zlib.decompress(stored, 31)


def _columns(path: Path) -> Iterator[bytes]:
    """Values of a Parquet file, each column behind one another, texts and numbers as Arrow holds them."""
    # The file alone: its folder's name is no column of it.
    table = pq.ParquetFile(path).read()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    yield sink.getvalue()


def _avro_blocks(stored: bytes) -> Iterator[bytes]:
    """Blocks of an Avro file, which are deflated or plain."""
    place, metadata = 4, {}
    while (count := _long(stored, place))[0]:
        entries, place = count
        if entries < 0:
            entries, (_, place) = -entries, _long(stored, place)
        for _ in range(entries):
            key, place = _text(stored, place)
            metadata[key], place = _text(stored, place)
    place = _long(stored, place)[1] + 16
    while place < len(stored):
        _, place = _long(stored, place)
        size, place = _long(stored, place)
        block = stored[place : place + size]
        codec = metadata.get(b"avro.codec", b"null")
        assert codec in (b"deflate", b"null"), codec
        yield zlib.decompress(block, -15) if codec == b"deflate" else block
        place += size + 16


def _long(stored: bytes, place: int) -> tuple[int, int]:
    """Avro's number of varying length, and the place behind it."""
    value = shift = 0
    while True:
        byte = stored[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), place


def _text(stored: bytes, place: int) -> tuple[bytes, int]:
    size, place = _long(stored, place)
    return stored[place : place + size], place + size

"""A lake in an archive, made in one folder and opened in another.

Iceberg's metadata and its catalog hold absolute paths. The folder's path stands in the archive as a placeholder of a
fixed length, and a lake is unpacked in a folder whose path is made exactly as long. So one text of bytes is put in the
place of another, and no length or offset in any file changes. That needs Avro files without compression. Manifests are
written so by a catalog with the properties ``UNCOMPRESSED``; manifest lists, whose length nothing remembers, are
written anew when the lake is packed.
"""

from __future__ import annotations

import gzip
import io
import sqlite3
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path

from pyiceberg.avro.decoder import new_decoder
from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import MAGIC, SYNC_SIZE

__all__ = ["EXPECTED", "UNCOMPRESSED", "pack", "place_in", "unpack"]

# Given to every table that the catalog creates.
UNCOMPRESSED = {"table-default.write.manifest.compression-codec": "uncompressed"}
EXPECTED = "expected.json"
_CATALOG = "catalog.db"
# Room for the long names of temporary folders, and still one folder's name.
_LENGTH = 200
_PLACEHOLDER = b"/the-place-of-the-lake".ljust(_LENGTH, b"_")


def place_in(folder: Path) -> Path:
    """Create the folder inside another one whose path has the length of the placeholder.

    Raises:
        ValueError: the other folder's path leaves no room.
    """
    base = folder.resolve()
    room = _LENGTH - len(str(base).encode()) - 1
    if not 0 < room <= 255:
        raise ValueError(f"the path {base} is too long: at most {_LENGTH - 2} bytes leave room for a folder in it")
    place = base / ("_" * room)
    place.mkdir()
    return place


def pack(place: Path, archive: Path) -> None:
    """Put a lake's files into an archive, the placeholder for the folder's path.

    Args:
        place: Made by ``place_in``; nothing writes to it any more.
        archive: The archive, ``.tar.gz``. The same files give the same bytes.

    Raises:
        ValueError: a manifest is compressed.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sorted(f for f in place.rglob("*") if f.is_file()):
            data = _packed(file)
            if data is None:
                continue
            entry = tarfile.TarInfo(file.relative_to(place).as_posix())
            data = data.replace(str(place).encode(), _PLACEHOLDER)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    archive.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def unpack(archive: Path, folder: Path) -> Path:
    """Lay a packed lake into a folder; gives the lake's place inside it."""
    place = place_in(folder)
    with tarfile.open(archive) as tar:
        for entry in tar:
            content = tar.extractfile(entry)
            assert content is not None, f"{entry.name} is no file"
            file = place / entry.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read().replace(_PLACEHOLDER, str(place).encode()))
    return place


def _packed(file: Path) -> bytes | None:
    """What the archive holds of a file; ``None`` for nothing."""
    # Hadoop's checksums, named .FILE.crc, are optional and would not hold for other bytes.
    if file.name.startswith(".") and file.suffix == ".crc":
        return None
    if file.name.startswith(_CATALOG):
        return _catalog(file) if file.name == _CATALOG else None
    if file.suffix != ".avro":
        return file.read_bytes()
    if file.name.startswith("snap-"):
        return _inflated(file.read_bytes())
    if b"avro.codec\x08null" not in (data := file.read_bytes()):
        raise ValueError(f"the manifest {file} is compressed; make the lake with archive.UNCOMPRESSED")
    return data


def _catalog(database: Path) -> bytes:
    """An SQLite database in one file, with what lies in the log beside it."""
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(database)) as connection:
        copy = Path(folder) / _CATALOG
        connection.execute("VACUUM INTO ?", (str(copy),))
        return copy.read_bytes()


def _inflated(data: bytes) -> bytes:
    """An Avro file without the compression of its blocks (``deflate``)."""
    reader, out = new_decoder(data), io.BytesIO()
    writer = BinaryEncoder(out)
    writer.write(reader.read(len(MAGIC)))
    facts = {}
    while count := reader.read_int():
        facts |= {reader.read_utf8(): reader.read_bytes() for _ in range(count)}
    if facts["avro.codec"] != b"deflate":
        raise ValueError(f"an Avro file is compressed by {facts['avro.codec']!r}, expected deflate")
    writer.write_int(len(facts))
    for key, value in (facts | {"avro.codec": b"null"}).items():
        writer.write_utf8(key)
        writer.write_bytes(value)
    writer.write_int(0)
    sync = reader.read(SYNC_SIZE)
    writer.write(sync)
    while reader.tell() < len(data):
        writer.write_int(reader.read_int())
        writer.write_bytes(zlib.decompress(reader.read_bytes(), wbits=-zlib.MAX_WBITS))
        writer.write(sync)
        assert reader.read(SYNC_SIZE) == sync, "the Avro file is damaged"
    return out.getvalue()

"""One entry of a cache as a file: its bytes, and a checksum for each page of them, so that a part can be judged alone.

An entry is a header, then the bytes. The header holds a magic number, the digest of the entry's name, the number of
bytes, a CRC-32 of each page of 64 KiB, and a CRC-32 of all that.
"""

from __future__ import annotations

import os
import struct
import zlib
from hashlib import blake2b

__all__ = ["entry_bytes", "header_of", "read_entry"]

_PAGE = 64 << 10
_HEAD = struct.Struct("<4s16sQ")
_MAGIC = b"DSC1"
_CRC = 4
# Read at once: the header of an entry of up to 7 MiB.
_FIRST = 512


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def _header_size(length: int) -> int:
    return _HEAD.size + _CRC * (-(-length // _PAGE) + 1)


def entry_bytes(length: int) -> int:
    """Bytes of the file of an entry of so many bytes."""
    return _header_size(length) + length


def header_of(name: str, payload: bytes) -> bytes:
    """What stands before an entry's bytes."""
    view = memoryview(payload)
    sums = [zlib.crc32(view[start : start + _PAGE]) for start in range(0, len(payload), _PAGE)]
    head = _HEAD.pack(_MAGIC, _digest(name), len(payload)) + struct.pack(f"<{len(sums)}I", *sums)
    return head + struct.pack("<I", zlib.crc32(head))


def read_entry(descriptor: int, name: str, size: int, start: int, stop: int | None) -> bytes | None:
    """A part of an entry's bytes.

    Args:
        descriptor: Its open file.
        name: Its name.
        size: Bytes of the file.
        start: The first byte.
        stop: The last, exclusive; ``None`` for the end.

    Returns:
        The bytes; ``None`` where the file is not what was stored under the name: cut off, changed, of another entry,
        or shorter than ``stop``.

    Raises:
        OSError: the disk cannot read it.
    """
    head = os.pread(descriptor, _FIRST, 0)
    if len(head) < _HEAD.size:
        return None
    magic, digest, length = _HEAD.unpack_from(head)
    if (magic, digest) != (_MAGIC, _digest(name)) or entry_bytes(length) != size:
        return None
    before = _header_size(length)
    header = head[:before] if before <= _FIRST else os.pread(descriptor, before, 0)
    if len(header) < before or zlib.crc32(header[:-_CRC]) != int.from_bytes(header[-_CRC:], "little"):
        return None
    stop = length if stop is None else stop
    if not 0 <= start <= stop <= length:
        return None
    # Whole pages, since each has one checksum.
    first, last = start // _PAGE, -(-stop // _PAGE)
    low, high = first * _PAGE, min(last * _PAGE, length)
    payload = memoryview(_read(descriptor, before + low, high - low))
    if len(payload) < high - low:
        return None
    sums = struct.unpack_from(f"<{last - first}I", header, _HEAD.size + _CRC * first)
    if any(zlib.crc32(payload[i * _PAGE : (i + 1) * _PAGE]) != found for i, found in enumerate(sums)):
        return None
    return bytes(payload[start - low : stop - low])


def _read(descriptor: int, start: int, count: int) -> bytes:
    """So many bytes, or fewer at the end of the file: one call may give fewer."""
    parts = []
    while count:
        part = os.pread(descriptor, count, start)
        if not part:
            break
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)

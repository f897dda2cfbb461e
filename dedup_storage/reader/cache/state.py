"""What the processes of a machine know together of a cache folder: the bytes in it, behind one lock."""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Busy", "State", "locked"]

_LAYOUT = struct.Struct("<8sQdd")
_CRC = struct.Struct("<I")
_PAUSE = 0.001


class Busy(Exception):
    """Others hold the lock of a folder."""


@dataclass(frozen=True)
class State:
    """What a folder holds.

    Attributes:
        num_bytes: Bytes on disk, at most: it is raised before anything is written, and lowered after something is gone.
        oldest: When the entry that was not used for the longest time was used, at the earliest; seconds since 1970.
        looked_at: When the entries were counted one by one.
    """

    num_bytes: int
    oldest: float
    looked_at: float

    def save(self, file: Path) -> None:
        """Write it; a few bytes in one call, so that who is killed leaves all of it or none."""
        text = _LAYOUT.pack(_boot(), self.num_bytes, self.oldest, self.looked_at)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(descriptor, text + _CRC.pack(zlib.crc32(text)), 0)
        finally:
            os.close(descriptor)

    @classmethod
    def load(cls, file: Path) -> State | None:
        """What was written last; ``None`` where nobody knows: it is not there, damaged, or from before the machine was
        started, when the disk may have kept the entries and lost what was written of them."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        text, crc = content[: _LAYOUT.size], content[_LAYOUT.size :]
        if len(text) < _LAYOUT.size or crc != _CRC.pack(zlib.crc32(text)):
            return None
        boot, num_bytes, oldest, looked_at = _LAYOUT.unpack(text)
        return cls(num_bytes, oldest, looked_at) if boot == _boot() else None


@cache
def _boot() -> bytes:
    """This start of the machine, where the system names it."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]).ljust(8, b"\0")
    except (OSError, ValueError):
        return bytes(8)


@contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Hold a lock that a process loses when it ends, however it ends.

    Args:
        file: The lock's file; made where it is missing.
        seconds: How long to wait for it.

    Raises:
        Busy: others held it all the time.
        OSError: its file cannot be made.
    """
    until = time.monotonic() + seconds
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _taken(descriptor, file):
                try:
                    yield
                finally:
                    # In words: a child that was forked meanwhile has the descriptor too.
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > until:
            raise Busy(f"others have held its lock for more than {seconds:.0f} seconds")
        time.sleep(_PAUSE)


def _taken(descriptor: int, file: Path) -> bool:
    """Whether the lock is had, of the file that is there now: somebody may have removed the one that was opened."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except (BlockingIOError, FileNotFoundError):
        return False

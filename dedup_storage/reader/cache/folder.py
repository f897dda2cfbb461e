"""A bounded folder of entries that several processes read and fill; whoever is killed leaves nothing that is served.

Reading takes no lock: an entry appears by a rename, is judged by its checksums, and may be removed while it is open.
Whoever adds or removes something holds the folder's lock: bytes are counted before they are written, so the folder
never holds more than it may, and what a killed process was writing has one name, which the next one writes over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from dedup_storage.errors import ConfigError
from dedup_storage.faults import reached
from dedup_storage.reader.cache.entry import entry_bytes, header_of, read_entry
from dedup_storage.reader.cache.state import Busy, State, locked

__all__ = ["CacheFolder"]

# What says that a folder is a cache, and in which form: nothing is ever removed from another.
_MARK, _MARKED = "dedup_storage_cache", "1\n"
_LOCK, _STATE, _FILLING = "lock", "state", "filling"
_BLOCK = 4096
# Seconds to wait for others who add something, and for all of it to be removed.
_WAIT, _PATIENCE = 10.0, 60.0
# An entry's time is brought up to date this many seconds after the last time at the earliest.
_FRESH = 60.0
# Entries are counted anew after this many seconds, where what is known of them says that none may go.
_LOOK_AGAIN = 60.0
# More is removed than one entry needs, so that not every one looks through the folder.
_ROOM_SHARE = 0.02


class _Entry(NamedTuple):
    used: float
    size: int
    path: str


def _on_disk(size: int) -> int:
    """Bytes that a file of a size takes."""
    return -(-size // _BLOCK) * _BLOCK


@dataclass(frozen=True)
class CacheFolder:
    """The folder.

    Attributes:
        path: Where it lies.
        max_bytes: Bytes on disk that its entries may take.
        since: Entries that were used since are not removed for others; seconds since 1970. A pass over more than fits
            would else remove each entry before it comes to it again.
    """

    path: Path
    max_bytes: int
    since: float = field(default=0.0, compare=False)

    def prepare(self) -> None:
        """Make the folder where it is missing, and let it hold no more than it may.

        Raises:
            ConfigError: it cannot be made or written, or holds something else.
        """
        try:
            self._mark()
            with self._locked(_PATIENCE):
                self._make_room(0, since=None)
        except (OSError, Busy) as error:
            raise ConfigError(
                f"the cache folder {self.path} cannot be used: {error}",
                expected="a folder on a local disk that this process may make and write",
                fix="Name another, or leave cache out.",
            ) from error

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """A part of an entry; ``None`` where it is not there. One that is damaged is removed."""
        path = self._place(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            about = os.fstat(descriptor)
            found = self._judged(descriptor, name, about.st_size, start, stop)
        finally:
            os.close(descriptor)
        now = time.time()
        if found is None:
            self.remove(name, about)
        elif about.st_mtime < self.since or now - about.st_mtime > _FRESH:
            # A folder that cannot be written any more still serves what it has.
            with suppress(OSError):
                os.utime(path, (now, now))
        return found

    @staticmethod
    def _judged(descriptor: int, name: str, size: int, start: int, stop: int | None) -> bytes | None:
        try:
            return read_entry(descriptor, name, size, start, stop)
        except OSError:
            # A bad place on the disk is damage like any other: the store still has the bytes.
            return None

    def admits(self, size: int) -> bool:
        """Whether an entry of so many bytes would find room, as far as can be told without counting."""
        cost = _on_disk(entry_bytes(size))
        if cost > self.max_bytes:
            return False
        with suppress(OSError):
            state = State.load(self.path / _STATE)
            return state is None or state.num_bytes + cost <= self.max_bytes or self._may_go(state, self.since)
        return False

    def add(self, name: str, payload: bytes) -> bool:
        """Keep bytes under a name.

        Returns:
            Whether they are kept: not where there is no room, or others have held the lock for long.

        Raises:
            OSError: they cannot be written.
        """
        path, header = self._place(name), header_of(name, payload)
        cost = _on_disk(len(header) + len(payload))
        try:
            with self._locked(_WAIT):
                if path.exists():
                    return True
                if cost > self.max_bytes or not self._make_room(cost, self.since):
                    return False
                self._count(cost)
                reached("cache:counted")
                try:
                    self._write(path, header, payload)
                except OSError:
                    (self.path / _FILLING).unlink(missing_ok=True)
                    self._count(-cost)
                    raise
                return True
        except Busy:
            return False

    def remove(self, name: str, seen: os.stat_result | None = None) -> None:
        """Remove an entry, if it is there; where one was seen, that one.

        It still counts until entries are looked at: what is damaged may have another size than was counted for it.
        """
        path = self._place(name)
        with suppress(OSError):
            if seen is None or os.path.samestat(path.stat(), seen):
                path.unlink()

    def clear(self) -> int:
        """Remove every entry.

        Returns:
            Bytes that they took on disk.

        Raises:
            OSError, Busy: they cannot be removed.
        """
        with self._locked(_PATIENCE):
            entries = self._look()
            for entry in entries:
                Path(entry.path).unlink(missing_ok=True)
            State(0, time.time(), time.time()).save(self.path / _STATE)
        return sum(entry.size for entry in entries)

    def num_bytes(self) -> int:
        """Bytes that the entries take on disk."""
        return sum(entry.size for entry in self._entries())

    # -- with the lock held -------------------------------------------------------------------------------------
    def _write(self, path: Path, header: bytes, payload: bytes) -> None:
        filling = self.path / _FILLING
        with filling.open("wb") as out:
            out.write(header)
            out.flush()
            reached("cache:writing")
            out.write(payload)
        reached("cache:written")
        path.parent.mkdir(exist_ok=True)
        filling.replace(path)

    def _count(self, change: int) -> None:
        state = State.load(self.path / _STATE)
        if state is None:
            # Nobody knows: the next one counts.
            (self.path / _STATE).unlink(missing_ok=True)
        else:
            left = max(state.num_bytes + change, 0)
            State(left, state.oldest, state.looked_at).save(self.path / _STATE)

    def _may_go(self, state: State, since: float) -> bool:
        """Whether entries may have to be looked at, for there may be some that were not used since."""
        return state.oldest < since or not 0 <= time.time() - state.looked_at <= _LOOK_AGAIN

    def _make_room(self, cost: int, since: float | None) -> bool:
        """Remove what was used least recently, until so many bytes more may be there.

        Args:
            cost: The bytes.
            since: What was used since stays; ``None`` lets everything go.

        Returns:
            Whether there is room.
        """
        state = State.load(self.path / _STATE)
        if state is not None and state.num_bytes + cost <= self.max_bytes:
            return True
        if state is not None and since is not None and not self._may_go(state, since):
            return False
        entries = sorted(self._look())
        total, limit = sum(entry.size for entry in entries), self.max_bytes - cost
        removable = [e for e in reversed(entries) if since is None or e.used < since]
        kept = len(entries) - len(removable)
        if total > limit and total - sum(e.size for e in removable) <= limit:
            target = max(limit - int(self.max_bytes * _ROOM_SHARE), 0)
            while removable and total > target:
                entry = removable.pop()
                Path(entry.path).unlink(missing_ok=True)
                total -= entry.size
            entries = entries[len(entries) - kept - len(removable) :]
        elif total > limit:
            # The few that may go make no room: not to be looked at again for each entry.
            entries = [e for e in entries if since is not None and e.used >= since]
        now = time.time()
        State(total, entries[0].used if entries else now, now).save(self.path / _STATE)
        return total <= limit

    def _look(self) -> list[_Entry]:
        """Every entry; what a killed process was writing is removed."""
        (self.path / _FILLING).unlink(missing_ok=True)
        return list(self._entries())

    # -- the folder ---------------------------------------------------------------------------------------------
    def _entries(self) -> Iterator[_Entry]:
        """Every entry. One that goes meanwhile is left out."""
        with suppress(FileNotFoundError):
            for shelf in os.scandir(self.path):
                if len(shelf.name) == 2 and shelf.is_dir():
                    for entry in os.scandir(shelf.path):
                        with suppress(FileNotFoundError):
                            about = entry.stat()
                            yield _Entry(about.st_mtime, _on_disk(about.st_size), entry.path)

    def _place(self, name: str) -> Path:
        digest = blake2b(name.encode(), digest_size=16).hexdigest()
        return self.path / digest[:2] / digest

    @contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        if not self.path.is_dir():
            # Somebody has removed it while it was in use.
            self._mark()
        with locked(self.path / _LOCK, seconds):
            yield

    def _mark(self) -> None:
        """Make the folder one of a cache.

        Raises:
            OSError: it cannot be made, or holds something else.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Rows of a log are nobody else's to read, unless the folder was made otherwise.
        self.path.mkdir(mode=0o700, exist_ok=True)
        mark = self.path / _MARK
        if not mark.exists():
            others = sorted({entry.name for entry in os.scandir(self.path)} - {_LOCK, _STATE, _FILLING, _MARK})
            # Another process may have made it one since.
            if others and not mark.exists():
                raise FileExistsError(f"it holds other files, {others[0]} among them")
            mark.write_text(_MARKED, encoding="ascii")
        elif mark.read_text(encoding="ascii") not in (_MARKED, ""):
            raise FileExistsError("another release of the toolkit has made it")

"""Users and positions of event files, row group by row group: where each user's events lie, in pieces without a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.errors import StorageError
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef, decoded_bytes, physical_columns
from dedup_storage.reader.open.footers import Users, bounds, group_starts

__all__ = ["EventKeys", "Needs", "Pieces"]

_PIECE_ROWS = 1 << 17
# Bytes of pieces that are kept from unit to unit: the days of a bucket share its event files.
_KEPT_BYTES = 32 << 20


class Pieces(NamedTuple):
    """Consecutive events of a user in one file.

    Attributes:
        users: (n,) whose they are.
        positions: (n,) int64, position of each piece's first event.
        rows: (n,) int64, its row in the file, deleted ones counted.
        lengths: (n,) int64, events.
    """

    users: pa.Array
    positions: Int64
    rows: Int64
    lengths: Int64


class Needs(NamedTuple):
    """What some users' requests need.

    Attributes:
        users: (n,) the users.
        low, high: (n,) int64, first position and last, exclusive.
    """

    users: pa.Array
    low: Int64
    high: Int64

    def touch(self, users: Users | None, positions: Users | None) -> bool:
        """Whether a row group within these bounds can hold any of it."""
        touched = np.ones(len(self.low), dtype=np.bool_)
        if positions is not None:
            touched &= (self.low <= positions.high) & (self.high > positions.low)
        if users is not None and isinstance(users.low, (int, str)):
            low, high = (pa.scalar(end, self.users.type) for end in users)
            inside = pc.and_(pc.greater_equal(self.users, low), pc.less_equal(self.users, high))
            touched &= np.asarray(inside, dtype=np.bool_)
        return bool(touched.any())


class _Footer(NamedTuple):
    """Of a file's row groups the first rows, the bounds, and decoded bytes of one event's columns."""

    starts: Int64
    users: Sequence[Users | None]
    positions: Sequence[Users | None]
    token_bytes: float


@dataclass
class EventKeys:
    """Pieces of event files, those of each row group read once as long as there is room.

    Attributes:
        user, position: Key columns of the table.
    """

    user: str
    position: str

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, int], Pieces] = {}
        self._footers: dict[str, _Footer] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # What was read stays behind.
        return {"user": self.user, "position": self.position}

    def __setstate__(self, state: dict[str, Any]) -> None:
        EventKeys.__init__(self, **state)

    def read(self, ref: TableRef, file: DataFile, columns: Sequence[str], needs: Needs) -> tuple[list[Pieces], float]:
        """Pieces of the row groups that can hold what is needed, and decoded bytes of one event's columns, estimated.

        Raises:
            StorageError: the file cannot be read, or an event has no user or no position.
        """
        # Rows are counted as they lie; deleted ones are in no piece. A file that is known is not opened again.
        stream = RowStream(ref.file_io(), ref, replace(file, deleted=None), [self.user, self.position])
        try:
            footer = self._footers.get(file.path)
            if footer is None:
                footer = self._footers[file.path] = self._footer(stream, ref, columns)
            starts, users, positions, token_bytes = footer
            found = []
            for group in range(len(starts) - 1):
                start, stop = int(starts[group]), int(starts[group + 1])
                if start < stop and needs.touch(users[group], positions[group]):
                    found.append(self._group(stream, file, group, start, stop))
            return found, token_bytes
        finally:
            stream.close()

    def _footer(self, stream: RowStream, ref: TableRef, columns: Sequence[str]) -> _Footer:
        parquet, physical = stream.parquet, stream.physical
        starts = group_starts(parquet.metadata)
        users, positions = (
            bounds(parquet.metadata, name) if (name := physical[key]) else [None] * (len(starts) - 1)
            for key in (self.user, self.position)
        )
        named = physical_columns(parquet, ref, columns).values()
        return _Footer(starts, users, positions, decoded_bytes(parquet, [n for n in named if n is not None]))

    def _group(self, stream: RowStream, file: DataFile, group: int, start: int, stop: int) -> Pieces:
        known = self._kept.get((file.path, group))
        if known is not None:
            return known
        parts = list(self._pieces(stream, file, start, stop))
        arrays = [np.concatenate(part) for part in list(zip(*parts, strict=True))[1:]]
        found = Pieces(pa.concat_arrays([p.users for p in parts]), *arrays)
        size = found.users.nbytes + sum(array.nbytes for array in found[1:])
        if self._bytes + size > _KEPT_BYTES:
            self._kept, self._bytes = {}, 0
        self._kept[file.path, group] = found
        self._bytes += size
        return found

    def _pieces(self, stream: RowStream, file: DataFile, start: int, stop: int) -> Iterator[Pieces]:
        for first in range(start, stop, _PIECE_ROWS):
            last = min(first + _PIECE_ROWS, stop)
            keys, rows = stream.read(first, last), np.arange(first, last, dtype=np.int64)
            if file.deleted is not None:
                gone = file.deleted[np.searchsorted(file.deleted, first) : np.searchsorted(file.deleted, last)]
                left = np.delete(rows, gone - first)
                keys, rows = keys.take(pa.array(left - first)), left
            if keys[self.user].null_count or keys[self.position].null_count:
                raise StorageError(
                    f"the file {file.path} has an event without {self.user} or {self.position}",
                    expected="a value in each row",
                    fix="Roll back to the version before it, or write the dataset again.",
                )
            users, positions = single_chunk(keys[self.user]), single_chunk(keys[self.position])
            place = positions.to_numpy(zero_copy_only=False).astype(np.int64)
            new = np.ones(len(rows), dtype=np.bool_)
            same = np.asarray(pc.equal(users.slice(1), users.slice(0, max(len(users) - 1, 0))), dtype=np.bool_)
            new[1:] = ~same | (np.diff(place) != 1) | (np.diff(rows) != 1)
            heads = np.flatnonzero(new)
            yield Pieces(users.take(pa.array(heads)), place[heads], rows[heads], np.diff(np.append(heads, len(rows))))

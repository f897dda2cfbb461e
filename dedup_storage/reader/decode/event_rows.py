"""Where the lists of a unit's requests stand among the events of their users, and the files that hold these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.files import DataFile

__all__ = ["MISSING", "Bools", "EventFiles", "EventRows", "Int32", "Spans"]

Int32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
# In the place of a number: an event of which there is no value.
MISSING = -1


@dataclass(frozen=True)
class Spans:
    """Numbers in ascending spans that do not touch.

    Attributes:
        starts: (spans,) int64, first number of each.
        offsets: (spans + 1,) int64, how many numbers lie in the spans before each.
    """

    starts: Int64
    offsets: Int64

    @classmethod
    def covering(cls, starts: Int64, lengths: Int64) -> Spans:
        """Every number of some ranges once, in whatever order these come and however they overlap."""
        order = np.argsort(starts, kind="stable")
        first, ends = starts[order], (starts + lengths)[order]
        reached = np.maximum.accumulate(ends)
        new = np.ones(len(first), dtype=np.bool_)
        new[1:] = first[1:] > reached[:-1]
        heads = np.flatnonzero(new)
        stops = reached[np.append(heads[1:], len(first)) - 1] if len(heads) else reached
        return cls(first[heads], offsets_from_lengths(stops - first[heads]))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def numbers(self) -> Int64:
        """All numbers, ascending."""
        return ranges(self.starts, np.diff(self.offsets))

    def places(self, numbers: Int64) -> Int64:
        """Place of some of the numbers among all of them."""
        span = np.searchsorted(self.starts, numbers, side="right") - 1
        return self.offsets[span] + numbers - self.starts[span]


@dataclass(frozen=True)
class EventFiles:
    """Events of some users, numbered by user and position, in pieces of files.

    Attributes:
        files: The files; rows in them count deleted rows too.
        numbers: (pieces + 1,) int64, number of each piece's first event, and the events.
        file: (pieces,) int32, the file of each piece.
        rows: (pieces,) int64, its first row there.
        token_bytes: Decoded bytes of one event's columns, estimated.
    """

    files: tuple[DataFile, ...]
    numbers: Int64
    file: Int32
    rows: Int64
    token_bytes: float = 0.0

    def places(self, numbers: Int64) -> tuple[Int32, Int64]:
        """File and row of some events."""
        piece = np.searchsorted(self.numbers, numbers, side="right") - 1
        return self.file[piece], self.rows[piece] + numbers - self.numbers[piece]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.numbers.nbytes + self.file.nbytes + self.rows.nbytes


@dataclass(frozen=True)
class EventRows:
    """Lists of one sequence group, of the requests of one unit.

    Attributes:
        users: (n,) int32, number of each request's user.
        listed: (n,) bool, requests whose lists stand as they are.
        offsets: (n + 1,) int64, the runs of each request, oldest events first.
        starts: (runs,) int64, number of each run's first event; of features ``MISSING``, where it has no values.
        lengths: (runs,) int32, its events.
        events: Where these lie.
    """

    users: Int32
    listed: Bools
    offsets: Int64
    starts: Int64
    lengths: Int32
    events: EventFiles

    @property
    def tokens(self) -> Int64:
        """(n,) int64 events of each request's list; 0 where it stands as it is."""
        ends = offsets_from_lengths(self.lengths)
        return np.diff(ends[self.offsets])

    @property
    def request_bytes(self) -> float:
        """Decoded bytes of a request's lists that are stored as runs, estimated, beside the null in their place."""
        windows = ~self.listed
        more = np.maximum(self.tokens[windows], 1) - 1
        return float(more.sum()) * self.events.token_bytes / max(len(self.users), 1)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        arrays = (self.users, self.listed, self.offsets, self.starts, self.lengths)
        return sum(array.nbytes for array in arrays) + self.events.nbytes

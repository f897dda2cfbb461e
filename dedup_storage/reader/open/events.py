"""The index of a sequence group: which events of its users each request's lists are, from keys and runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import ArrowColumn, Int64, single_chunk
from dedup_storage.errors import StorageError
from dedup_storage.layout import EventGroup
from dedup_storage.reader.decode.event_rows import MISSING, Bools, EventFiles, EventRows, Int32
from dedup_storage.reader.decode.events import EventSource
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.open.event_keys import EventKeys, Needs, Pieces
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.segment import SegmentKey
from dedup_storage.words import counted

__all__ = ["EventScan", "SectionEvents", "index_events", "ranked"]


@dataclass(frozen=True)
class EventScan:
    """One sequence group of a version, or features of its events.

    Attributes:
        group: The group.
        scan: Files of its events.
        columns: Its columns that are read.
        keys: Reads where each user's events lie.
        most: Newest events of a list to deliver; ``None`` for all.
        beside: Of features the column whose lists theirs stand beside; they may not be there of the newest events.
    """

    group: EventGroup
    scan: TableScan
    columns: tuple[str, ...]
    keys: EventKeys
    most: int | None = None
    beside: str | None = None

    @property
    def source(self) -> EventSource:
        """What workers need of it: its list of files stays behind."""
        return EventSource(self.scan.ref, self.columns, self.group.newest_first, self.most, self.beside)

    def files_of(self, segment: SegmentKey) -> list[DataFile]:
        """Files that can hold events of a segment's users: those of its bucket, whatever their epoch."""
        own = dict(segment)
        return [
            file
            for key, files in self.scan.segments.items()
            if all(own.get(field, value) == value for field, value in key)
            for file in files
        ]


@dataclass(frozen=True)
class SectionEvents:
    """Lists of one group, of the candidates of a section; attributes as of ``EventRows``."""

    users: Int32
    listed: Bools
    offsets: Int64
    starts: Int64
    lengths: Int64
    events: EventFiles

    def unit(self, rows: Int64) -> EventRows:
        """Those of some candidates."""
        counts = np.diff(self.offsets)[rows]
        runs = ranges(self.offsets[rows], counts)
        lengths = self.lengths[runs].astype(np.int32)
        offsets = offsets_from_lengths(counts)
        return EventRows(self.users[rows], self.listed[rows], offsets, self.starts[runs], lengths, self.events)


def index_events(
    scan: EventScan, segment: SegmentKey, users: pa.Array, runs: ArrowColumn, wanted: Bools
) -> SectionEvents:
    """Find the events of requests.

    Args:
        scan: The group.
        segment: The requests' segment.
        users: (n,) user of each request.
        runs: (n,) their runs.
        wanted: (n,) bool, requests to deliver; of others nothing is looked for.

    Raises:
        StorageError: an event that a request names is not there, or is there twice; of features, which are computed
            after their events, only one before others that are there.
    """
    listed, offsets, starts, lengths = _runs(scan, runs, wanted)
    codes, values = ranked(users)
    owners = np.repeat(codes, np.diff(offsets))
    known, own = np.unique(owners, return_inverse=True)
    low, high = np.full(len(known), np.iinfo(np.int64).max), np.zeros(len(known), dtype=np.int64)
    np.minimum.at(low, own, starts)
    np.maximum.at(high, own, starts + lengths)
    needs = Needs(values.take(pa.array(known)), low, high)
    places, events = _events(scan, segment, needs)
    if scan.beside is not None:
        there = places.there(own, starts, lengths)
        # Each run as what is there of it, and behind that what is not.
        lengths = np.stack([there, lengths - there], axis=1).ravel()
        starts = np.stack([starts, np.full_like(starts, MISSING)], axis=1).ravel()
        kept = lengths > 0
        offsets = offsets_from_lengths(kept)[2 * offsets]
        own, starts, lengths = np.repeat(own, 2)[kept], starts[kept], lengths[kept]
        found = starts != MISSING
        starts[found] = places.numbers(scan, own[found], starts[found], lengths[found])
        return SectionEvents(codes, listed, offsets, starts, lengths, events)
    return SectionEvents(codes, listed, offsets, places.numbers(scan, own, starts, lengths), lengths, events)


def ranked(users: pa.Array) -> tuple[Int32, pa.Array]:
    """(n,) int32 the rank of each user among them, in the order in which files are sorted, and the users by rank."""
    encoded = users.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], encoded.dictionary.take(order)


def _runs(scan: EventScan, runs: ArrowColumn, wanted: Bools) -> tuple[Bools, Int64, Int64, Int64]:
    """Which requests' lists stand as they are; where each one's runs begin, first position and events of each run."""
    array = single_chunk(runs)
    values, bounds = list_parts(array)
    parts = [values.field(name) for name in ("start", "length")]
    starts, lengths = (pc.fill_null(p, -1).to_numpy(zero_copy_only=False).astype(np.int64) for p in parts)
    if np.any(starts < 0) or np.any(lengths < 0):
        raise StorageError(
            f"the column {scan.group.runs_column} holds a run that has no start or no length",
            expected="a position from 0 and a number of events from 0",
            fix="Roll back to the version before it, or write the dataset again.",
        )
    chosen = np.repeat(wanted, np.diff(bounds)) & (lengths > 0)
    counts = np.diff(offsets_from_lengths(chosen)[bounds])
    offsets, starts, lengths = offsets_from_lengths(counts), starts[chosen], lengths[chosen]
    listed = array.is_null().to_numpy(zero_copy_only=False).astype(np.bool_)
    return listed, *(_newest(offsets, starts, lengths, scan.most) if scan.most else (offsets, starts, lengths))


def _newest(offsets: Int64, starts: Int64, lengths: Int64, most: int) -> tuple[Int64, Int64, Int64]:
    """The runs of each list's last ``most`` events alone."""
    ends = np.cumsum(lengths)
    last = offsets_from_lengths(lengths)[offsets[1:]]
    later = np.repeat(last, np.diff(offsets)) - ends
    kept = np.clip(most - later, 0, lengths)
    starts = starts + lengths - kept
    there = kept > 0
    return offsets_from_lengths(there)[offsets], starts[there], kept[there]


@dataclass(frozen=True)
class _Places:
    """Pieces of users' lists, in the order of users and positions.

    Attributes:
        first: (users,) int64, least position of each user's events.
        addresses: (users + 1,) int64; each user takes as many as its positions reach.
        starts: (pieces,) int64, address of each piece.
        numbered: (pieces + 1,) int64, number of its first event, and the events.
    """

    first: Int64
    addresses: Int64
    starts: Int64
    numbered: Int64

    def there(self, owners: Int64, starts: Int64, lengths: Int64) -> Int64:
        """How many events of each run, its first ones, a user's list reaches to."""
        ends = self.first[owners] + np.diff(self.addresses)[owners]
        return np.clip(ends - starts, 0, lengths)

    def numbers(self, scan: EventScan, owners: Int64, starts: Int64, lengths: Int64) -> Int64:
        """Number of the first event of each run.

        Raises:
            StorageError: a run leaves its user's events.
        """
        address = self.addresses[owners] + starts - self.first[owners]
        inside = (starts >= self.first[owners]) & (address + lengths <= self.addresses[owners + 1])
        if len(self.starts):
            first, last = (self._number(address + shift) for shift in (np.zeros_like(lengths), lengths - 1))
            inside &= (first >= 0) & (last - first == lengths - 1)
        if not inside.all():
            missing = int(np.count_nonzero(~inside))
            raise StorageError(
                f"{counted(missing, 'run')} of {scan.group.runs_column} name events that the table "
                f"{scan.scan.ref.name} does not hold",
                expected="every event of a request that is kept",
                fix="Another tool has deleted events: restore the table, or roll back to the version before.",
            )
        return first if len(self.starts) else np.empty(0, dtype=np.int64)

    def _number(self, address: Int64) -> Int64:
        """Number of the event at each address; -1 for none."""
        piece = np.maximum(np.searchsorted(self.starts, address, side="right") - 1, 0)
        within = address - self.starts[piece]
        number = self.numbered[piece] + within
        return np.where((within >= 0) & (number < self.numbered[piece + 1]), number, -1)


def _events(scan: EventScan, segment: SegmentKey, needs: Needs) -> tuple[_Places, EventFiles]:
    """All events of some users that lie in row groups which hold something that is needed."""
    read: list[tuple[int, Pieces]] = []
    files, token_bytes = scan.files_of(segment) if len(needs.users) else [], 0.0
    for number, file in enumerate(files):
        pieces, size = scan.keys.read(scan.scan.ref, file, scan.columns, needs)
        read += [(number, found) for found in pieces]
        token_bytes = max(token_bytes, size) if pieces else token_bytes
    owner, position, rows, lengths, file_of = _of_users(read, needs.users)
    order = np.lexsort((position, owner))
    owner, position, rows, lengths = (numbers[order] for numbers in (owner, position, rows, lengths))
    file_of = file_of[order]
    low, reach = np.zeros(len(needs.users), dtype=np.int64), np.zeros(len(needs.users), dtype=np.int64)
    heads = np.flatnonzero(np.diff(owner, prepend=-1))
    low[owner[heads]] = position[heads]
    if len(heads):
        reach[owner[heads]] = np.maximum.reduceat(position + lengths, heads) - position[heads]
    addresses = offsets_from_lengths(reach)
    starts = addresses[owner] + position - low[owner]
    if np.any(starts[1:] < starts[:-1] + lengths[:-1]):
        raise StorageError(
            f"the table {scan.scan.ref.name} has two events at one position of a user's list",
            expected="one event at each position",
            fix="Another tool has added rows: restore the table, or roll back to the version before.",
        )
    numbered = offsets_from_lengths(lengths)
    return _Places(low, addresses, starts, numbered), EventFiles(tuple(files), numbered, file_of, rows, token_bytes)


def _of_users(read: Sequence[tuple[int, Pieces]], users: pa.Array) -> tuple[Int64, Int64, Int64, Int64, Int32]:
    """Of the pieces of some users the user's number, position, row, length and file."""
    found: list[tuple[Int64, Int64, Int64, Int64, Int32]] = []
    for number, pieces in read:
        owner = pc.fill_null(pc.index_in(pieces.users, value_set=users.cast(pieces.users.type)), -1)
        owners = owner.to_numpy(zero_copy_only=False).astype(np.int64)
        there = owners >= 0
        files = np.full(int(there.sum()), number, dtype=np.int32)
        found.append((owners[there], pieces.positions[there], pieces.rows[there], pieces.lengths[there], files))
    if not found:
        none = np.empty(0, dtype=np.int64)
        return none, none, none, none, np.empty(0, dtype=np.int32)
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]

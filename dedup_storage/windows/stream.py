"""A stream of users' lists and requests, batch by batch: where each request's lists stand, and what is new in them.

Rows come user by user: for each group first the user's list so far, if there is one, in one row or in several that
follow each other, then the user's requests, oldest first. Nothing is held but one batch and the lists of the last user
in it. What a batch hands on is made into lists again and compared with the logged ones, value for value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather, list_parts, parallel_rows
from dedup_storage.dedup.runs import Int64, run_lengths, run_starts, single_chunk
from dedup_storage.errors import StorageError
from dedup_storage.windows.match import match
from dedup_storage.windows.model import Bools, Events, Lists, Memory, Windows
from dedup_storage.windows.places import Places
from dedup_storage.windows.proof import unproved
from dedup_storage.words import counted

__all__ = ["StreamGroup", "UserStream"]

_RUN = pa.struct([("start", pa.int64()), ("length", pa.int32())])
_PLACE = "position"


@dataclass(frozen=True)
class StreamGroup:
    """Parallel lists of one group.

    Attributes:
        columns: The list columns.
        newest_first: The lists begin with the newest token.
        runs: Name of the column that says where a list stands.
        new: Name of the column with a request's new events: structs of ``position`` and the columns' values, in the
            columns' order, named ``v0``, ``v1`` and so on.
    """

    columns: tuple[str, ...]
    newest_first: bool
    runs: str
    new: str


@dataclass
class _Carry:
    """What goes on in the next batch: the last user's list of one group."""

    events: Events
    places: Places
    memory: Memory


@dataclass
class UserStream:
    """Lays requests' lists into their users' lists.

    Args:
        user: The user column.
        kind: Column that tells rows apart: the number of the group of which a row holds stored events, or the number
            of groups for a request.
        place: Column with the position of the first of a row's stored events; the others follow it.
        groups: The groups.
    """

    user: str
    kind: str
    place: str
    groups: Sequence[StreamGroup]
    _last: pa.Array | None = field(default=None, init=False)
    _carried: dict[int, _Carry] = field(default_factory=dict, init=False)

    def lay(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The requests of a stream, in their order: lists that are windows null, with their runs and new events.

        Raises:
            StorageError: one of a user's stored events is there twice, or has no position.
        """
        for batch in batches:
            if batch.num_rows:
                yield self._lay(batch)

    def _lay(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        users = batch.column(self.user)
        starts = run_starts([users])
        codes, count = np.repeat(np.arange(len(starts)), run_lengths(starts, len(users))), len(starts)
        kinds = batch.column(self.kind).to_numpy(zero_copy_only=False)
        requests = np.flatnonzero(kinds == len(self.groups)).astype(np.int64)
        goes_on = self._last is not None and self._last.equals(users.slice(0, 1))
        made: dict[str, pa.Array] = {}
        for number, group in enumerate(self.groups):
            carried = self._carried.get(number) if goes_on else None
            stored, places = self._stored(batch, np.flatnonzero(kinds == number), codes, count, group, carried)
            memory = Memory.none(count)
            if carried is not None:
                memory.misfits[0], memory.laid[0] = carried.memory.misfits[0], carried.memory.laid[0]
            made |= self._group(batch, requests, codes[requests], group, stored, places, memory, number)
        self._last = users.slice(len(users) - 1)
        kept = [name for name in batch.schema.names if name not in (*made, self.kind, self.place)]
        arrays = {name: _chosen(batch.column(name), requests) for name in kept} | made
        names = [n for n in batch.schema.names if n in arrays] + [n for n in arrays if n not in batch.schema.names]
        return pa.RecordBatch.from_arrays([arrays[n] for n in names], names=names)

    def _stored(
        self,
        batch: pa.RecordBatch,
        rows: Int64,
        codes: Int64,
        count: int,
        group: StreamGroup,
        carried: _Carry | None,
    ) -> tuple[Events, Places]:
        """The users' lists as the batch finds them, and the positions in them.

        Raises:
            StorageError: an event is there twice, or without a position.
        """
        columns = {name: _chosen(batch.column(name), rows) for name in group.columns}
        parts = {name: list_parts(values) for name, values in columns.items()}
        owners, lengths = codes[rows], np.diff(next(iter(parts.values()))[1])
        found = {name: values for name, (values, _) in parts.items()}
        positions = _chosen(batch.column(self.place), rows)
        first = pc.fill_null(positions, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        if carried is not None and carried.events.offsets[-1]:
            found = {name: pa.concat_arrays([carried.events.columns[name], values]) for name, values in found.items()}
            known = carried.places
            owners = np.concatenate([np.zeros(len(known.heads), dtype=np.int64), owners])
            first = np.concatenate([known.positions, first])
            lengths = np.concatenate([np.diff(np.append(known.heads, known.offsets[-1])), lengths])
        places, wrong = Places.of(count, owners, first, lengths)
        if wrong:
            raise StorageError(
                f"{counted(wrong, 'run')} of stored events do not begin behind what is there before in a user's list "
                f"of {', '.join(group.columns)}",
                expected="each event at a position of its own",
                fix="Another tool has changed the events: restore their table, or roll back to the version before.",
            )
        return Events(places.offsets, found), places

    def _group(
        self,
        batch: pa.RecordBatch,
        requests: Int64,
        codes: Int64,
        group: StreamGroup,
        stored: Events,
        places: Places,
        memory: Memory,
        number: int,
    ) -> dict[str, pa.Array]:
        columns = {name: _chosen(batch.column(name), requests) for name in group.columns}
        rows = np.flatnonzero(parallel_rows(list(columns.values()))).astype(np.int64)
        lists = _lists(columns, rows, codes, len(stored.offsets) - 1)
        if group.newest_first:
            lists = lists.turned()
        windows = places.cut(match(lists, stored, memory=memory, compared=False), lists.users)
        for _ in range(2):
            made = _handed_on(group, columns, lists, windows, places, rows)
            wrong, after = unproved(lists, rows, codes, stored, places, made[group.runs], made[group.new])
            if not wrong.any():
                self._carried[number] = _last_user(after, places, windows.memory)
                return made
            # Equal hashes of different values: these lists stay as they are.
            windows = windows.keeping(wrong)
        raise StorageError(
            f"{counted(int(wrong.sum()), 'list')} of {', '.join(group.columns)} cannot be made again of events",
            expected="the lists that were logged",
            fix="Nothing was published. Please report it.",
        )


def _handed_on(
    group: StreamGroup, columns: Mapping[str, pa.Array], lists: Lists, windows: Windows, places: Places, rows: Int64
) -> dict[str, pa.Array]:
    """What stands in the place of a group's columns: lists that stay, runs of the others, new events."""
    count = len(next(iter(columns.values())))
    gone = np.zeros(count, dtype=np.bool_)
    found = rows[~windows.kept]
    gone[found] = True
    stay = pa.array(np.arange(count, dtype=np.int64), mask=gone)
    made = {name: values.take(stay) for name, values in columns.items()}
    made[group.runs] = _runs(lists, windows, places, found, gone)
    made[group.new] = _new_events(lists, windows, places, rows, count)
    return made


def _chosen(column: pa.Array, rows: Int64) -> pa.Array:
    """Rows in ascending order, each once; lists that are not all chosen come as large lists."""
    return column if len(rows) == len(column) else gather(column, rows)


def _lists(columns: Mapping[str, pa.Array], rows: Int64, codes: Int64, users: int) -> Lists:
    parts = {name: list_parts(_chosen(values, rows)) for name, values in columns.items()}
    offsets = next(iter(parts.values()))[1]
    return Lists(codes[rows], users, offsets, {name: single_chunk(values) for name, (values, _) in parts.items()})


def _last_user(events: Events, places: Places, memory: Memory) -> _Carry:
    last = len(events.offsets) - 2
    part = events.part(last, last + 1)
    grown = int(part.offsets[-1] - places.counts[-1])
    return _Carry(part, places.last_user(grown), memory.part(last, last + 1).copy())


def _runs(lists: Lists, windows: Windows, places: Places, found: Int64, gone: Bools) -> pa.Array:
    """Runs of each request, null where a list stays. (requests,)."""
    lengths = np.zeros(len(gone), dtype=np.int64)
    lengths[found] = windows.runs[~windows.kept]
    starts = places.position(np.repeat(lists.users, windows.runs), windows.starts)
    values = pa.StructArray.from_arrays(
        [pa.array(starts), pa.array(windows.lengths.astype(np.int32))], fields=list(_RUN)
    )
    offsets = offsets_from_lengths(lengths).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~gone))


def _new_events(lists: Lists, windows: Windows, places: Places, rows: Int64, requests: int) -> pa.Array:
    """Events that each request adds to its user's list. (requests,) lists of structs."""
    owners = np.searchsorted(lists.offsets, windows.new, side="right") - 1
    positions = ranges(places.ends, np.diff(windows.new_offsets))
    order = np.argsort(owners, kind="stable")
    chosen = pa.array(windows.new[order])
    counts = np.zeros(requests, dtype=np.int64)
    counts[rows] = np.bincount(owners, minlength=len(rows))[: len(rows)]
    values = [pa.array(positions[order]), *(values.take(chosen) for values in lists.columns.values())]
    names = [_PLACE, *(f"v{number}" for number in range(len(lists.columns)))]
    events = pa.StructArray.from_arrays(values, names=names)
    return pa.ListArray.from_arrays(pa.array(offsets_from_lengths(counts).astype(np.int32)), events)

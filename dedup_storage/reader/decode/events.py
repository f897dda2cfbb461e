"""Lists that requests keep as runs of their users' events: each event of a block is decoded once, no list is copied.

The lists of a block are views into its decoded events, which may overlap. Only lists of several runs are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather_table, list_parts
from dedup_storage.dedup.runs import ArrowColumn, Int64, large_offsets, single_chunk
from dedup_storage.reader.decode.event_rows import MISSING, Bools, EventRows, Spans
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef
from dedup_storage.reader.decode.streams import Streams

__all__ = ["EventReader", "EventSource", "HistoryReader", "ListCut", "newest_views", "plain_lists"]

Opener = Callable[[DataFile], RowStream]


@dataclass(frozen=True)
class EventSource:
    """What a sequence group's events are read from; crosses process borders.

    Attributes:
        table: Their table.
        columns: Columns to read, also those of the requests' lists.
        newest_first: The log's lists begin with the newest event.
        most: Newest events of a list to deliver; ``None`` for all.
        beside: Of features of events, which the requests have no lists of, the column whose lists they are as long as.
    """

    table: TableRef
    columns: tuple[str, ...]
    newest_first: bool = False
    most: int | None = None
    beside: str | None = None

    def kind(self, column: str) -> pa.DataType:
        """Arrow type of a column's events, texts with long offsets."""
        return large_offsets(self.table.fields[column][1])


@dataclass(frozen=True)
class _Carried:
    """Events of a block's last user, who goes on in the next block.

    Attributes:
        stop: Where the block ended.
        numbers: Their numbers, ascending.
        table: The events.
    """

    stop: int
    numbers: Int64
    table: pa.Table

    def count(self, start: int, numbers: Int64) -> int:
        """How many of the numbers are here, the first ones; 0 for a block that does not begin where this one ended."""
        if start != self.stop or not len(self.numbers):
            return 0
        place = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        here = self.numbers[place] == numbers
        count = int(np.count_nonzero(here))
        return count if here[:count].all() else 0

    def take(self, numbers: Int64) -> pa.Table:
        """Events by number."""
        return gather_table(self.table, np.searchsorted(self.numbers, numbers))


class EventReader:
    """Decodes the lists of one group for ascending blocks of a unit.

    Args:
        rows: Where the lists stand.
        source: What is read.
        open_file: Opens an event file's columns.
    """

    def __init__(self, rows: EventRows, source: EventSource, open_file: Opener) -> None:
        self._rows, self._source = rows, source
        # Rows of pieces count deleted ones: none of these is in a piece.
        self._open = lambda file: open_file(replace(file, deleted=None))
        self._ends = np.append(np.flatnonzero(np.diff(rows.users)) + 1, len(rows.users)).astype(np.int64)
        self._carried: _Carried | None = None

    def lists(self, requests: pa.Table, start: int, stop: int) -> dict[str, pa.Array]:
        """The group's columns of the requests ``start`` to ``stop``, as views of lists.

        Args:
            requests: These requests' own columns, with lists where they stand as they are.
        """
        rows, newest_first = self._rows, self._source.newest_first
        spans, events = self._events(start, stop)
        low, high = int(rows.offsets[start]), int(rows.offsets[stop])
        first, lengths = rows.starts[low:high].copy(), rows.lengths[low:high].astype(np.int64)
        there = first != MISSING
        first[there] = spans.places(first[there])
        if newest_first:
            events = gather_table(events, np.arange(len(spans) - 1, -1, -1, dtype=np.int64))
            first[there] = len(spans) - first[there] - lengths[there]
        offsets = rows.offsets[start : stop + 1] - low
        runs = np.diff(offsets)
        sizes = np.diff(offsets_from_lengths(lengths)[offsets])
        begins = np.zeros(stop - start, dtype=np.int64)
        begins[runs == 1] = first[offsets[:-1][runs == 1]]
        # Lists of several runs come behind the events, and those of which something is missing.
        several = np.flatnonzero((runs > 1) | (begins == MISSING))
        pieces = ranges(offsets[several], runs[several])
        if newest_first:
            pieces = np.repeat(offsets[several] + offsets[several + 1] - 1, runs[several]) - pieces
        joined = _indices(first[pieces], lengths[pieces])
        begins[several] = len(spans) + offsets_from_lengths(sizes[several])[:-1]
        found = {}
        for column in self._source.columns:
            # One type in every block, for views of different types do not become one column.
            values = [_as(single_chunk(events[column]), self._source.kind(column))]
            if len(joined):
                values.append(values[0].take(joined))
            own = requests[self._source.beside or column]
            found[column] = self._views(values, begins, sizes, own, rows.listed[start:stop])
        return found

    def _views(self, values: list[pa.Array], begins: Int64, sizes: Int64, own: ArrowColumn, listed: Bools) -> pa.Array:
        """Views of lists in the values, and behind these in the requests' own lists."""
        mask = None
        if listed.any():
            whole = single_chunk(own)
            elements, offsets = list_parts(whole)
            missing = listed & whole.is_null().to_numpy(zero_copy_only=False)
            mask = pa.array(missing) if missing.any() else None
            lengths = np.where(listed, np.diff(offsets), 0)
            kept = lengths if self._source.most is None else np.minimum(lengths, self._source.most)
            skipped = np.zeros_like(kept) if self._source.newest_first else lengths - kept
            before = sum(map(len, values))
            begins = np.where(listed, before + offsets[:-1] + skipped, begins)
            sizes = np.where(listed, kept, sizes)
            if len(elements):
                kind = values[0].type
                # What is no event has no features.
                own_values = pa.nulls(len(elements), kind) if self._source.beside else _as(elements, kind)
                values = [*values, own_values]
        together = values[0] if len(values) == 1 else pa.concat_arrays(values)
        return pa.LargeListViewArray.from_arrays(pa.array(begins), pa.array(sizes), together, mask=mask)

    # -- events -------------------------------------------------------------------------------------------------
    def _events(self, start: int, stop: int) -> tuple[Spans, pa.Table]:
        """The events that the requests need, in order of their numbers, each decoded once."""
        rows = self._rows
        # The last user's later requests are in the next block: what they need is decoded now, for files are read
        # forwards, and a user's events lie together.
        end = int(self._ends[np.searchsorted(self._ends, stop - 1, side="right")]) if stop > start else stop
        runs = slice(int(rows.offsets[start]), int(rows.offsets[end]))
        there = rows.starts[runs] != MISSING
        spans = Spans.covering(rows.starts[runs][there], rows.lengths[runs][there].astype(np.int64))
        numbers, carried = spans.numbers, self._carried
        count = carried.count(start, numbers) if carried is not None else 0
        table = self._read(numbers[count:])
        if carried is not None and count:
            table = pa.concat_tables([carried.take(numbers[:count]), table], promote_options="permissive")
        self._carried = self._of_last_user(stop, numbers, table) if end > stop else None
        return spans, table

    def _of_last_user(self, stop: int, numbers: Int64, table: pa.Table) -> _Carried:
        """What is left for the next block: all from the first event on that the last user's requests need."""
        rows = self._rows
        border = int(np.searchsorted(self._ends, stop - 1, side="right"))
        first, end = int(self._ends[border - 1]) if border else 0, int(self._ends[border])
        own = rows.starts[int(rows.offsets[first]) : int(rows.offsets[end])]
        own = own[own != MISSING]
        low = int(np.searchsorted(numbers, own.min())) if len(own) else len(numbers)
        # Copied, so that the rest of the block can go.
        kept = gather_table(table, np.arange(low, len(numbers), dtype=np.int64))
        return _Carried(stop, numbers[low:].copy(), kept)

    def _read(self, numbers: Int64) -> pa.Table:
        """Some events, by ascending numbers."""
        fields = self._source.table.fields
        if not len(numbers):
            return pa.table({c: pa.array([], fields[c][1]) for c in self._source.columns})
        file, rows = self._rows.events.places(numbers)
        files = np.unique(file)
        if len(files) == 1 and np.all(rows[1:] > rows[:-1]):
            return self._open(self._rows.events.files[int(files[0])]).take(rows)
        order = np.lexsort((rows, file))
        bounds = np.searchsorted(file[order], [*files.tolist(), int(files[-1]) + 1])
        tables = [
            self._open(self._rows.events.files[number]).take(rows[order[a:b]])
            for number, (a, b) in zip(files.tolist(), pairwise(bounds.tolist()), strict=True)
        ]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return gather_table(pa.concat_tables(tables, promote_options="permissive"), place)


@dataclass(frozen=True)
class ListCut:
    """How lists of the requests' own table are cut to their newest elements.

    Attributes:
        kind: Arrow type of the elements.
        newest_first: These are the first ones, and not the last.
    """

    kind: pa.DataType
    newest_first: bool = False


class HistoryReader:
    """Gives the requests of a unit the lists that they are delivered with.

    Args:
        rows: Where the lists of each sequence group stand.
        sources: What each is read from.
        cut: History lists of the requests' own table to cut, and how.
        most: Elements to cut them to; ``None`` for all.
        streams: The unit's files.
    """

    def __init__(
        self,
        rows: Sequence[EventRows],
        sources: Sequence[EventSource],
        cut: Mapping[str, ListCut],
        most: int | None,
        streams: Streams,
    ) -> None:
        self._cut, self._most = cut, most
        self._readers = []
        for number, (own, source) in enumerate(zip(rows, sources, strict=True)):
            opener = partial(_opened, streams, f"events {number}", source, max(len(own.events.files), 1))
            self._readers.append(EventReader(own, source, opener))

    def put(self, requests: pa.Table, start: int, stop: int) -> pa.Table:
        """The requests ``start`` to ``stop`` with their lists in place."""
        found = {}
        if self._most is not None:
            found = {c: newest_views(requests[c], self._most, cut) for c, cut in self._cut.items()}
        for reader in self._readers:
            found |= reader.lists(requests, start, stop)
        for name, lists in found.items():
            if name in requests.column_names:
                requests = requests.set_column(requests.column_names.index(name), name, lists)
            else:
                requests = requests.append_column(name, lists)
        return requests


def _opened(streams: Streams, part: str, source: EventSource, share: int, file: DataFile) -> RowStream:
    """An event file; a user's events may lie in many, which share what one alone may hold."""
    return streams.of(part, source.table, file, source.columns, share)


def _indices(first: Int64, lengths: Int64) -> pa.Array:
    """Places of the elements of some runs, one behind the other; null for those that are ``MISSING``."""
    missing = first == MISSING
    if not missing.any():
        return pa.array(ranges(first, lengths))
    return pa.array(ranges(np.where(missing, 0, first), lengths), mask=np.repeat(missing, lengths))


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def newest_views(column: ArrowColumn, most: int, cut: ListCut) -> pa.Array:
    """Views of each list's newest ``most`` elements, which are to be of one type; null lists stay null."""
    array = single_chunk(column)
    elements, offsets = list_parts(array)
    values = _as(elements, large_offsets(cut.kind))
    kept = np.minimum(np.diff(offsets), most)
    mask = array.is_null() if array.null_count else None
    begins = offsets[:-1] if cut.newest_first else offsets[1:] - kept
    return pa.LargeListViewArray.from_arrays(pa.array(begins), pa.array(kept), values, mask=mask)


def plain_lists(table: pa.Table) -> pa.Table:
    """The same table, views of lists as lists with elements of their own."""
    for place, field in enumerate(table.schema):
        if pa.types.is_large_list_view(field.type):
            plain = pa.chunked_array(
                [_plain(chunk) for chunk in table.column(place).chunks], type=pa.large_list(field.type.value_type)
            )
            table = table.set_column(place, field.name, plain)
    return table


def _plain(views: pa.Array) -> pa.Array:
    # Not by a cast: pyarrow 26 makes arrays of nulls that it cannot read again.
    starts, sizes = views.offsets.to_numpy(), views.sizes.to_numpy()
    elements = views.values.take(pa.array(ranges(starts, sizes)))
    mask = views.is_null() if views.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(offsets_from_lengths(sizes)), elements, mask=mask)

"""A stream of requests, user by user: where their lists stand once each user's events are copied in another order.

Nothing is held but one batch and the requests of the last user in it. What is handed on is turned back into the runs
that there were, and compared with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64, run_lengths, run_starts
from dedup_storage.errors import StorageError
from dedup_storage.windows.model import Bools
from dedup_storage.windows.order import Anew, Named, in_order

__all__ = ["AnewGroup", "AnewStream", "leads_back"]

_RUN = pa.struct([("start", pa.int64()), ("length", pa.int32())])
_MOVE = pa.struct([("old", pa.int64()), ("new", pa.int64()), ("size", pa.int64())])


@dataclass(frozen=True)
class AnewGroup:
    """Columns of one group.

    Attributes:
        runs: Where a request's lists stand; null where there is nothing to look at.
        end: The position that the next new event of the request's user takes.
        anew: Made: where they stand among the copies; null where nothing changes.
        moves: Made: of each user's first request what is copied, structs of the position ``old`` of a first event, its
            position ``new``, and how many events there are (``size``); null in the other rows.
    """

    runs: str
    end: str
    anew: str
    moves: str


@dataclass(frozen=True)
class AnewStream:
    """Lays users' lists anew.

    Args:
        user: The user column.
        groups: The groups.
        share: Of a user's runs so many must go; else all stays as it is.
    """

    user: str
    groups: Sequence[AnewGroup]
    share: float

    def lay(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows of a stream, in their order: users one after the other, each one's oldest request first.

        Raises:
            StorageError: what was made does not lead back to what there was.
        """
        held: list[pa.RecordBatch] = []
        for batch in batches:
            if not batch.num_rows:
                continue
            last = int(run_starts([batch.column(self.user)])[-1])
            if last:
                yield self._laid([*held, batch.slice(0, last)])
                held = [batch.slice(last)]
            elif held and not held[-1].column(self.user).slice(0, 1).equals(batch.column(self.user).slice(0, 1)):
                yield self._laid(held)
                held = [batch]
            else:
                # The user may go on in the next batch.
                held.append(batch)
        if held:
            yield self._laid(held)

    def _laid(self, batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        whole = len(batches) == 1
        batch = batches[0] if whole else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        starts = run_starts([batch.column(self.user)])
        users = np.repeat(np.arange(len(starts)), run_lengths(starts, batch.num_rows))
        made: dict[str, pa.Array] = {}
        for group in self.groups:
            made |= self._group(batch, group, users, starts)
        gone = {name for group in self.groups for name in (group.runs, group.end)}
        arrays = {n: batch.column(n) for n in batch.schema.names if n not in gone} | made
        return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))

    def _group(self, batch: pa.RecordBatch, group: AnewGroup, users: Int64, firsts: Int64) -> dict[str, pa.Array]:
        spans, offsets = list_parts(batch.column(group.runs))
        counts, rows = np.diff(offsets), batch.num_rows
        starts, lengths = (_numbers(part) for part in spans.flatten())
        owners = np.repeat(users, counts)
        # Others have changed such rows: ``check`` tells.
        sound = np.ones(len(firsts), dtype=np.bool_)
        sound[owners[(starts < 0) | (lengths <= 0)]] = False
        ends = _numbers(batch.column(group.end))
        sound &= ends[firsts] >= 0
        found = np.flatnonzero((counts > 0) & sound[users])
        runs = ranges(offsets[:-1][found], counts[found])
        named = Named(
            users[found], len(firsts), offsets_from_lengths(counts[found]), starts[runs], lengths[runs]
        )  # fmt: skip
        anew = in_order(named)
        before, after = (
            np.bincount(named.users, weights=n, minlength=len(firsts)) for n in (named.runs, np.diff(anew.run_offsets))
        )
        laid = anew.fits & (before > after) & (before - after >= self.share * before)
        if not leads_back(named, anew):
            raise StorageError(
                f"lists of {group.runs} that were laid anew do not lead back to what there was",
                expected="the events that each list named",
                fix="Nothing was published. Please report it.",
            )
        return {
            group.anew: _runs(anew, found, laid[named.users], ends[found], rows),
            group.moves: _moves(anew, firsts, laid, ends[firsts], rows),
        }


def leads_back(named: Named, anew: Anew) -> bool:
    """Whether the new runs, by way of what is copied, are the runs that there were; of users that fit."""
    owners = np.repeat(np.arange(named.num_users), np.diff(anew.move_offsets))
    lists = np.repeat(np.arange(len(named.users)), np.diff(anew.run_offsets))
    users, stops = named.users[lists], anew.starts + anew.lengths
    span = int((anew.new + anew.sizes).max(initial=0)) + 1
    pieces = owners * span + anew.new
    # Copies follow each other from 0 on, up to the last one that a list names.
    ends, total = np.zeros(named.num_users, dtype=np.int64), offsets_from_lengths(anew.sizes)
    np.maximum.at(ends, users, stops)
    expected = offsets_from_lengths(ends)
    if not np.array_equal(total[anew.move_offsets], expected) or np.any(anew.new + expected[owners] != total[:-1]):
        return False
    first = np.searchsorted(pieces, users * span + anew.starts, side="right") - 1
    last = np.searchsorted(pieces, users * span + stops, side="left")
    if np.any(first < 0):
        return False
    at, run = ranges(first, last - first), np.repeat(np.arange(len(lists)), last - first)
    low = np.maximum(anew.starts[run], anew.new[at])
    high = np.minimum(stops[run], anew.new[at] + anew.sizes[at])
    if int((high - low).sum()) != int(anew.lengths.sum()):
        # A run leads where nothing is copied.
        return False
    back = _joined(lists[run], anew.old[at] + low - anew.new[at], high - low)
    kept = np.repeat(anew.fits[named.users], named.runs)
    there = _joined(
        np.repeat(np.arange(len(named.users)), named.runs)[kept], named.starts[kept], named.lengths[kept]
    )  # fmt: skip
    return all(np.array_equal(a, b) for a, b in zip(back, there, strict=True))


def _joined(lists: Int64, starts: Int64, lengths: Int64) -> tuple[Int64, ...]:
    """Runs that follow each other in a list as one: its list, its start, its length."""
    heads = np.ones(len(lists), dtype=np.bool_)
    heads[1:] = (lists[1:] != lists[:-1]) | (starts[1:] != starts[:-1] + lengths[:-1])
    at = np.flatnonzero(heads)
    return lists[at], starts[at], np.add.reduceat(lengths, at) if len(at) else lengths


def _numbers(column: pa.Array) -> Int64:
    return column.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _runs(anew: Anew, found: Int64, laid: Bools, ends: Int64, rows: int) -> pa.Array:
    """New runs of each row, null where nothing changes. (rows,)."""
    counts = np.diff(anew.run_offsets)
    runs = ranges(anew.run_offsets[:-1], np.where(laid, counts, 0))
    starts = anew.starts[runs] + np.repeat(ends, np.where(laid, counts, 0))
    values = pa.StructArray.from_arrays(
        [pa.array(starts), pa.array(anew.lengths[runs].astype(np.int32))], fields=list(_RUN)
    )
    return _listed(found[laid], counts[laid], values, rows)


def _moves(anew: Anew, firsts: Int64, laid: Bools, ends: Int64, rows: int) -> pa.Array:
    """What is copied, in the first row of each user. (rows,)."""
    counts = np.diff(anew.move_offsets)
    pieces = ranges(anew.move_offsets[:-1], np.where(laid, counts, 0))
    new = anew.new[pieces] + np.repeat(ends, np.where(laid, counts, 0))
    values = pa.StructArray.from_arrays(
        [pa.array(anew.old[pieces]), pa.array(new), pa.array(anew.sizes[pieces])], fields=list(_MOVE)
    )
    return _listed(firsts[laid], counts[laid], values, rows)


def _listed(at: Int64, counts: Int64, values: pa.Array, rows: int) -> pa.Array:
    """Lists of some rows, null in the others."""
    lengths, missing = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=np.bool_)
    lengths[at], missing[at] = counts, False
    offsets = pa.array(offsets_from_lengths(lengths).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))

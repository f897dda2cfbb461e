"""From windows back to the lists that were logged, and the proof that they are the same, value for value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.model import Bools, Events, Lists, Windows

__all__ = ["differing", "events_after", "identical", "rebuild"]

_SLICE_TOKENS = 1_000_000


def rebuild(windows: Windows, users: Int64, events: Events) -> tuple[Int64, Mapping[str, pa.Array]]:
    """The lists of some requests from the users' lists; a list that is kept comes out empty.

    Args:
        windows: Where they stand.
        users: (lists,) int64, the user of each.
        events: The users' lists.

    Returns:
        (lists + 1,) int64 offsets, and the values of each column.
    """
    owners = np.repeat(users, windows.runs)
    places = ranges(events.offsets[owners] + windows.starts, windows.lengths)
    ends = np.concatenate([[0], np.cumsum(windows.lengths)]).astype(np.int64)
    chosen = pa.array(places)
    return ends[windows.run_offsets], {name: values.take(chosen) for name, values in events.columns.items()}


def events_after(stored: Events, lists: Lists, windows: Windows) -> Events:
    """The users' lists with what they grew by."""
    order, offsets = _grown(stored, windows)
    chosen = pa.array(order)
    columns = {name: _together(stored, lists, name).take(chosen) for name in lists.columns}
    return Events(offsets, columns)


def _grown(stored: Events, windows: Windows) -> tuple[Int64, Int64]:
    """Of each event of the users' lists its place among the stored events and, after these, the tokens."""
    before, added = np.diff(stored.offsets), np.diff(windows.new_offsets)
    offsets = offsets_from_lengths(before + added)
    order = np.empty(int(offsets[-1]), dtype=np.int64)
    order[ranges(offsets[:-1], before)] = np.arange(int(stored.offsets[-1]))
    order[ranges(offsets[:-1] + before, added)] = windows.new + int(stored.offsets[-1])
    return order, offsets


def _together(stored: Events, lists: Lists, name: str) -> pa.Array:
    if not len(stored.columns[name]):
        return lists.columns[name]
    return pa.concat_arrays([stored.columns[name], lists.columns[name]])


def differing(lists: Lists, stored: Events, windows: Windows) -> Bools:
    """Which lists do not come back from their windows, value for value; kept ones count as right. (lists,) bool.

    Hashes propose windows, this decides: a list that two equal hashes of different values misled stays a list.
    """
    order, offsets = _grown(stored, windows)
    first = int(stored.offsets[-1])
    wrong = np.zeros(len(lists.users), dtype=np.bool_)
    values = {name: _together(stored, lists, name) for name in lists.columns}
    run_ends = np.concatenate([[0], np.cumsum(windows.lengths)]).astype(np.int64)
    lengths = np.where(windows.kept, 0, lists.lengths)
    wrong |= np.diff(run_ends[windows.run_offsets]) != lengths
    owners = np.repeat(lists.users, windows.runs)
    starts = offsets[owners] + windows.starts
    for a, b in _slices(offsets_from_lengths(lengths)):
        runs = slice(int(windows.run_offsets[a]), int(windows.run_offsets[b]))
        there = order[ranges(starts[runs], windows.lengths[runs])]
        sound = np.where(wrong[a:b], 0, lengths[a:b])
        if int(sound.sum()) != len(there):
            wrong[a:b] = True
            continue
        here = ranges(lists.offsets[a:b], sound) + first
        # A token that is itself the event needs no comparison.
        moved = np.flatnonzero(there != here)
        alike = np.ones(len(moved), dtype=np.bool_)
        for column in values.values():
            alike &= identical(column.take(pa.array(there[moved])), column.take(pa.array(here[moved])))
        rows = np.searchsorted(np.cumsum(sound), moved[~alike], side="right")
        wrong[a + rows] = True
    return wrong & ~windows.kept


def _slices(offsets: Int64) -> Iterator[tuple[int, int]]:
    """Ranges of lists with about as many tokens as are compared at once."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _SLICE_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def identical(left: pa.Array, right: pa.Array) -> Bools:
    """Whether values of one type are the same, bit for bit; nulls are the same as nulls. Two of (n,) -> (n,) bool."""
    kind = left.type
    if pa.types.is_dictionary(kind):
        return identical(left.dictionary_decode(), right.dictionary_decode())
    if pa.types.is_null(kind):
        return np.ones(len(left), dtype=np.bool_)
    here, there = (side.is_null().to_numpy(zero_copy_only=False) for side in (left, right))
    return np.where(here | there, here & there, _same_values(left, right))


def _same_values(left: pa.Array, right: pa.Array) -> Bools:
    """Whether values are the same where both sides have one."""
    kind = left.type
    if pa.types.is_struct(kind):
        parts = [identical(a, b) for a, b in zip(left.flatten(), right.flatten(), strict=True)]
        return np.logical_and.reduce(parts) if parts else np.ones(len(left), dtype=np.bool_)
    if pa.types.is_map(kind):
        plain = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        return _same_values(left.cast(plain), right.cast(plain))
    if pa.types.is_fixed_size_list(kind):
        return _same_values(left.cast(pa.list_(kind.value_type)), right.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        (here, starts), (there, others) = list_parts(left), list_parts(right)
        lengths = np.diff(starts)
        same = lengths == np.diff(others)
        counts = np.where(same, lengths, 0)
        inner = identical(
            here.take(pa.array(ranges(starts[:-1], counts))), there.take(pa.array(ranges(others[:-1], counts)))
        )
        unlike = np.searchsorted(np.cumsum(counts), np.flatnonzero(~inner), side="right")
        same[unlike] = False
        return same
    if pa.types.is_floating(kind):
        whole = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]
        left, right = left.view(whole), right.view(whole)
    return np.asarray(pc.fill_null(pc.equal(left, right), False).to_numpy(zero_copy_only=False), dtype=np.bool_)

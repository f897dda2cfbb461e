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

__all__ = ["differing", "events_after", "grown", "identical", "rebuild"]

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
    new = pa.array(windows.new)
    return grown(stored, np.diff(windows.new_offsets), {n: values.take(new) for n, values in lists.columns.items()})


def grown(stored: Events, counts: Int64, new: Mapping[str, pa.Array]) -> Events:
    """The users' lists with new events behind those of each user.

    Args:
        stored: The lists so far.
        counts: (users,) int64, new events of each.
        new: Column -> (new events,) values, user by user, in order of position.
    """
    before = np.diff(stored.offsets)
    offsets = offsets_from_lengths(before + counts)
    if not before.any():
        return Events(offsets, new)
    order = np.empty(int(offsets[-1]), dtype=np.int64)
    order[ranges(offsets[:-1], before)] = np.arange(int(stored.offsets[-1]))
    order[ranges(offsets[:-1] + before, counts)] = np.arange(int(counts.sum())) + int(stored.offsets[-1])
    chosen = pa.array(order)
    columns = {name: pa.concat_arrays([stored.columns[name], values]).take(chosen) for name, values in new.items()}
    return Events(offsets, columns)


def differing(lists: Lists, windows: Windows, events: Events) -> Bools:
    """Which lists do not come back from their windows, value for value; kept ones count as right. (lists,) bool.

    Hashes propose windows, this decides: a list that two equal hashes of different values misled stays a list.

    Args:
        lists: What was logged.
        windows: Where the lists stand.
        events: The users' lists with what they grew by.
    """
    lengths = np.where(windows.kept, 0, lists.lengths)
    wrong = np.diff(offsets_from_lengths(windows.lengths)[windows.run_offsets]) != lengths
    owners = np.repeat(lists.users, windows.runs)
    starts = events.offsets[owners] + windows.starts
    outside = (windows.starts < 0) | (windows.lengths < 0) | (starts + windows.lengths > events.offsets[owners + 1])
    wrong[np.repeat(np.arange(len(wrong)), windows.runs)[outside]] = True
    lengths = np.where(wrong, 0, lengths)
    counts = np.where(wrong, 0, windows.runs)
    for a, b in _slices(offsets_from_lengths(lengths)):
        part = slice(a, b)
        runs = ranges(windows.run_offsets[:-1][part], counts[part])
        there = pa.array(ranges(starts[runs], windows.lengths[runs]))
        alike = np.ones(len(there), dtype=np.bool_)
        for name, values in lists.columns.items():
            here = _tokens(values, lists.offsets[a : b + 1], lengths[part])
            alike &= identical(events.columns[name].take(there), here)
        wrong[a + np.searchsorted(np.cumsum(lengths[part]), np.flatnonzero(~alike), side="right")] = True
    return wrong & ~windows.kept


def _tokens(values: pa.Array, offsets: Int64, lengths: Int64) -> pa.Array:
    """Tokens of lists that lie one behind the other; of some none."""
    if np.array_equal(np.diff(offsets), lengths):
        return values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return values.take(pa.array(ranges(offsets[:-1], lengths)))


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
    if not left.null_count and not right.null_count:
        return _same_values(left, right)
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
    same = pc.equal(left, right)
    same = pc.fill_null(same, False) if same.null_count else same
    return np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)

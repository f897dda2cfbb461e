"""One split's sequence: its windows, their shuffled requests, and where its batches are cut. NumPy alone.

A split decodes windows, each holding blocks of several units, and shuffles the requests of a window; its batches are
cut from the sequence of its windows. All of it is planned window by window, as far as it is asked for: a unit's lengths
are needed when its first window is planned, and no more once its last one is.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64

__all__ = ["Block", "Items", "OrderOptions", "PlannedWindow", "SizesOf", "SplitOrder", "UnitSizes", "greedy_bounds"]


@dataclass(frozen=True)
class UnitSizes:
    """What the order needs of a unit.

    Attributes:
        lengths: (n,) impressions of each request.
        cost: (n,) what each request counts towards ``batch_size``.
        request_bytes: Decoded bytes of a request's own columns.
        impression_bytes: The same for one impression.
        groups: (n,) first of the requests that the shuffle keeps each with; ``None`` where each stands alone.
    """

    lengths: npt.NDArray[np.int32]
    cost: Int64
    request_bytes: float
    impression_bytes: float
    groups: Int64 | None = None

    def block_bounds(self, block_bytes: float) -> Int64:
        """Rows at which blocks of about ``block_bytes`` decoded bytes begin, and the end."""
        rows = len(self.lengths)
        sizes = self.request_bytes + self.impression_bytes * self.lengths.astype(np.float64)
        before = np.cumsum(sizes) - sizes
        block = np.floor(before / max(block_bytes, 1.0))
        return np.append(np.flatnonzero(np.diff(block, prepend=-1.0)), rows).astype(np.int64)


class SizesOf(Protocol):
    """All units' sizes by number; those of one are found when they are asked for."""

    def __getitem__(self, unit: int, /) -> UnitSizes: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class OrderOptions:
    """Options that the order depends on."""

    batch_size: int
    splits: int
    shuffle: bool
    seed: int
    buffer_bytes: int
    mix: int
    split_oversize: bool = False
    drop_last: bool = False


@dataclass(frozen=True)
class Items:
    """The requests of one batch, by their place in the split's sequence.

    Attributes:
        requests: (R,) ascending.
        starts: (R,) first impression of each; ``None`` takes all of every request.
        stops: (R,) last impression, exclusive; may lie beyond the request's end.
        continues: The first request began in the batch before.
        continued: The last request goes on in the next batch.
    """

    requests: Int64
    starts: Int64 | None = None
    stops: Int64 | None = None
    continues: bool = False
    continued: bool = False


@dataclass(frozen=True)
class Block:
    """Requests ``start`` to ``stop`` of one unit."""

    unit: int
    start: int
    stop: int


@dataclass(frozen=True)
class PlannedWindow:
    """One window.

    Attributes:
        blocks: The next block of each of several units.
        order: (n,) which of its requests, block after block, comes first, second, ...; ``None`` leaves them.
        costs: (n,) what each counts towards ``batch_size``, in that order.
    """

    blocks: list[Block]
    order: Int64 | None
    costs: Int64


def greedy_bounds(costs: Int64, size: int) -> Int64:
    """Cut a sequence into batches of at most ``size``; an element larger than that is alone.

    Returns:
        (num_batches + 1,) int64 offsets into the sequence.
    Example: greedy_bounds([2, 2, 9, 1], 4) -> [0, 2, 3, 4]
    """
    # Numbers of a memoryview are Python's own: bisecting them costs less than a call of NumPy.
    ends = offsets_from_lengths(costs).data
    bounds, place, total = [0], 0, len(costs)
    while place < total:
        place = max(bisect_right(ends, ends[place] + size, place + 1) - 1, place + 1)
        bounds.append(place)
    return np.array(bounds, dtype=np.int64)


class SplitOrder:
    """One split's windows and batches, planned as far as they are asked for; several threads may ask.

    Args:
        sizes: All units.
        first_request: Number of each unit's first request, over all units.
        units: The split's units, in order.
        options: The order's options.
        key: Mixed from seed, epoch and split.
    """

    def __init__(
        self, sizes: SizesOf, first_request: Int64, units: Sequence[int], options: OrderOptions, key: int
    ) -> None:
        self._sizes, self._first, self._units, self._options, self._key = sizes, first_request, units, options, key
        self._lock = threading.RLock()
        self._walk = self._plan()
        self._windows: dict[int, PlannedWindow] = {}
        # Place of each window's first request in the split's sequence; where its batches are cut in that of its items.
        self._offsets, self._bounds = array("q", [0]), array("q", [0])
        # Items behind the last cut: what each costs, its request's place, and which part of it it is.
        nothing = np.empty(0, dtype=np.int64)
        self._costs, self._owners, self._within = nothing, nothing, nothing
        self._parts: dict[int, Items] = {}
        self._ended = False
        self._failed: Exception | None = None

    # -- planning -----------------------------------------------------------------------------------------------
    def _plan(self) -> Iterator[PlannedWindow]:
        """Windows: the next block of each of ``mix`` units, a finished unit making way for another."""
        options = self._options
        mix = min(options.mix, max(len(self._units), 1)) if options.shuffle else 1
        # Half of the buffer is for the window at hand, half for the next.
        block_bytes = options.buffer_bytes / options.splits / mix / 2
        waiting = deque(self._units)
        active: list[tuple[UnitSizes, deque[Block]]] = []
        while waiting or active:
            while waiting and len(active) < mix:
                unit = waiting.popleft()
                sizes = self._sizes[unit]
                bounds = sizes.block_bounds(block_bytes).tolist()
                if len(sizes.lengths):
                    active.append((sizes, deque(Block(unit, a, b) for a, b in pairwise(bounds))))
            if not active:
                return
            chosen = [(sizes, blocks.popleft()) for sizes, blocks in active]
            active = [(sizes, blocks) for sizes, blocks in active if blocks]
            costs = np.concatenate([sizes.cost[b.start : b.stop] for sizes, b in chosen]).astype(np.int64)
            order = self._shuffled(chosen)
            yield PlannedWindow([b for _, b in chosen], order, costs if order is None else costs[order])

    def _shuffled(self, chosen: Sequence[tuple[UnitSizes, Block]]) -> Int64 | None:
        if not self._options.shuffle:
            return None
        # Requests of one group have one number, and a stable order leaves them one after the other.
        rows = [np.arange(b.start, b.stop) if s.groups is None else s.groups[b.start : b.stop] for s, b in chosen]
        numbers = np.concatenate([own + self._first[b.unit] for own, (_, b) in zip(rows, chosen, strict=True)])
        # Sorting by a hash of the request's number is a shuffle that no library release can change.
        return np.argsort(mix64(numbers.astype(np.uint64) ^ np.uint64(self._key)), kind="stable")

    def advance(self) -> bool:
        """Plan one more window; whether there was one.

        Raises:
            DedupStorageError: a unit's keys cannot be read; whoever asks again is told so again.
        """
        with self._lock:
            if self._failed is not None:
                raise self._failed
            try:
                window = next(self._walk, None)
            except Exception as error:
                # Planning cannot go on behind an error: the split would seem to end there.
                self._failed = error
                raise
            if window is not None:
                self._windows[len(self._offsets) - 1] = window
                self._cut(window.costs)
                self._offsets.append(self._offsets[-1] + len(window.costs))
            elif not self._ended:
                self._end()
                self._ended = True
            return window is not None

    def _cut(self, costs: Int64) -> None:
        """Cut all batches that the requests of another window complete."""
        size = self._options.batch_size
        requests = self._offsets[-1] + np.arange(len(costs), dtype=np.int64)
        within = np.zeros(len(costs), dtype=np.int64)
        if self._options.split_oversize and np.any(costs > size):
            # A request above the batch size is several items of at most that.
            parts = np.maximum(-(-costs // size), 1)
            within = np.arange(int(parts.sum())) - np.repeat(offsets_from_lengths(parts)[:-1], parts)
            costs, requests = np.repeat(costs, parts), np.repeat(requests, parts)
            costs = np.minimum(costs - within * size, size)
        self._costs = np.concatenate([self._costs, costs])
        self._owners = np.concatenate([self._owners, requests])
        self._within = np.concatenate([self._within, within])
        bounds = greedy_bounds(self._costs, size)
        # More may come to the last batch.
        if np.any(self._within):
            for start, stop in pairwise(bounds[:-1].tolist()):
                self._add(start, stop)
        else:
            self._bounds.extend((self._owners[bounds[1:-1] - 1] + 1).tolist())
        left = int(bounds[-2]) if len(bounds) > 1 else 0
        self._costs, self._owners, self._within = self._costs[left:], self._owners[left:], self._within[left:]

    def _add(self, start: int, stop: int) -> None:
        """One more batch of the items behind the last cut."""
        owners, within, size = self._owners[start:stop], self._within[start:stop], self._options.batch_size
        continued = stop < len(self._owners) and bool(self._owners[stop] == owners[-1])
        if continued or np.any(within):
            items = Items(owners, within * size, (within + 1) * size, bool(within[0] > 0), continued)
            self._parts[len(self._bounds) - 1] = items
        self._bounds.append(int(owners[-1]) + (0 if continued else 1))

    def _end(self) -> None:
        short = int(self._costs.sum()) < self._options.batch_size
        if len(self._costs) and not (short and self._options.drop_last):
            self._add(0, len(self._costs))

    # -- what was planned ---------------------------------------------------------------------------------------
    def has(self, number: int, *, keep: bool = True) -> bool:
        """Whether there is a batch of that number; plans no further than it must.

        Args:
            keep: Whether windows planned on the way are kept to be decoded.
        """
        with self._lock:
            while number >= len(self._bounds) - 1 and not self._ended:
                self.advance()
                if not keep:
                    self.drop()
            return number < len(self._bounds) - 1

    def has_window(self, number: int) -> bool:
        """Whether there is a window of that number."""
        with self._lock:
            while number >= len(self._offsets) - 1 and not self._ended:
                self.advance()
            return number < len(self._offsets) - 1

    def items(self, number: int) -> Items:
        """The requests of one batch; what lies before it is forgotten."""
        with self._lock:
            while number >= len(self._bounds) - 1 and not self._ended:
                self.forget(self.window_of(self._bounds[-1]))
                self.advance()
            for passed in [n for n in self._parts if n < number]:
                del self._parts[passed]
            found = self._parts.get(number)
            return Items(np.arange(*self._bounds[number : number + 2], dtype=np.int64)) if found is None else found

    def span(self, number: int) -> tuple[int, int] | None:
        """The same as ``items``: the batch's first request and the one behind its last; ``None`` where it has parts."""
        # In this order: another thread may be planning, and adds parts before the batch that has them.
        if number >= len(self._bounds) - 1 or self._parts:
            return None
        return self._bounds[number], self._bounds[number + 1]

    def window_of(self, request: int) -> int:
        """The window of a request's place in the sequence; one that is not planned yet is the next."""
        return bisect_right(self._offsets, request) - 1

    def window(self, number: int) -> PlannedWindow:
        """A window that is planned, and not forgotten."""
        return self._windows[number]

    def coming(self, number: int) -> PlannedWindow | None:
        """A window, planned now if need be; ``None`` where there is none of that number, or it was passed already."""
        with self._lock:
            return self._windows.get(number) if self.has_window(number) else None

    def offset(self, window: int) -> int:
        """Place of a window's first request in the split's sequence."""
        return self._offsets[window]

    def forget(self, window: int) -> None:
        """Let go of all windows before one."""
        with self._lock:
            for passed in [n for n in self._windows if n < window]:
                del self._windows[passed]

    def drop(self) -> None:
        """Keep no window: batches are counted alone, and nothing is decoded."""
        with self._lock:
            self._windows.clear()
            self._parts.clear()

    @property
    def num_planned(self) -> int:
        """Batches so far."""
        return len(self._bounds) - 1

    @property
    def num_batches(self) -> int:
        """Batches of this split: plans all that is left."""
        while self.advance():
            continue
        return len(self._bounds) - 1

    @property
    def windows(self) -> list[list[Block]]:
        """Blocks of each window: plans all that is left."""
        count = self.num_batches and len(self._windows)
        return [self._windows[number].blocks for number in range(count)]

    def permutation(self, window: int) -> Int64:
        """The shuffled order of a window's requests; its blocks lie one after the other."""
        planned = self._windows[window]
        return np.arange(len(planned.costs), dtype=np.int64) if planned.order is None else planned.order

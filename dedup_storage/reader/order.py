"""The order of an epoch: a pure function of the index, the options, the seed and the epoch. NumPy alone.

Requests are dealt to logical splits by unit. A split decodes windows, each holding blocks of several units, and
shuffles the requests of a window; its batches are cut from the sequence of its windows. The epoch's sequence of
batches takes one batch of each split in turn. Neither ranks nor workers occur in any of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.hashing import combine, mix64

__all__ = ["Block", "EpochOrder", "OrderOptions", "SplitOrder", "UnitSizes", "greedy_bounds"]

_UNITS, _ROWS = 1, 2


@dataclass(frozen=True)
class UnitSizes:
    """What the order needs of a unit.

    Attributes:
        lengths: (n,) impressions of each request.
        cost: (n,) what each request counts towards ``batch_size``.
        request_bytes: Decoded bytes of a request's own columns.
        impression_bytes: The same for one impression.
    """

    lengths: npt.NDArray[np.int32]
    cost: Int64
    request_bytes: float
    impression_bytes: float

    def block_bounds(self, block_bytes: float) -> Int64:
        """Rows at which blocks of about ``block_bytes`` decoded bytes begin, and the end."""
        rows = len(self.lengths)
        sizes = self.request_bytes + self.impression_bytes * self.lengths.astype(np.float64)
        before = np.cumsum(sizes) - sizes
        block = np.floor(before / max(block_bytes, 1.0))
        return np.append(np.flatnonzero(np.diff(block, prepend=-1.0)), rows).astype(np.int64)


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
class Block:
    """Requests ``start`` to ``stop`` of one unit."""

    unit: int
    start: int
    stop: int


def greedy_bounds(costs: Int64, size: int) -> Int64:
    """Cut a sequence into batches of at most ``size``; an element larger than that is alone.

    Returns:
        (num_batches + 1,) int64 offsets into the sequence.
    Example: greedy_bounds([2, 2, 9, 1], 4) -> [0, 2, 3, 4]
    """
    ends = offsets_from_lengths(costs)
    bounds, place, total = [0], 0, len(costs)
    while place < total:
        place = max(int(np.searchsorted(ends, ends[place] + size, side="right")) - 1, place + 1)
        bounds.append(place)
    return np.array(bounds, dtype=np.int64)


class SplitOrder:
    """One split's windows, its shuffled sequence of requests, and where its batches are cut.

    Args:
        sizes: All units.
        first_request: Number of each unit's first request, over all units.
        units: The split's units, in order.
        options: The order's options.
        key: Mixed from seed, epoch and split.
    """

    def __init__(
        self, sizes: Sequence[UnitSizes], first_request: Int64, units: Sequence[int], options: OrderOptions, key: int
    ) -> None:
        self._sizes, self._first, self._units, self._options, self._key = sizes, first_request, units, options, key

    @cached_property
    def windows(self) -> list[list[Block]]:
        """Blocks of each window: the next block of each of ``mix`` units, a finished unit making way for another."""
        options = self._options
        mix = options.mix if options.shuffle else 1
        # Half of the buffer is for the window at hand, half for the next.
        block_bytes = options.buffer_bytes / options.splits / mix / 2
        waiting = list(reversed(self._units))
        active: list[list[Block]] = []
        windows: list[list[Block]] = []
        while waiting or active:
            while waiting and len(active) < mix:
                unit = waiting.pop()
                bounds = self._sizes[unit].block_bounds(block_bytes).tolist()
                active.append([Block(unit, a, b) for a, b in pairwise(bounds)][::-1])
            windows.append([blocks.pop() for blocks in active])
            active = [blocks for blocks in active if blocks]
        return windows

    @cached_property
    def window_offsets(self) -> Int64:
        """(num_windows + 1,) place of each window's first request in the split's sequence."""
        return offsets_from_lengths([sum(b.stop - b.start for b in w) for w in self.windows])

    def permutation(self, window: int) -> Int64:
        """The shuffled order of a window's requests; its blocks lie one after the other."""
        blocks = self.windows[window]
        if not self._options.shuffle:
            return np.arange(self.window_offsets[window + 1] - self.window_offsets[window], dtype=np.int64)
        numbers = np.concatenate([np.arange(b.start, b.stop) + self._first[b.unit] for b in blocks])
        # Sorting by a hash of the request's number is a shuffle that no library release can change.
        return np.argsort(mix64(numbers.astype(np.uint64) ^ np.uint64(self._key)), kind="stable")

    def _sequence(self, name: str) -> Int64:
        parts = [np.empty(0, dtype=np.int64)]
        for window, blocks in enumerate(self.windows):
            values = np.concatenate([getattr(self._sizes[b.unit], name)[b.start : b.stop] for b in blocks])
            parts.append(values[self.permutation(window)].astype(np.int64))
        return np.concatenate(parts)

    @cached_property
    def bounds(self) -> Int64:
        """(num_batches + 1,) where the batches are cut in the split's sequence of items."""
        bounds = greedy_bounds(self.item_costs, self._options.batch_size)
        short = len(bounds) > 1 and int(self.item_costs[bounds[-2] :].sum()) < self._options.batch_size
        return bounds[:-1] if short and self._options.drop_last else bounds

    @cached_property
    def item_costs(self) -> Int64:
        """What each item counts; an item is a request, or a part of one that was split."""
        costs = self._sequence("cost")
        if not self._options.split_oversize:
            return costs
        return self._pieces(costs)[1]

    def _pieces(self, costs: Int64) -> tuple[Int64, Int64]:
        """(request, cost) of each item when requests above the batch size are cut into batches."""
        size = self._options.batch_size
        parts = np.maximum(-(-costs // size), 1)
        request = np.repeat(np.arange(len(costs), dtype=np.int64), parts)
        within = np.arange(len(request)) - np.repeat(offsets_from_lengths(parts)[:-1], parts)
        return request, np.minimum(costs[request] - within * size, size)

    @cached_property
    def item_requests(self) -> Int64 | None:
        """Place in the split's sequence of requests of each item; ``None`` when items are requests."""
        return self._pieces(self._sequence("cost"))[0] if self._options.split_oversize else None

    @property
    def num_batches(self) -> int:
        """Batches of this split."""
        return len(self.bounds) - 1


class EpochOrder:
    """The sequence of batches of one epoch.

    Args:
        sizes: All units, in the order of the plan.
        options: The order's options.
        epoch: The epoch.
    """

    def __init__(self, sizes: Sequence[UnitSizes], options: OrderOptions, epoch: int) -> None:
        self.options, self.epoch = options, epoch
        self._sizes = sizes
        first = offsets_from_lengths([len(s.lengths) for s in sizes])
        key = combine(options.seed, epoch)
        self.splits = tuple(
            SplitOrder(sizes, first, units, options, combine(key, _ROWS, split))
            for split, units in enumerate(self._deal(combine(key, _UNITS)))
        )

    def _deal(self, key: int) -> list[list[int]]:
        """Units of each split: in shuffled order, each to the split that has least to do."""
        order = np.arange(len(self._sizes))
        if self.options.shuffle:
            order = np.argsort(mix64(order.astype(np.uint64) ^ np.uint64(key)), kind="stable")
        load = [(0, split) for split in range(self.options.splits)]
        dealt: list[list[int]] = [[] for _ in load]
        for unit in order.tolist():
            cost, split = heapq.heappop(load)
            dealt[split].append(unit)
            heapq.heappush(load, (cost + int(self._sizes[unit].cost.sum()), split))
        return dealt

    @cached_property
    def sequence(self) -> npt.NDArray[np.int32]:
        """(num_batches, 2) int32: split and number in the split of every batch of the epoch, in order."""
        counts = np.array([s.num_batches for s in self.splits], dtype=np.int64)
        split = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(split)) - np.repeat(offsets_from_lengths(counts)[:-1], counts)
        order = np.lexsort((split, number))
        return np.stack([split[order], number[order]], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.sequence)

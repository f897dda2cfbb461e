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
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.hashing import combine

__all__ = ["Block", "EpochOrder", "Items", "OrderOptions", "SplitOrder", "UnitSizes", "greedy_bounds"]

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
        mix = min(options.mix, max(len(self._units), 1)) if options.shuffle else 1
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
    def _pieces(self) -> tuple[Int64 | None, Int64]:
        """Place of each item's request in the split's sequence (``None``: items are requests), and its cost.

        With ``split_oversize`` a request above the batch size is several items of at most that.
        """
        costs, size = self._sequence("cost"), self._options.batch_size
        if not self._options.split_oversize or not np.any(costs > size):
            return None, costs
        parts = np.maximum(-(-costs // size), 1)
        request = np.repeat(np.arange(len(costs), dtype=np.int64), parts)
        within = np.arange(len(request)) - np.repeat(offsets_from_lengths(parts)[:-1], parts)
        return request, np.minimum(costs[request] - within * size, size)

    @cached_property
    def bounds(self) -> Int64:
        """(num_batches + 1,) where the batches are cut in the split's sequence of items."""
        size, costs = self._options.batch_size, self._pieces[1]
        bounds = greedy_bounds(costs, size)
        short = len(bounds) > 1 and int(costs[bounds[-2] :].sum()) < size
        return bounds[:-1] if short and self._options.drop_last else bounds

    def items(self, number: int) -> Items:
        """The requests of one batch."""
        start, stop = int(self.bounds[number]), int(self.bounds[number + 1])
        requests = self._pieces[0]
        if requests is None:
            return Items(np.arange(start, stop, dtype=np.int64))
        owners = requests[start:stop]
        within = np.arange(start, stop) - np.searchsorted(requests, owners)
        size = self._options.batch_size
        continued = stop < len(requests) and int(requests[stop]) == int(owners[-1])
        return Items(owners, within * size, (within + 1) * size, bool(within[0] > 0), continued)

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

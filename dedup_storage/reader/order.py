"""The order of an epoch: a pure function of the plan, the options, the seed and the epoch. NumPy alone.

Requests are dealt to logical splits by unit, of which only row counts must be known. The epoch's sequence of batches
takes one batch of each split in turn. Neither ranks nor workers occur in any of it.

How many batches a split has depends on the lengths of all its requests, unless batches count requests. The sequence is
therefore followed batch by batch: what row counts prove is taken as given, and a split is counted only where they do
not say whether it still has a batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import cpu_count

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.hashing import combine
from dedup_storage.reader.sequence import (
    Block,
    Items,
    OrderOptions,
    SizesOf,
    SplitOrder,
    UnitSizes,
    greedy_bounds,
)

__all__ = ["Block", "EpochOrder", "Items", "OrderOptions", "SplitOrder", "UnitSizes", "UnitWeights", "greedy_bounds"]

_UNITS, _ROWS = 1, 2


@dataclass(frozen=True)
class UnitWeights:
    """What is known of units before any of their keys is read.

    Attributes:
        slots: (units,) requests of each, at most.
        weights: (units,) what each counts for when units are dealt to splits.
        least: (units,) what its requests count towards ``batch_size``, at least.
        exact: Whether each has exactly ``slots`` requests, each of which counts one.
    """

    slots: Int64
    weights: Int64
    least: Int64
    exact: bool = False

    @classmethod
    def of(cls, sizes: Iterable[UnitSizes], batch_size: int, *, exact: bool = False) -> UnitWeights:
        """From all units' sizes; a request above the batch size is one batch, whatever it holds."""
        found = [(len(u.lengths), int(u.cost.sum()), int(np.minimum(u.cost, batch_size).sum())) for u in sizes]
        slots, weights, least = np.array(found, dtype=np.int64).reshape(-1, 3).T
        return cls(slots, weights, least, exact)


class EpochOrder:
    """The sequence of batches of one epoch.

    Args:
        sizes: All units, in the order of the plan.
        options: The order's options.
        epoch: The epoch.
        weights: What is known of the units; ``None`` asks for all sizes.
    """

    def __init__(self, sizes: SizesOf, options: OrderOptions, epoch: int, weights: UnitWeights | None = None) -> None:
        self.options, self.epoch = options, epoch
        self._sizes = sizes
        if weights is None:
            weights = UnitWeights.of((sizes[unit] for unit in range(len(sizes))), options.batch_size)
        self._weights = weights
        self._first = offsets_from_lengths(self._weights.slots)
        self._key = combine(options.seed, epoch)
        self.units = self._deal(combine(self._key, _UNITS))
        # Batches of each split at least; and of those that were counted, or need not be.
        least = [int(self._weights.least[units].sum()) for units in self.units]
        if options.drop_last:
            self.at_least = [cost // options.batch_size for cost in least]
        else:
            self.at_least = [-(-cost // options.batch_size) for cost in least]
        known = enumerate(self.at_least) if self._weights.exact else ((s, 0) for s, u in enumerate(self.units) if not u)
        self.counts: dict[int, int] = dict(known)

    def _deal(self, key: int) -> list[list[int]]:
        """Units of each split: in shuffled order, each to the split that has least to do."""
        order = np.arange(len(self._weights.slots))
        if self.options.shuffle:
            order = np.argsort(mix64(order.astype(np.uint64) ^ np.uint64(key)), kind="stable")
        load = [(0, split) for split in range(self.options.splits)]
        dealt: list[list[int]] = [[] for _ in load]
        for unit in order.tolist():
            cost, split = heapq.heappop(load)
            dealt[split].append(unit)
            heapq.heappush(load, (cost + int(self._weights.weights[unit]), split))
        return dealt

    def split(self, number: int) -> SplitOrder:
        """A split's sequence, from its beginning."""
        key = combine(self._key, _ROWS, number)
        return SplitOrder(self._sizes, self._first, self.units[number], self.options, key)

    @cached_property
    def splits(self) -> tuple[SplitOrder, ...]:
        """All splits."""
        return tuple(self.split(number) for number in range(self.options.splits))

    def surely(self, split: int, number: int) -> bool | None:
        """Whether a split has a batch of that number; ``None`` where its requests must be counted."""
        if number < self.at_least[split]:
            return True
        return number < self.counts[split] if split in self.counts else None

    def count(self) -> Int64:
        """(splits,) batches of each split; several are counted at a time."""
        unknown = [split for split in range(self.options.splits) if split not in self.counts]
        if unknown:
            workers = min(8, cpu_count() or 1, len(unknown))
            with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="dedup-count") as pool:
                found = pool.map(self._count, unknown)
                self.counts.update(zip(unknown, found, strict=True))
        return np.array([self.counts[split] for split in range(self.options.splits)], dtype=np.int64)

    def _count(self, split: int) -> int:
        planned = self.split(split)
        while planned.advance():
            planned.drop()
        return planned.num_planned

    def follow(self, start: int, has: Callable[[int, int], bool]) -> Iterator[tuple[int, int, int]]:
        """Batches of the epoch from one on: number in the epoch, split, number in the split.

        Args:
            start: Number of the first.
            has: Tells whether a split has a batch of that number.
        """
        live, index, number = list(range(self.options.splits)), 0, 0
        while live:
            # Rounds in which every split takes part, and that lie before the first batch, need not be looked at.
            whole = min(self.at_least[split] for split in live) - number
            passed = min(max((start - index) // len(live), 0), max(whole, 0))
            index, number = index + passed * len(live), number + passed
            left = []
            for split in live:
                if has(split, number):
                    left.append(split)
                    if index >= start:
                        yield index, split, number
                    index += 1
            live, number = left, number + 1

    @cached_property
    def sequence(self) -> npt.NDArray[np.int32]:
        """(num_batches, 2) int32: split and number in the split of every batch of the epoch, in order; counts all."""
        counts = self.count()
        split = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(split)) - np.repeat(offsets_from_lengths(counts)[:-1], counts)
        order = np.lexsort((split, number))
        return np.stack([split[order], number[order]], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return int(self.count().sum())

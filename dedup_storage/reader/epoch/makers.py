"""Who makes the batches of a pass: a shard all of its own, or each worker of a rank those of some splits for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.epoch.splits import Splits
from dedup_storage.reader.epoch.turns import Turn
from dedup_storage.reader.order import EpochOrder
from dedup_storage.reader.state import Position

__all__ = ["Alone", "Maker", "makers_of"]


class Maker(Protocol):
    """Makes a shard's batches."""

    @property
    def turns(self) -> Iterator[Turn]:
        """The shard's turns, in order."""

    def prepare(self, turn: Turn) -> None:
        """Begin what a coming turn needs first."""

    def batch(self, turn: Turn) -> DedupBatch | None:
        """A turn's batch; turns come in order. ``None`` where nobody wants it any more."""

    def end(self) -> None:
        """There is no further turn."""

    def close(self) -> None:
        """Make nothing more."""


class Alone:
    """Makes each batch when its turn comes.

    Args:
        turns: The shard's turns.
        splits: The splits.
        make: Makes the batch of a turn.
        ahead: Whether threads begin before a batch is asked for.
    """

    def __init__(
        self, turns: Iterator[Turn], splits: Splits, make: Callable[[Turn], DedupBatch], *, ahead: bool
    ) -> None:
        self.turns, self._splits, self._make, self._ahead = turns, splits, make, ahead

    def prepare(self, turn: Turn) -> None:
        """Begin what a coming turn needs first."""
        if self._ahead and turn.split >= 0:
            self._splits.prepare(turn.split, turn.number)

    def batch(self, turn: Turn) -> DedupBatch:
        """A turn's batch."""
        return self._make(turn)

    def end(self) -> None:
        """There is no further turn."""

    def close(self) -> None:
        """Make nothing more."""


def makers_of(order: EpochOrder, base: Position, rank: int, world_size: int, workers: int) -> list[int]:
    """Which worker of a rank makes the batches of each split: who has its first turn, as long as all splits go on.

    The same in all of them, so it rests on nothing that one may know before another.
    """
    live = [split for split in range(order.options.splits) if order.units[split]]
    makers = [split % workers for split in range(order.options.splits)]
    for number in reversed(range(len(live))):
        makers[live[(base.start + number * world_size + rank) % len(live)]] = number % workers
    return makers

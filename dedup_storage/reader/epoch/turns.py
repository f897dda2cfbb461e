"""Which batches are a shard's turn, in order; found while it goes on, without knowing how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from math import gcd
from typing import NamedTuple

from dedup_storage.reader.options import Ends
from dedup_storage.reader.order import EpochOrder
from dedup_storage.reader.state import Position

__all__ = ["Shard", "Turn", "splits_in_turn", "turns"]


@dataclass(frozen=True)
class Shard:
    """Batches ``index``, ``index + count``, ... of those that are left."""

    index: int
    count: int

    def steps(self, left: int, world_size: int, ends: Ends) -> int:
        """Batches of this shard when ``left`` are left in all.

        Every rank has equally many unless ``ends`` is ``uneven``.
        """
        if ends is Ends.DROP:
            left -= left % world_size
        elif ends is not Ends.UNEVEN:
            left += -left % world_size
        return max(0, -(-(left - self.index) // self.count))


class Turn(NamedTuple):
    """One batch to deliver.

    Attributes:
        place: Its place among those that were left.
        in_epoch: Its number in the epoch; of padding, one behind the last.
        split: Its split; -1 for padding.
        number: Its number in the split.
        repeated: Whether another rank, or an earlier step, delivers it too.
    """

    place: int
    in_epoch: int
    split: int
    number: int
    repeated: bool = False


def turns(
    order: EpochOrder, base: Position, shard: Shard, world_size: int, ends: Ends, has: Callable[[int, int], bool]
) -> Iterator[Turn]:
    """A shard's batches of those that are left at a position.

    Rounds hold a batch for every rank; only the last one may lack some.

    Args:
        has: Tells whether a split has a batch of that number.
    """
    done, batches = set(base.done), order.follow(base.start, has)
    worker, rank = divmod(shard.index, world_size)
    total = base.start

    def left() -> Iterator[tuple[int, int, int]]:
        nonlocal total
        for batch in batches:
            total = batch[0] + 1
            if batch[0] not in done:
                yield batch

    rounds = left()
    for number in count():
        found = list(islice(rounds, world_size))
        short = len(found) < world_size
        if not found or (short and ends is Ends.DROP):
            return
        place = number * world_size + rank
        if number % (shard.count // world_size) != worker:
            pass
        elif rank < len(found):
            yield Turn(place, *found[rank])
        elif ends is Ends.PAD:
            yield Turn(place, total, -1, 0, repeated=True)
        elif ends is Ends.REPEAT:
            first = list(islice(order.follow(0, has), world_size))
            yield Turn(place, *first[(rank - len(found)) % len(first)], repeated=True)
        if short:
            return


def splits_in_turn(order: EpochOrder, base: Position, shard: Shard) -> set[int]:
    """Splits whose batches are a shard's turn as long as no split has come to its end."""
    live = [split for split in range(order.options.splits) if order.surely(split, 0) is not False]
    if not live or base.done:
        return set(live)
    step = gcd(shard.count, len(live))
    return {split for place, split in enumerate(live) if (place - base.start - shard.index) % step == 0}

"""Which batches a trainer has received, in whatever order they came."""

from __future__ import annotations

__all__ = ["Tally"]


class Tally:
    """Batches that a trainer received in one pass, in whatever order.

    Args:
        world_size: Ranks that share the epoch.

    Attributes:
        epoch: Their epoch; ``None`` before the first.
        steps: Those received without a gap.
        ahead: Numbers of the others.
        disordered: Whether any came before one that was due earlier.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self.epoch: int | None = None
        self.steps = 0
        self.ahead: set[int] = set()
        self.disordered = False

    def add(self, epoch: int, place: int) -> None:
        """Count a batch by its place among those that were left."""
        self.epoch = epoch
        self.ahead.add(place // self._world_size)
        while self.steps in self.ahead:
            self.ahead.remove(self.steps)
            self.steps += 1
        self.disordered |= bool(self.ahead)

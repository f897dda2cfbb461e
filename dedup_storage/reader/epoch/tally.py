"""Which batches a trainer has received, in whatever order they came."""

from __future__ import annotations

__all__ = ["Tally"]


class Tally:
    """Batches that a trainer received in one pass, in whatever order.

    Args:
        world_size: Ranks that share the epoch.
        ordered: Whether they come in order: then the pass may have begun behind some, as a loader's own state makes it.

    Attributes:
        epoch: Their epoch; ``None`` before the first.
        steps: Those received without a gap.
        ahead: Numbers of the others.
    """

    def __init__(self, world_size: int, ordered: bool) -> None:
        self._world_size, self._ordered = world_size, ordered
        self.epoch: int | None = None
        self.steps = 0
        self.ahead: set[int] = set()

    def add(self, epoch: int, place: int) -> None:
        """Count a batch by its place among those that were left."""
        if self.epoch is None and self._ordered:
            self.steps = place // self._world_size
        self.epoch = epoch
        self.ahead.add(place // self._world_size)
        while self.steps in self.ahead:
            self.ahead.remove(self.steps)
            self.steps += 1

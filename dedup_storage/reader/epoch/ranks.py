"""Which process this is among those that train together."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch.distributed as dist
from torch.utils.data import get_worker_info

from dedup_storage.errors import ConfigError

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """Rank and world size as they were given, or as they are found each time somebody asks.

    A framework may form its group of processes after the dataset was opened: whoever looked only once would take each
    of them for the only one.

    Attributes:
        given: Rank and world size; ``None`` asks torch.distributed, then ``RANK`` and ``WORLD_SIZE``.
        carried: What the main process had found when this was sent to a worker, which belongs to no group.
    """

    given: tuple[int, int] | None = None
    carried: tuple[int, int] | None = None

    @classmethod
    def of(cls, rank: int | None, world_size: int | None) -> Ranks:
        """From the options of the same names.

        Raises:
            ConfigError: only one of the two is given, or the rank lies outside.
        """
        if (rank is None) != (world_size is None):
            raise ConfigError("rank and world_size go together", fix="Give both, or neither.")
        return cls(_checked(rank, world_size) if rank is not None and world_size is not None else None)

    def resolve(self) -> tuple[int, int]:
        """Rank and world size now; 0 of 1 where nothing says otherwise.

        Raises:
            ConfigError: ``WORLD_SIZE`` tells of several processes and nothing tells this one's rank.
        """
        if self.given is not None:
            return self.given
        if self.carried is not None and get_worker_info() is not None:
            return self.carried
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size > 1 and "RANK" not in os.environ:
            raise ConfigError(
                f"WORLD_SIZE tells of {world_size} processes, and nothing tells which of them this is",
                expected="RANK in the environment, or an initialised torch.distributed",
                fix="Open the dataset with rank and world_size, or read it after the processes have met.",
            )
        return _checked(int(os.environ.get("RANK", "0")), world_size)

    def to_worker(self) -> Ranks:
        """The same for a process that may be a worker of this one.

        Where nothing tells this process's rank, the other is told so when it reads: it may be no worker.
        """
        try:
            return Ranks(self.given, self.resolve())
        except ConfigError:
            return Ranks(self.given)


def _checked(rank: int, world_size: int) -> tuple[int, int]:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError("the rank lies outside the world", expected=f"0 to {world_size - 1}", got=str(rank))
    return rank, world_size

"""Which process this is among those that train together."""

from __future__ import annotations

import os

import torch.distributed as dist

from dedup_storage.errors import ConfigError

__all__ = ["resolve_rank"]


def resolve_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: given, else torch.distributed's, else ``RANK`` and ``WORLD_SIZE``, else 0 of 1.

    Raises:
        ConfigError: only one of the two is given, or the rank lies outside.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError("rank and world_size go together", fix="Give both, or neither.")
    if rank is None or world_size is None:
        if dist.is_available() and dist.is_initialized():
            rank, world_size = dist.get_rank(), dist.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError("the rank lies outside the world", expected=f"0 to {world_size - 1}", got=str(rank))
    return rank, world_size

"""The loader that iterates a dataset, and what it may not do with it; told at its first batch, by name.

torch tells a dataset nothing of its loader. The loader is found among the callers: it makes its iterator in a method of
its own, and a worker that is forked keeps the frames it was forked in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, default_collate

from dedup_storage.errors import ConfigError

__all__ = ["check_loader"]

# Wrappers of accelerate that deal the batches of one process out to all of them.
_DEALERS = {"DataLoaderDispatcher", "IterableDatasetShard"}


def _callers() -> Iterator[Any]:
    """Objects whose methods are being called, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_locals.get("self")
        frame = frame.f_back


def check_loader(dataset: Any, world_size: Callable[[], int]) -> bool | None:
    """Refuse a loader that would batch the batches again, or shard them again.

    Args:
        dataset: Which dataset is being iterated, or sent to a worker.
        world_size: Tells the ranks that it shares its batches among, where that matters.

    Returns:
        Whether its batches reach the trainer in any order: several workers with ``in_order=False``. ``None`` where no
        loader is to be seen.

    Raises:
        ConfigError: the loader has a ``batch_size`` and no ``collate_fn``, or accelerate shards it a second time.
    """
    loose = None
    for caller in _callers():
        kind = type(caller)
        if isinstance(caller, DataLoader) and caller.dataset is dataset:
            if caller.batch_size is not None and caller.collate_fn is default_collate:
                raise ConfigError(
                    f"the DataLoader has batch_size={caller.batch_size}, but a DedupDataset delivers whole batches",
                    expected="DataLoader(dataset, batch_size=None)",
                    fix="Pass batch_size=None to the DataLoader and the size to DedupDataset(batch_size=...).",
                )
            loose = caller.num_workers > 1 and not getattr(caller, "in_order", True)
        dealer = kind.__module__ == "accelerate.data_loader" and kind.__name__ in _DEALERS
        if dealer and world_size() > 1:
            raise ConfigError(
                f"accelerate's {kind.__name__} shards batches that the DedupDataset has sharded already, so rows would "
                "be lost",
                expected="each process's own DataLoader",
                fix="Leave the loader out of accelerator.prepare, and move batches with batch.to(accelerator.device).",
            )
    return loose

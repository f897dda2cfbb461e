"""Shared by the reader's tests: what an epoch delivered, in plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

from dedup_storage.reader import DedupBatch, DedupDataset

Delivered = tuple[int, tuple[tuple[Any, Any], ...], tuple[int, ...]]


def content(batch: DedupBatch) -> Delivered:
    """Index, request keys and items of a batch."""
    keys = tuple(zip(batch["user_id"].decode(), batch["request_id"].decode(), strict=True))
    return batch.progress.index, keys, tuple(batch["item_id"].values.tolist())


def contents(batches: Iterable[DedupBatch]) -> list[Delivered]:
    return [content(b) for b in batches]


def deliver(dataset: DedupDataset, workers: int = 0, **options: Any) -> list[Delivered]:
    """An epoch through a DataLoader."""
    return contents(DataLoader(dataset, batch_size=None, num_workers=workers, **options))


def requests_of(delivered: Iterable[Delivered]) -> list[tuple[Any, Any]]:
    return [key for _, keys, _ in delivered for key in keys]


def interleave(ranks: list[list[Delivered]]) -> list[Delivered]:
    """The global sequence from that of each rank."""
    longest = max(map(len, ranks))
    return [rank[step] for step in range(longest) for rank in ranks if step < len(rank)]

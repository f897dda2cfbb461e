"""One epoch through a torch DataLoader, counting what is decoded and moved, and what flat rows would have cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dedup_storage.config import Settings
from dedup_storage.reader import Column, DedupBatch, DedupDataset

__all__ = ["EpochCounts", "EpochOptions", "read_epoch"]


class EpochOptions(TypedDict, total=False):
    """Options of ``DedupDataset`` that say how requests of a user share their events."""

    histories: Literal["lists", "shared"]
    together: int
    across_dates: bool


@dataclass
class EpochCounts:
    """Sums over the batches of one epoch.

    Attributes:
        batches, requests, impressions: Counts; R request rows and B impression rows.
        decoded_bytes: Bytes of all column tensors as delivered (request columns R rows).
        flat_decoded_bytes: The same columns with every request column repeated for each impression.
        list_elements, list_bytes: Elements of the requests' lists as delivered, all list columns together.
        device_bytes: Bytes of the batches' buffers: what one copy moves to the device.
        flat_device_bytes: What flat batches would move.
        seconds: Wall time.
    """

    batches: int = 0
    requests: int = 0
    impressions: int = 0
    decoded_bytes: int = 0
    flat_decoded_bytes: int = 0
    list_elements: int = 0
    list_bytes: int = 0
    device_bytes: int = 0
    flat_device_bytes: int = 0
    seconds: float = 0.0

    def add(self, batch: DedupBatch) -> None:
        """Count one batch."""
        # Lists that are shared are made whenever they are asked for.
        requests, impressions = batch.requests.values(), batch.impressions.values()
        flat = sum(_tensor_bytes(column) for column in impressions)
        once = flat + sum(_tensor_bytes(column) for column in requests)
        flat += sum(_expanded_bytes(column, batch.lengths) for column in requests)
        lists = [column.values for column in requests if column.offsets is not None]
        self.list_elements += sum(values.numel() for values in lists)
        self.list_bytes += sum(values.numel() * values.element_size() for values in lists)
        self.batches += 1
        self.requests += batch.num_requests
        self.impressions += batch.num_impressions
        self.decoded_bytes += once
        self.flat_decoded_bytes += flat
        self.device_bytes += batch.num_bytes
        self.flat_device_bytes += flat


def _tensor_bytes(column: Column) -> int:
    return sum(t.numel() * t.element_size() for t in column.tensors().values())


def _expanded_bytes(column: Column, counts: Tensor) -> int:
    """Bytes of a request column repeated ``counts`` (R,) times per row."""
    elements = int((column.lengths * counts).sum())
    rows = int(counts.sum())
    total = elements * column.values.element_size()
    if column.element_valid is not None:
        total += elements
    if column.valid is not None:
        total += rows
    if column.offsets is not None:
        total += (rows + 1) * column.offsets.element_size()
    return total


def read_epoch(
    settings: Settings,
    dataset: str,
    *,
    batch_size: int,
    workers: int,
    progress: Callable[[EpochCounts], None] | None = None,
    **options: Unpack[EpochOptions],
) -> EpochCounts:
    """Read every batch once, move it to the device if there is one, and re-duplicate there.

    Args:
        settings: Where the catalog is.
        dataset: Dataset name.
        batch_size: Impressions of a batch.
        workers: DataLoader workers.
        progress: Called after every batch.
        options: Of ``DedupDataset``; its own defaults where they are left out.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Workers must not be forked from a process that started Spark's Java gateway threads.
    context = "spawn" if workers else None
    loader = DataLoader(
        DedupDataset(dataset, settings, batch_size=batch_size, **options),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
    )
    counts = EpochCounts()
    began = time.monotonic()
    for batch in loader:
        moved = batch.to(device)
        # Every impression finds its user: the gather that a forward pass does after encoding R histories.
        moved.expand(moved.user_ids())
        counts.add(batch)
        if progress is not None:
            progress(counts)
    counts.seconds = time.monotonic() - began
    return counts

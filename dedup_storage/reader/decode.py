"""From windows of decoded requests to the batches of one split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import SchemaError
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.encode import BatchPacker
from dedup_storage.reader.order import SplitOrder
from dedup_storage.reader.unit_reader import UnitReader, Window

__all__ = ["ArrowTransform", "SplitReader"]

ArrowTransform = Callable[[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]


class SplitReader:
    """Makes the batches of one split, in order or from any of them on.

    Args:
        order: The split's order.
        open_unit: Opens a unit by number.
        packer: Packs tables into batches.
        transform: Column-wise hook on the Arrow tables of a window.
    """

    def __init__(
        self,
        order: SplitOrder,
        open_unit: Callable[[int], UnitReader],
        packer: BatchPacker,
        transform: ArrowTransform | None = None,
    ) -> None:
        self._order, self._open, self._packer, self._transform = order, open_unit, packer, transform
        self._units: dict[int, UnitReader] = {}
        self._windows: dict[int, Window] = {}

    def close(self) -> None:
        """Let files and windows go."""
        for reader in self._units.values():
            reader.close()
        self._units.clear()
        self._windows.clear()

    def batch(self, number: int, progress: Progress) -> DedupBatch:
        """The split's batch ``number``."""
        order = self._order
        items = order.items(number)
        offsets = order.window_offsets
        first = int(np.searchsorted(offsets, items.requests[0], side="right")) - 1
        last = int(np.searchsorted(offsets, items.requests[-1], side="right")) - 1
        for window in [w for w in self._windows if w < first]:
            del self._windows[window]
        requests, impressions, lengths = [], [], []
        for window in range(first, last + 1):
            begin = int(np.searchsorted(items.requests, offsets[window]))
            end = int(np.searchsorted(items.requests, offsets[window + 1]))
            decoded = self._window(window)
            # Windows lie in their shuffled order: what a batch takes of one is a slice, of impressions too.
            rows = items.requests[begin:end] - offsets[window]
            starts = offsets_from_lengths(decoded.lengths)[rows]
            counts = decoded.lengths[rows]
            if items.starts is not None and items.stops is not None:
                counts = np.minimum(counts, items.stops[begin:end]) - items.starts[begin:end]
                starts = starts + items.starts[begin:end]
            requests.append(decoded.requests.slice(int(rows[0]), len(rows)))
            impressions.append(decoded.impressions.slice(int(starts[0]), int(counts.sum())))
            lengths.append(counts)
        marked = replace(progress, continues=items.continues, continued=items.continued)
        return self._packer.pack(requests, impressions, np.concatenate(lengths), marked)

    def _window(self, number: int) -> Window:
        if number not in self._windows:
            decoded = self._decode(number)
            permutation = self._order.permutation(number)
            if np.any(permutation[1:] < permutation[:-1]):
                decoded = _permute(decoded, permutation)
            self._windows[number] = decoded
        return self._windows[number]

    def _decode(self, number: int) -> Window:
        blocks = self._order.windows[number]
        now = {b.unit for b in blocks}
        for unit in [u for u in self._units if u not in now]:
            self._units.pop(unit).close()
        parts = []
        for block in blocks:
            if block.unit not in self._units:
                self._units[block.unit] = self._open(block.unit)
            parts.append(self._units[block.unit].read(block.start, block.stop))
        requests = pa.concat_tables([p.requests for p in parts], promote_options="permissive").combine_chunks()
        impressions = pa.concat_tables([p.impressions for p in parts], promote_options="permissive").combine_chunks()
        if self._transform is not None:
            requests, impressions = _apply(self._transform, requests, impressions)
        return Window(requests, impressions, np.concatenate([p.lengths for p in parts]))


def _permute(window: Window, rows: Int64) -> Window:
    """The window with its requests, and the impressions of each, in another order."""
    lengths = window.lengths[rows]
    starts = offsets_from_lengths(window.lengths)[rows]
    return Window(
        gather_table(window.requests, rows), gather_table(window.impressions, ranges(starts, lengths)), lengths
    )


def _apply(transform: ArrowTransform, requests: pa.Table, impressions: pa.Table) -> tuple[pa.Table, pa.Table]:
    new_requests, new_impressions = transform(requests, impressions)
    for what, old, new in (("requests", requests, new_requests), ("impressions", impressions, new_impressions)):
        if old.num_rows != new.num_rows:
            raise SchemaError(
                f"arrow_transform changed the number of rows of the {what}",
                expected=f"{old.num_rows}",
                got=f"{new.num_rows}",
                fix="Change columns, not rows; choose rows with filters.",
            )
    return new_requests, new_impressions

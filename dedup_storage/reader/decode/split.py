"""From windows of decoded requests to the batches of one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_storage.errors import SchemaError
from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.decode.events import plain_lists
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.unit_reader import BlockReader, Decoded
from dedup_storage.reader.decode.window import Window, encode_window
from dedup_storage.reader.order import SplitOrder
from dedup_storage.reader.progress import Progress
from dedup_storage.reader.sequence import PlannedWindow

__all__ = ["ArrowTransform", "SplitReader"]

_Order = np.ndarray[tuple[int], np.dtype[np.int64]]
ArrowTransform = Callable[[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class _Ahead:
    """A window that is being decoded.

    Attributes:
        blocks: Its blocks; whoever takes a result takes it out, so that it is not kept.
        window: The window, where it is encoded ahead too.
    """

    blocks: list[Future[Decoded]]
    window: Future[Window] | None = None

    def take(self) -> list[Decoded]:
        """The decoded blocks, in order; waits for them."""
        found = []
        while self.blocks:
            found.append(self.blocks[0].result())
            del self.blocks[0]
        return found

    def cancel(self) -> None:
        """Start nothing more of it, and wait for what has begun: its files are about to be closed."""
        futures: list[Future[Any]] = [*self.blocks] if self.window is None else [self.window, *self.blocks]
        wait([future for future in futures if not future.cancel()])


class SplitReader:
    """Makes the batches of one split, in order or from any of them on.

    Args:
        order: The split's order.
        open_unit: Opens a unit by number.
        packer: Packs windows' slices into batches.
        transform: Column-wise hook on the Arrow tables of a window.
        pool: Decodes the blocks of a window side by side, and the next window ahead; without a ``transform``, which is
            called by one thread at a time, encodes it too. ``None`` decodes each window when it is needed.
        first: Whether nothing was decoded before.
    """

    def __init__(
        self,
        order: SplitOrder,
        open_unit: Callable[[int], BlockReader],
        packer: BatchPacker,
        transform: ArrowTransform | None = None,
        pool: ThreadPoolExecutor | None = None,
        *,
        first: bool = False,
    ) -> None:
        self._order, self._open, self._packer, self._transform = order, open_unit, packer, transform
        self._pool, self._first = pool, first
        self._units: dict[int, BlockReader] = {}
        self._windows: dict[int, Window] = {}
        # The window of the last batch: its number, the places of its first request and of the next window's, itself.
        self._here: tuple[int, int, int, Window] | None = None
        self._ahead: dict[int, _Ahead] = {}
        # Plans the next window, and begins to decode it: in the pool, since that reads keys.
        self._planning: Future[None] | None = None

    def close(self) -> None:
        """Let files and windows go."""
        if self._planning is not None and not self._planning.cancel():
            self._planning.exception()
        for ahead in self._ahead.values():
            ahead.cancel()
        for reader in self._units.values():
            reader.close()
        self._units.clear()
        self._windows.clear()
        self._ahead.clear()
        self._here = None

    def prepare(self, number: int) -> None:
        """Begin to decode what batch ``number`` needs first."""
        if self._pool is not None:
            self._planning = self._pool.submit(self._prepare, number)

    def _prepare(self, number: int) -> None:
        first = self._order.window_of(int(self._order.items(number).requests[0]))
        if self._first:
            # Arrow's allocator keeps what the keys were read into; decoding would come on top of it.
            pa.default_memory_pool().release_unused()
        self._start(first)

    def _settle(self) -> None:
        """Wait until the next window is planned."""
        planning, self._planning = self._planning, None
        if planning is not None:
            planning.result()

    def batch(self, number: int, progress: Progress) -> DedupBatch:
        """The split's batch ``number``."""
        span = self._order.span(number)
        if span is not None and self._here is not None and self._here[1] <= span[0] and span[1] <= self._here[2]:
            # Whole requests of the window that the batch before was taken of, as most batches are.
            place, first, _, window = self._here
            if len(self._windows) > 1:
                self._forget(place)
            return self._packer.pack([Part.of(window, span[0] - first, span[1] - first)], progress)
        # What is passed is let go before more is decoded.
        self._here = None
        return self._batch(number, progress)

    def _forget(self, number: int) -> None:
        """Let the windows before one go: what the batch before straddled."""
        for passed in [w for w in self._windows if w < number]:
            del self._windows[passed]
        self._order.forget(number)

    def _batch(self, number: int, progress: Progress) -> DedupBatch:
        """Any batch, of several windows or of parts of requests."""
        items = self._order.items(number)
        first, last = (self._order.window_of(int(items.requests[end])) for end in (0, -1))
        self._forget(first)
        parts = []
        for place in range(first, last + 1):
            offset = self._order.offset(place)
            begin = int(np.searchsorted(items.requests, offset)) if place > first else 0
            end = len(items.requests)
            if place < last:
                end = int(np.searchsorted(items.requests, self._order.offset(place + 1)))
            window = self._window(place)
            # Windows lie in their shuffled order: what a batch takes of one is a slice, of impressions too.
            low = int(items.requests[begin]) - offset
            high = int(items.requests[end - 1]) - offset + 1
            part = Part.of(window, low, high)
            if items.starts is not None and items.stops is not None:
                counts = np.minimum(part.lengths, items.stops[begin:end]) - items.starts[begin:end]
                start = part.impressions[0] + int(items.starts[begin])
                part = Part(window, (low, high), (start, start + int(counts.sum())), counts)
            parts.append(part)
        self._here = last, offset, offset + len(window.lengths), window
        marked = progress
        if items.continues or items.continued:
            marked = replace(progress, continues=items.continues, continued=items.continued)
        return self._packer.pack(parts, marked)

    def _window(self, number: int) -> Window:
        if number not in self._windows:
            self._settle()
            # A shard that takes turns with others in a split passes over windows. What is being decoded of these reads
            # the files that are read now.
            for passed in [w for w in self._ahead if w < number]:
                self._ahead.pop(passed).cancel()
            ahead = self._ahead.get(number)
            encoded = ahead.window.result() if ahead is not None and ahead.window is not None else None
            planned = self._order.window(number)
            parts = ahead.take() if ahead is not None else self._decode(planned)
            # Only now: ``close`` waits for what else is being decoded of a window that failed.
            self._ahead.pop(number, None)
            self._plan_next(number)
            self._windows[number] = encoded if encoded is not None else self._encode(parts, _permutation(planned))
        return self._windows[number]

    def _readers(self, window: PlannedWindow) -> list[BlockReader]:
        """The units of a window's blocks; those of earlier windows are closed."""
        now = [block.unit for block in window.blocks]
        for unit in [u for u in self._units if u not in now]:
            self._units.pop(unit).close()
        for unit in now:
            if unit not in self._units:
                self._units[unit] = self._open(unit)
        return [self._units[unit] for unit in now]

    def _decode(self, window: PlannedWindow) -> list[Decoded]:
        return [r.read(b.start, b.stop) for r, b in zip(self._readers(window), window.blocks, strict=True)]

    def _plan_next(self, number: int) -> None:
        if self._pool is not None:
            self._planning = self._pool.submit(self._start, number + 1)

    def _start(self, number: int) -> None:
        planned = self._order.coming(number) if self._pool is not None else None
        if self._pool is None or planned is None:
            return
        # A unit occurs once in a window, and the windows before have been read: no two threads share its files.
        started = [
            self._pool.submit(r.read, b.start, b.stop)
            for r, b in zip(self._readers(planned), planned.blocks, strict=True)
        ]
        decoding, order, window = _Ahead(started), _permutation(planned), None
        if self._transform is None:
            # Threads take work in the order it was given: no window waits for blocks that nobody decodes.
            window = self._pool.submit(lambda: self._encode(decoding.take(), order))
        self._ahead[number] = _Ahead(started, window)

    def _encode(self, parts: list[Decoded], order: _Order | None) -> Window:
        requests = pa.concat_tables([p.requests for p in parts], promote_options="permissive")
        impressions = pa.concat_tables([p.impressions for p in parts], promote_options="permissive")
        lengths = np.concatenate([p.lengths for p in parts])
        if self._transform is not None:
            if not impressions.num_columns:
                # The hook may add columns to as many rows as there are impressions, though none of theirs is read.
                impressions = pa.table({"none": pa.nulls(int(lengths.sum()))}).select([])
            whole = plain_lists(requests).combine_chunks()
            requests, impressions = _apply(self._transform, whole, impressions.combine_chunks())
        return encode_window(requests, impressions, lengths, order, self._packer.forms)


def _permutation(window: PlannedWindow) -> _Order | None:
    """The order of a window's requests; ``None`` where they stay as they were read."""
    order = window.order
    return None if order is None or np.all(order[1:] > order[:-1]) else order


def _apply(transform: ArrowTransform, requests: pa.Table, impressions: pa.Table) -> tuple[pa.Table, pa.Table]:
    found = transform(requests, impressions)
    given = [type(table).__name__ for table in found] if isinstance(found, tuple | list) else [type(found).__name__]
    if not isinstance(found, tuple | list) or given != ["Table", "Table"]:
        raise SchemaError(
            "arrow_transform gave something else than the two tables",
            expected="(requests, impressions), both pyarrow tables",
            got=", ".join(given),
            fix="Return both, also where one is as it was.",
        )
    new_requests, new_impressions = found
    named = Counter([*new_requests.column_names, *new_impressions.column_names])
    if max(named.values(), default=0) > 1:
        raise SchemaError(
            "arrow_transform gave several columns of one name",
            expected="each name once in both tables together: a batch knows a column by its name alone",
            got=", ".join(name for name, times in named.items() if times > 1),
            fix="Give the column that is added another name, or put it in the place of the other (set_column).",
        )
    for what, old, new in (("requests", requests, new_requests), ("impressions", impressions, new_impressions)):
        if old.num_rows != new.num_rows:
            raise SchemaError(
                f"arrow_transform changed the number of rows of the {what}",
                expected=f"{old.num_rows}",
                got=f"{new.num_rows}",
                fix="Change columns, not rows; choose rows with filters.",
            )
    return new_requests, new_impressions

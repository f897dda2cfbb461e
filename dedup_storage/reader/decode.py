"""From blocks to tables, and from windows to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import SchemaError
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.encode import BatchPacker
from dedup_storage.reader.files import DataFile, RowStream, TableRef
from dedup_storage.reader.index import RunList, Unit
from dedup_storage.reader.order import SplitOrder

__all__ = ["ArrowTransform", "SplitReader", "UnitReader", "Window"]

ArrowTransform = Callable[[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class Window:
    """Decoded requests and their impressions, in the order of their units.

    Attributes:
        requests: One row per request.
        impressions: Grouped by request, in the order of ``requests``.
        lengths: Impressions of each request.
    """

    requests: pa.Table
    impressions: pa.Table
    lengths: Int64


class UnitReader:
    """Decodes ascending blocks of one unit.

    Args:
        unit: The unit.
        requests: Table with the request columns.
        impressions: Table with the impression columns.
        request_columns: Columns to decode.
        impression_columns: Columns to decode.
        piece_bytes: Decoded bytes that each open file may hold.
    """

    def __init__(
        self,
        unit: Unit,
        requests: TableRef,
        impressions: TableRef,
        request_columns: Sequence[str],
        impression_columns: Sequence[str],
        piece_bytes: int,
    ) -> None:
        self._unit = unit
        self._impressions = impressions
        self._columns = list(impression_columns)
        self._piece_bytes = piece_bytes
        self._request_stream = RowStream(requests.file_io(), requests, unit.file, request_columns, piece_bytes)
        self._streams: dict[DataFile, RowStream] = {}
        self._io = impressions.file_io()
        self._offsets = offsets_from_lengths(unit.lengths)

    def close(self) -> None:
        """Let the files go."""
        self._request_stream.close()
        for stream in self._streams.values():
            stream.close()

    def _stream(self, file: DataFile) -> RowStream:
        if file not in self._streams:
            self._streams[file] = RowStream(self._io, self._impressions, file, self._columns, self._piece_bytes)
        return self._streams[file]

    def read(self, start: int, stop: int) -> Window:
        """Requests ``start`` to ``stop`` of the unit, with their impressions."""
        unit = self._unit
        rows = np.arange(start, stop, dtype=np.int64) if unit.rows is None else unit.rows[start:stop]
        requests = self._request_stream.take(rows)
        lengths = unit.lengths[start:stop].astype(np.int64)
        return Window(requests, self._read_impressions(start, stop), lengths)

    def _read_impressions(self, start: int, stop: int) -> pa.Table:
        tables, owners = [], []
        for runs in self._unit.impressions:
            if runs.listed is None:
                low, high = runs.first + int(self._offsets[start]), runs.first + int(self._offsets[stop])
                return self._stream(runs.file).read(low, high)
            table, owner = self._read_runs(runs.file, runs.listed, start, stop)
            tables.append(table)
            owners.append(owner)
        if not tables:
            return pa.table({c: pa.array([], self._impressions.fields[c][1]) for c in self._columns})
        together = pa.concat_tables(tables, promote_options="permissive")
        owner = np.concatenate(owners)
        if np.all(owner[1:] >= owner[:-1]):
            return together
        return gather_table(together, np.argsort(owner, kind="stable"))

    def _read_runs(self, file: DataFile, runs: RunList, start: int, stop: int) -> tuple[pa.Table, Int64]:
        """The rows of the runs that belong to the requests, and the request of each."""
        inside = (runs.requests >= start) & (runs.requests < stop)
        begins, sizes = runs.starts[inside], runs.lengths[inside].astype(np.int64)
        rows = ranges(begins, sizes)
        owner = np.repeat(runs.requests[inside].astype(np.int64), sizes)
        return self._stream(file).take(rows), owner


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
        start, stop = int(order.bounds[number]), int(order.bounds[number + 1])
        first = int(np.searchsorted(order.window_offsets, start, side="right")) - 1
        for window in [w for w in self._windows if w < first]:
            del self._windows[window]
        requests, impressions, lengths = [], [], []
        window, place = first, start
        while place < stop:
            low, high = int(order.window_offsets[window]), int(order.window_offsets[window + 1])
            until = min(stop, high)
            decoded = self._window(window)
            rows = order.permutation(window)[place - low : until - low]
            offsets = offsets_from_lengths(decoded.lengths)
            requests.append(gather_table(decoded.requests, rows))
            counts = decoded.lengths[rows]
            impressions.append(gather_table(decoded.impressions, ranges(offsets[rows], counts)))
            lengths.append(counts)
            window, place = window + 1, until
        return self._packer.pack(requests, impressions, np.concatenate(lengths), progress)

    def _window(self, number: int) -> Window:
        if number not in self._windows:
            self._windows[number] = self._decode(number)
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
            requests, impressions = self._apply(self._transform, requests, impressions)
        return Window(requests, impressions, np.concatenate([p.lengths for p in parts]))

    @staticmethod
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

"""The index: which impressions belong to which request, from the key columns alone.

Read once when a dataset is opened. Everything after it (batches, steps, resume) is arithmetic on its lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io import FileIO

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.keys import match_keys, strictly_ascending
from dedup_storage.dedup.runs import Int64, run_lengths, run_starts, single_chunk
from dedup_storage.errors import DuplicateRowsError, StorageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.reader.files import DataFile, RowStream, TableRef, decoded_bytes, physical_columns
from dedup_storage.reader.options import ReadOptions
from dedup_storage.reader.scan import SegmentKey, TableScan

__all__ = ["RunList", "Runs", "SegmentIndexer", "Unit", "build_units"]

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunList:
    """Runs of rows, one by one.

    Attributes:
        starts: First row of each run.
        lengths: Rows of each run.
        requests: Request of each run, as a row of the unit.
    """

    starts: Int64
    lengths: Int32
    requests: Int32


@dataclass(frozen=True)
class Runs:
    """Runs of one impression file's rows that belong to requests of one unit.

    Attributes:
        file: The file.
        first: First row of the first run.
        listed: The runs; ``None`` when they lie end to end, one for each request in order.
    """

    file: DataFile
    first: int
    listed: RunList | None = None


@dataclass(frozen=True)
class Unit:
    """Requests that are decoded one after the other: those of one request file.

    Attributes:
        segment: Its (date, bucket) segment, for messages.
        file: File of the request columns.
        rows: Row of each request in ``file``; ``None`` when they are 0 to n - 1.
        lengths: (n,) int32 impressions of each request.
        impressions: Where these impressions are.
        request_bytes: Decoded bytes of one request's own columns, estimated.
        impression_bytes: The same for one impression.
        tokens: (n,) elements of the list column that batches are measured in.
    """

    segment: SegmentKey
    file: DataFile
    rows: Int64 | None
    lengths: Int32
    impressions: tuple[Runs, ...]
    request_bytes: float
    impression_bytes: float
    tokens: Int64 | None = None

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class SegmentIndexer:
    """Indexes segments of one dataset.

    Attributes:
        spec: The dataset.
        options: What is read.
        requests: Scan of the table with the request columns.
        impressions: Scan of the table with the impression columns; the same one in flat layout.
        request_columns: Projected columns of the requests.
        impression_columns: Projected columns of the impressions.
    """

    spec: DatasetSpec
    options: ReadOptions
    requests: TableScan
    impressions: TableScan
    request_columns: tuple[str, ...]
    impression_columns: tuple[str, ...]

    @property
    def flat(self) -> bool:
        """Whether both grains share one table."""
        return self.spec.layout is Layout.FLAT

    # -- reading keys -------------------------------------------------------------------------------------------
    def _keys(self, io: FileIO, ref: TableRef, file: DataFile, dates: bool) -> pa.Table:
        columns = list(self.spec.request_key)
        date = self.spec.event_date_column
        if dates and date is not None and date not in columns:
            columns.append(date)
        stream = RowStream(io, ref, file, columns, piece_bytes=64 << 20)
        try:
            return stream.read(0, file.rows)
        finally:
            stream.close()

    def _row_bytes(self, io: FileIO, ref: TableRef, file: DataFile, columns: Sequence[str]) -> float:
        stream = RowStream(io, ref, file, columns)
        try:
            names = physical_columns(stream.parquet, ref, columns).values()
            return decoded_bytes(stream.parquet, [n for n in names if n is not None])
        finally:
            stream.close()

    def _wanted(self, keys: pa.Table) -> npt.NDArray[np.bool_] | None:
        """Which requests the filters keep; ``None`` for all."""
        filters, masks = self.options.filters, []
        if filters.users is not None:
            column = keys[self.spec.schema_.user]
            masks.append(pc.is_in(column, value_set=pa.array(list(filters.users)).cast(column.type)))
        date = self.spec.event_date_column
        if date is not None and filters.start is not None:
            masks.append(pc.greater_equal(keys[date], pa.scalar(filters.start)))
        if date is not None and filters.end is not None:
            masks.append(pc.less_equal(keys[date], pa.scalar(filters.end)))
        if not masks:
            return None
        return np.logical_and.reduce([np.asarray(m.to_numpy(), dtype=np.bool_) for m in masks])

    # -- indexing -----------------------------------------------------------------------------------------------
    def index(self, segment: SegmentKey) -> list[Unit]:
        """The units of one segment, in the order of its request files."""
        io, ref = self.requests.ref.file_io(), self.requests.ref
        files = self.requests.segments.get(segment, ())
        key = list(self.spec.request_key)
        tables, rows = [], []
        for file in files:
            keys = self._keys(io, ref, file, dates=True)
            if self.flat:
                starts = run_starts([keys[k] for k in key])
                rows.append(starts)
                keys = _rows(keys, starts)
            else:
                rows.append(np.arange(keys.num_rows, dtype=np.int64))
            tables.append(keys)
        if not tables:
            self._orphans(segment, self.impressions.segments.get(segment, ()))
            return []
        bounds = offsets_from_lengths([t.num_rows for t in tables])
        everything = pa.concat_tables(tables, promote_options="permissive")
        columns = [single_chunk(everything[k]) for k in key]
        first = self._first_rows(segment, columns)
        wanted = self._wanted(everything)
        runs = self._runs(segment, columns, rows, first)
        return self._units(segment, io, files, rows, bounds, first, wanted, runs)

    def _first_rows(self, segment: SegmentKey, columns: Sequence[pa.Array]) -> Int64 | None:
        """For each candidate row the first one of the same key; ``None`` when every key is there once."""
        if strictly_ascending(columns):
            return None
        first = match_keys(columns, columns)
        twice = np.flatnonzero(first != np.arange(len(first)))
        if len(twice) == 0:
            return None
        if not self.flat:
            raise DuplicateRowsError(
                f"{len(twice)} request rows of the segment {_say(segment)} repeat another's key",
                expected="one row per request",
                fix="Write the segment again.",
            )
        return first

    def _runs(
        self, segment: SegmentKey, columns: Sequence[pa.Array], rows: Sequence[Int64], first: Int64 | None
    ) -> list[tuple[DataFile, Int64, Int64, Int64]]:
        """(file, starts, lengths, request row in the segment) for every impression file."""
        files = self.impressions.segments.get(segment, ())
        found = []
        if self.flat:
            base = 0
            for file, starts in zip(files, rows, strict=True):
                own = np.arange(base, base + len(starts), dtype=np.int64)
                found.append((file, starts, run_lengths(starts, file.rows), own if first is None else first[own]))
                base += len(starts)
            return found
        io, ref = self.impressions.ref.file_io(), self.impressions.ref
        for file in files:
            keys = self._keys(io, ref, file, dates=False)
            starts = run_starts([keys[k] for k in self.spec.request_key])
            heads = _rows(keys, starts)
            matched = match_keys(columns, [heads[k] for k in self.spec.request_key])
            lengths = run_lengths(starts, file.rows)
            alone = matched < 0
            if np.any(alone):
                self._orphans(segment, (file,), int(lengths[alone].sum()))
                starts, lengths, matched = starts[~alone], lengths[~alone], matched[~alone]
            found.append((file, starts, lengths, matched))
        return found

    def _orphans(self, segment: SegmentKey, files: Sequence[DataFile], rows: int | None = None) -> None:
        count = sum(f.rows for f in files) if rows is None else rows
        # Files of the requests may have been pruned, so with filters there is no telling.
        if count == 0 or self.options.orphans == "skip" or not self.options.filters.is_empty:
            return
        raise StorageError(
            f"{count} impressions of {files[0].path} have no request",
            expected=f"their requests in the segment {_say(segment)}",
            fix="Write the segment again, or open the reader with orphans='skip'.",
        )

    def _units(
        self,
        segment: SegmentKey,
        io: FileIO,
        files: Sequence[DataFile],
        rows: Sequence[Int64],
        bounds: Int64,
        first: Int64 | None,
        wanted: npt.NDArray[np.bool_] | None,
        runs: Sequence[tuple[DataFile, Int64, Int64, Int64]],
    ) -> list[Unit]:
        total = int(bounds[-1])
        keep = np.ones(total, dtype=np.bool_) if wanted is None else wanted.copy()
        if first is not None:
            keep &= first == np.arange(total)
        lengths = np.zeros(total, dtype=np.int64)
        for _, _, counts, owner in runs:
            np.add.at(lengths, owner, counts)
        impression_bytes = 0.0
        if runs:
            impression_bytes = self._row_bytes(
                self.impressions.ref.file_io(), self.impressions.ref, runs[0][0], self.impression_columns
            )
        units = []
        for place, file in enumerate(files):
            low, high = int(bounds[place]), int(bounds[place + 1])
            mine = np.flatnonzero(keep[low:high])
            if len(mine) == 0:
                continue
            own_rows = rows[place][mine]
            plain = len(mine) == file.rows and not self.flat
            local = np.full(high - low, -1, dtype=np.int64)
            local[mine] = np.arange(len(mine))
            unit_lengths = lengths[low:high][mine].astype(np.int32)
            units.append(
                Unit(
                    segment=segment,
                    file=file,
                    rows=None if plain else own_rows,
                    lengths=unit_lengths,
                    impressions=tuple(_unit_runs(runs, low, high, local, unit_lengths)),
                    request_bytes=self._row_bytes(io, self.requests.ref, file, self.request_columns),
                    impression_bytes=impression_bytes,
                )
            )
        return units


def _rows(table: pa.Table, rows: Int64) -> pa.Table:
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))


def _say(segment: SegmentKey) -> str:
    return ", ".join(f"{transform}={value}" for transform, value in segment)


def _unit_runs(
    runs: Sequence[tuple[DataFile, Int64, Int64, Int64]], low: int, high: int, local: Int64, unit_lengths: Int32
) -> list[Runs]:
    """The runs that belong to one unit, in the compact form where they allow it."""
    found = []
    for file, starts, counts, owner in runs:
        inside = (owner >= low) & (owner < high)
        inside[inside] = local[owner[inside] - low] >= 0
        if not np.any(inside):
            continue
        begins, sizes, requests = starts[inside], counts[inside], local[owner[inside] - low]
        present = np.flatnonzero(unit_lengths)
        end_to_end = np.array_equal(begins[1:], begins[:-1] + sizes[:-1])
        if end_to_end and np.array_equal(requests, present) and np.array_equal(sizes, unit_lengths[present]):
            found.append(Runs(file, int(begins[0])))
        else:
            found.append(Runs(file, int(begins[0]), RunList(begins, sizes.astype(np.int32), requests.astype(np.int32))))
    return found


def build_units(indexer: SegmentIndexer) -> list[Unit]:
    """Index every segment; several at a time."""
    keys = list(dict.fromkeys([*indexer.requests.segments, *indexer.impressions.segments]))
    keys.sort(key=lambda key: tuple(map(str, key)))
    workers = min(8, cpu_count() or 1, max(len(keys), 1))
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="dedup-index") as pool:
        return [unit for units in pool.map(indexer.index, keys) for unit in units]

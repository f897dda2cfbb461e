"""Key columns of one file, read for the index: only the row groups that filters, or a unit's users, can touch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.keys import match_keys, strictly_ascending
from dedup_storage.dedup.runs import ArrowColumn, Int64, run_starts, single_chunk
from dedup_storage.layout import DatasetSpec
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef, decoded_bytes, physical_columns
from dedup_storage.reader.open.conditions import Condition, kept_rows
from dedup_storage.reader.open.footers import Users, group_starts, overlapping
from dedup_storage.reader.options import Filters
from dedup_storage.sampling.select import Selector

__all__ = ["FileKeys", "KeyReader", "KeyRuns", "owners", "take_rows"]

# Rows whose keys are held at a time: of runs only the first row's keys are kept.
_PIECE_ROWS = 1 << 16


@dataclass(frozen=True)
class FileKeys:
    """Keys of a file's rows.

    Attributes:
        table: Key columns, and the event date where it is filtered on.
        rows: Row of each in the file, ascending; ``None`` when they are all of its rows.
        row_bytes: Decoded bytes of one row's own columns, estimated.
    """

    table: pa.Table
    rows: Int64 | None
    row_bytes: float = 0.0

    @property
    def positions(self) -> Int64:
        """Row of each in the file."""
        return np.arange(self.table.num_rows, dtype=np.int64) if self.rows is None else self.rows

    def where(self, mask: npt.NDArray[np.bool_] | None) -> FileKeys:
        """Those of the rows for which a mask says so; all where it is ``None``."""
        if mask is None:
            return self
        return FileKeys(self.table.filter(pa.array(mask)), self.positions[mask], self.row_bytes)

    def runs(self, key: Sequence[str]) -> tuple[Int64, Int64, Int64]:
        """Runs of equal keys: first place in ``table``, first row in the file, rows."""
        places = run_starts([self.table[k] for k in key])
        if self.rows is not None:
            # Rows on both sides of a row group that was left out are no run, whatever their keys.
            gaps = np.flatnonzero(np.diff(self.rows) != 1) + 1
            places = np.union1d(places, gaps).astype(np.int64)
        lengths = np.diff(places, append=np.int64(self.table.num_rows))
        return places, self.positions[places], lengths


@dataclass(frozen=True)
class KeyRuns:
    """Runs of equal keys in one file.

    Attributes:
        keys: Key columns of each run.
        starts: Its first row in the file.
        sizes: Its rows.
        row_bytes: Decoded bytes of one row's own columns, estimated.
    """

    keys: pa.Table
    starts: Int64
    sizes: Int64
    row_bytes: float

    def where(self, mask: npt.NDArray[np.bool_]) -> KeyRuns:
        """Those of the runs for which a mask says so."""
        if mask.all():
            return self
        return KeyRuns(self.keys.filter(pa.array(mask)), self.starts[mask], self.sizes[mask], self.row_bytes)


@dataclass(frozen=True)
class KeyReader:
    """Reads keys of the files of one dataset.

    Attributes:
        spec: The dataset.
        filters: Which requests are wanted.
        selector: Which users a sample holds.
        conditions: What is asked of columns of requests.
    """

    spec: DatasetSpec
    filters: Filters
    selector: Selector | None = None
    conditions: tuple[Condition, ...] = ()

    def read(
        self,
        ref: TableRef,
        file: DataFile,
        extra: Sequence[str] = (),
        own: Sequence[str] = (),
        rows: tuple[int, int] | None = None,
    ) -> FileKeys:
        """Keys of one file's rows, in the file's order.

        Args:
            extra: Columns to read beside the keys.
            own: Columns whose decoded bytes are estimated.
            rows: First row and last, exclusive; ``None`` for all that the filters can touch.
        """
        date = self.spec.event_date_column
        dated = [date] if date is not None and date in ref.fields and self._bounds(date) is not None else []
        stream = self._stream(ref, file, [*dated, *extra])
        try:
            size = _row_bytes(stream, ref, own)
            if rows is not None:
                return FileKeys(stream.read(*rows), np.arange(*rows, dtype=np.int64), size)
            touched = None if file.deleted is not None else self._touched(stream, ref)
            return FileKeys(stream.read(0, file.rows) if touched is None else stream.take(touched), touched, size)
        finally:
            stream.close()

    def runs(
        self,
        ref: TableRef,
        file: DataFile,
        conditions: Sequence[Condition] = (),
        own: Sequence[str] = (),
        users: Users | None = None,
    ) -> KeyRuns:
        """Runs of equal keys among one file's rows, in the file's order; the keys of a piece are held at a time.

        Args:
            conditions: What is asked of the rows; others belong to no run.
            own: Columns whose decoded bytes are estimated.
            users: Only row groups that can hold these are read; ``None`` reads all that the filters can touch.
        """
        stream = self._stream(ref, file, [c.column for c in conditions])
        pieces, starts, sizes = [], [], []
        try:
            size = _row_bytes(stream, ref, own)
            for start, stop in self._pieces(stream, ref, file, users):
                # The event date is filtered among the requests.
                piece = FileKeys(stream.read(start, stop), np.arange(start, stop, dtype=np.int64))
                piece = piece.where(kept_rows(piece.table, conditions))
                places, first, lengths = piece.runs(self.spec.request_key)
                pieces.append(piece.table.select(list(self.spec.request_key)).take(pa.array(places)))
                starts.append(first)
                sizes.append(lengths)
            if not pieces:
                return KeyRuns(stream.take(np.empty(0, np.int64)).select(list(self.spec.request_key)), *_NONE, size)
        finally:
            stream.close()
        keys = pa.concat_tables(pieces, promote_options="permissive")
        return self._joined(KeyRuns(keys, np.concatenate(starts), np.concatenate(sizes), size))

    def _joined(self, runs: KeyRuns) -> KeyRuns:
        """The runs, those joined that a border of pieces has cut in two."""
        new = np.zeros(len(runs.starts), dtype=np.bool_)
        new[run_starts([runs.keys[k] for k in self.spec.request_key])] = True
        new[1:] |= runs.starts[1:] != runs.starts[:-1] + runs.sizes[:-1]
        if new.all():
            return runs
        heads = np.flatnonzero(new)
        return KeyRuns(
            runs.keys.take(pa.array(heads)), runs.starts[heads], np.add.reduceat(runs.sizes, heads), runs.row_bytes
        )

    def _stream(self, ref: TableRef, file: DataFile, extra: Sequence[str]) -> RowStream:
        columns = list(dict.fromkeys([*self.spec.request_key, *extra]))
        # Sections are read side by side where many are wanted.
        piece_bytes = _PIECE_ROWS * 8 * len(columns)
        return RowStream(ref.file_io(), ref, file, columns, piece_bytes, side_by_side=False)

    def _pieces(self, stream: RowStream, ref: TableRef, file: DataFile, users: Users | None) -> list[tuple[int, int]]:
        """Ranges of rows to read, ascending."""
        spans = [(0, file.rows)]
        if file.deleted is None:
            starts = group_starts(stream.parquet.metadata)
            keep = self._kept_groups(stream, ref)
            physical = stream.physical[self.spec.schema_.user]
            if users is not None and physical is not None:
                keep &= overlapping(stream.parquet.metadata, physical, users)
            # Neighbours are read as one.
            edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
            spans = [(int(starts[a]), int(starts[b])) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        return [pair for a, b in spans for pair in pairwise([*range(a, b, _PIECE_ROWS), b])]

    def wanted(self, keys: pa.Table) -> npt.NDArray[np.bool_] | None:
        """Which rows the filters keep; ``None`` for all."""
        masks = []
        if self.selector is not None:
            masks.append(pa.chunked_array([pa.array(self.selector.keep(keys[self.spec.schema_.user]))]))
        if self.filters.users is not None:
            column = keys[self.spec.schema_.user]
            masks.append(pc.is_in(column, value_set=pa.array(list(self.filters.users)).cast(column.type)))
        date = self.spec.event_date_column
        if date is not None and date in keys.column_names:
            if self.filters.start is not None:
                masks.append(pc.greater_equal(keys[date], pa.scalar(self.filters.start)))
            if self.filters.end is not None:
                masks.append(pc.less_equal(keys[date], pa.scalar(self.filters.end)))
        masks += [c.mask(keys[c.column]) for c in self.conditions]
        if not masks:
            return None
        return np.logical_and.reduce([np.asarray(pc.fill_null(m, False).to_numpy(), dtype=np.bool_) for m in masks])

    def _bounds(self, column: str) -> tuple[Any, Any] | None:
        """Least and greatest value of a column that the filters allow."""
        if column == self.spec.schema_.user and self.filters.users:
            return min(self.filters.users), max(self.filters.users)
        dated = self.filters.start is not None or self.filters.end is not None
        if column == self.spec.event_date_column and dated:
            return self.filters.start or dt.date.min, self.filters.end or dt.date.max
        return None

    def _kept_groups(self, stream: RowStream, ref: TableRef) -> npt.NDArray[np.bool_]:
        """Row groups whose statistics the filters touch."""
        metadata = stream.parquet.metadata
        keep = np.ones(metadata.num_row_groups, dtype=np.bool_)
        date = self.spec.event_date_column
        for column in (self.spec.schema_.user, *([date] if date is not None and date in ref.fields else [])):
            limits = self._bounds(column)
            physical = physical_columns(stream.parquet, ref, [column])[column] if limits is not None else None
            if limits is not None and physical is not None:
                keep &= overlapping(metadata, physical, Users(*limits))
        return keep

    def _touched(self, stream: RowStream, ref: TableRef) -> Int64 | None:
        """Rows of these row groups; ``None`` for all."""
        keep = self._kept_groups(stream, ref)
        if keep.all():
            return None
        starts = group_starts(stream.parquet.metadata)
        return ranges(starts[:-1][keep], np.diff(starts)[keep])


_NONE = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


def _row_bytes(stream: RowStream, ref: TableRef, columns: Sequence[str]) -> float:
    """Estimated bytes of one decoded row of these columns."""
    names = physical_columns(stream.parquet, ref, columns).values()
    return decoded_bytes(stream.parquet, [n for n in names if n is not None])


def take_rows(table: pa.Table, rows: Int64) -> pa.Table:
    """Rows by number; the table itself when that is all of them."""
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))


def owners(candidates: Sequence[pa.Array], columns: Sequence[ArrowColumn]) -> Int64:
    """The candidate of each run by its key, user first; -1 for none. See ``match_keys``.

    A part's runs usually lie in the candidates' own order among those of its neighbours: they are found there first,
    and only what else its users have is matched.
    """
    keys = [single_chunk(column) for column in columns]
    count, at = len(candidates[0]), _place(candidates, keys)
    if at < 0:
        return match_keys(candidates, keys)
    found = np.full(len(keys[0]), -1, dtype=np.int64)
    found[at : at + count] = np.arange(count)
    beside = np.flatnonzero(found < 0)
    near = beside[_among(keys[0].take(pa.array(beside)), candidates[0])]
    left = np.flatnonzero(_among(candidates[0], keys[0].take(pa.array(near))))
    matched = match_keys([c.take(pa.array(left)) for c in candidates], [k.take(pa.array(near)) for k in keys])
    found[near] = np.append(left, -1)[matched]
    return found


def _place(candidates: Sequence[pa.Array], keys: Sequence[pa.Array]) -> int:
    """Where the keys are the candidates', one for one and in ascending order; -1 for nowhere."""
    count = len(candidates[0])
    if not 0 < count < len(keys[0]) or any(c.type != k.type for c, k in zip(candidates, keys, strict=True)):
        return -1
    heads = np.logical_and.reduce(
        [np.asarray(pc.fill_null(pc.equal(k, c[0]), False)) for c, k in zip(candidates, keys, strict=True)]
    )
    at = int(np.argmax(heads))
    same = heads[at] and all(k.slice(at, count).equals(c) for c, k in zip(candidates, keys, strict=True))
    return at if same and strictly_ascending(candidates) else -1


def _among(values: pa.Array, wanted: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_in(values, value_set=pc.unique(wanted)), dtype=np.bool_)

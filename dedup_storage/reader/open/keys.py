"""Key columns of one file, read for the index: only the row groups that the filters can touch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.runs import Int64, run_starts
from dedup_storage.layout import DatasetSpec
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef
from dedup_storage.reader.open.conditions import Condition
from dedup_storage.reader.options import Filters
from dedup_storage.sampling.select import Selector

__all__ = ["FileKeys", "KeyReader", "take_rows"]

_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class FileKeys:
    """Keys of a file's rows.

    Attributes:
        table: Key columns, and the event date where it is filtered on.
        rows: Row of each in the file, ascending; ``None`` when they are all of its rows.
        group_starts: First row of each of the file's row groups, and the end; deleted rows included.
    """

    table: pa.Table
    rows: Int64 | None
    group_starts: Int64

    @property
    def positions(self) -> Int64:
        """Row of each in the file."""
        return np.arange(self.table.num_rows, dtype=np.int64) if self.rows is None else self.rows

    def where(self, mask: npt.NDArray[np.bool_] | None) -> FileKeys:
        """Those of the rows for which a mask says so; all where it is ``None``."""
        if mask is None:
            return self
        return FileKeys(self.table.filter(pa.array(mask)), self.positions[mask], self.group_starts)

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

    def read(self, ref: TableRef, file: DataFile, extra: Sequence[str] = ()) -> FileKeys:
        """Keys of one file's rows, in the file's order."""
        date = self.spec.event_date_column
        dated = [date] if date is not None and date in ref.fields and self._bounds(date) is not None else []
        columns = list(dict.fromkeys([*self.spec.request_key, *dated, *extra]))
        stream = RowStream(ref.file_io(), ref, file, columns, piece_bytes=_PIECE_BYTES)
        try:
            metadata = stream.parquet.metadata
            sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
            starts = np.cumsum([0, *sizes]).astype(np.int64)
            rows = None if file.deleted is not None else self._touched(stream, starts)
            return FileKeys(stream.read(0, file.rows) if rows is None else stream.take(rows), rows, starts)
        finally:
            stream.close()

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

    def _touched(self, stream: RowStream, starts: Int64) -> Int64 | None:
        """Rows of the row groups whose statistics the filters touch; ``None`` for all."""
        keep = np.ones(len(starts) - 1, dtype=np.bool_)
        for column, physical in stream.physical.items():
            bounds = self._bounds(column)
            if bounds is None or physical is None:
                continue
            for group in range(len(keep)):
                keep[group] &= _overlaps(stream.parquet.metadata.row_group(group), physical, *bounds)
        if keep.all():
            return None
        return ranges(starts[:-1][keep], np.diff(starts)[keep])


def _overlaps(group: pq.RowGroupMetaData, column: str, low: Any, high: Any) -> bool:
    """Whether a row group can hold a value between the bounds; True where its statistics do not say."""
    for place in range(group.num_columns):
        chunk = group.column(place)
        if chunk.path_in_schema == column:
            statistics = chunk.statistics
            if statistics is None or not statistics.has_min_max:
                return True
            least, greatest = statistics.min, statistics.max
            if type(least) is not type(low):
                return True
            return not (greatest < low or least > high)
    return True


def take_rows(table: pa.Table, rows: Int64) -> pa.Table:
    """Rows by number; the table itself when that is all of them."""
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))

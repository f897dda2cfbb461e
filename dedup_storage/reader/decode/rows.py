"""Another order of a window's rows, applied to many columns at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.runs import Int64

__all__ = ["RowOrder", "gather_runs"]

# From so many rows a run, copying whole runs costs less than an index of every row.
_LEAST_RUN = 8


@dataclass(frozen=True)
class RowOrder:
    """Runs of rows in another order.

    Attributes:
        order: Which run comes first, second, ...
        offsets: (runs + 1,) first row of each run, and the number of rows; ``None`` when each run is one row.
    """

    order: Int64
    offsets: Int64 | None = None

    @cached_property
    def rows(self) -> Int64:
        """Which row comes first, second, ..."""
        if self.offsets is None:
            return self.order
        return ranges(self.offsets[self.order], np.diff(self.offsets)[self.order])

    def take(self, columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Columns in this order. (num_columns, num_rows), C-contiguous -> the same shape."""
        count, rows = columns.shape
        if self.offsets is None or rows < _LEAST_RUN * len(self.order):
            return columns.take(self.rows, axis=1)
        # The columns' runs, one column after the other, are gathered in one call.
        column = np.arange(count, dtype=np.int64)[:, np.newaxis]
        offsets = np.append((self.offsets[:-1] + column * rows).ravel(), count * rows)
        order = (self.order + column * len(self.order)).ravel()
        return gather_runs(columns.ravel(), offsets, order).reshape(count, rows)


def gather_runs(values: npt.NDArray[Any], offsets: Int64, order: Int64) -> npt.NDArray[Any]:
    """``values[offsets[r] : offsets[r + 1]]`` for every r of ``order``; each run is copied as a whole."""
    width = values.dtype.itemsize
    data = pa.py_buffer(np.ascontiguousarray(values))
    strings = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets * width), data]
    )
    taken = strings.take(pa.array(order)).buffers()[2]
    return np.frombuffer(taken if taken is not None else b"", dtype=values.dtype)

"""Lists of an Arrow column taken apart, cut, turned and put together again; no row is looked at by itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64

__all__ = ["Lists"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lists:
    """A column of lists.

    Attributes:
        values: All elements, row after row.
        offsets: (rows + 1,) int64; a missing list is empty.
        missing: (rows,) bool: the list itself is null.
    """

    values: pa.Array
    offsets: Int64
    missing: Bools

    @classmethod
    def of(cls, column: pa.Array) -> Lists:
        """The lists of an array."""
        values, offsets = list_parts(column)
        return cls(values, offsets, column.is_null().to_numpy(zero_copy_only=False))

    @property
    def lengths(self) -> Int64:
        """(rows,) int64."""
        return np.diff(self.offsets)

    def row_of(self, element: int) -> int:
        """The row that an element stands in."""
        return int(np.searchsorted(self.offsets, element, side="right")) - 1

    def with_values(self, values: pa.Array) -> Lists:
        """Other values in the same lists."""
        return Lists(values, self.offsets, self.missing)

    def between(self, first: Int64, last: Int64) -> Lists:
        """The elements from ``first`` up to ``last`` of each row, both numbers of elements."""
        lengths = last - first
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if offsets[-1] == len(self.values):
            return Lists(self.values, offsets, self.missing)
        places = np.arange(offsets[-1], dtype=np.int64) + np.repeat(first - offsets[:-1], lengths)
        return Lists(self.values.take(pa.array(places)), offsets, self.missing)

    def turned(self) -> Lists:
        """Each list from its end to its beginning."""
        sums = np.repeat(self.offsets[:-1] + self.offsets[1:] - 1, self.lengths)
        places = sums - np.arange(len(self.values), dtype=np.int64)
        return self.with_values(self.values.take(pa.array(places)))

    def filled(self, padded: Bools, *, left: bool) -> tuple[Int64, Int64]:
        """First and end of what is left of each row when the padding of one side is removed.

        Args:
            padded: (elements,) bool: the element is padding.
            left: The side.
        """
        starts, ends = self.offsets[:-1], self.offsets[1:]
        kept = np.flatnonzero(~padded).astype(np.int64)
        if left:
            bounded = np.append(kept, len(padded))
            return np.minimum(bounded[np.searchsorted(kept, starts)], ends), ends
        bounded = np.concatenate([[-1], kept])
        return starts, np.maximum(bounded[np.searchsorted(kept, ends)] + 1, starts)

    def array(self) -> pa.Array:
        """The lists as an array."""
        kind = pa.list_(pa.field("element", self.values.type))
        mask = pa.array(self.missing) if self.missing.any() else None
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), self.values, kind, mask=mask)

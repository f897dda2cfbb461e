"""Where an Iceberg writer ends a page: known exactly, so that bytes can be counted without it.

parquet-java looks at its open pages only now and then. At a look, a page ends that holds 90 % of the page size, or
20,000 rows; the next look comes when half the rows have passed that the fullest page still has room for, though not
sooner than the least and not later than the greatest number of rows between looks
(apache/parquet-java 1.17, ``ColumnWriteStoreBase.sizeCheck``). A page's size is that of its values before any
dictionary (``FallbackValuesWriter.getBufferedSize``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import single_chunk

__all__ = ["PageRule", "row_bytes"]

Floats = npt.NDArray[np.float64]

_ROWS_PER_PAGE = 20_000
_FULL = 0.9
# Repetition and definition levels of a list: a run-length and a bit-packed run in each row.
_LEVEL_BYTES = 5.0


class PageRule:
    """Follows the rows of a file and says where the pages of each column end.

    Args:
        names: Columns, which are looked at together.
        page_bytes: Page size asked for.
        least_rows, most_rows: Rows between two looks.
    """

    def __init__(self, names: Sequence[str], page_bytes: int, least_rows: int, most_rows: int) -> None:
        self._page_bytes, self._least, self._most = page_bytes, least_rows, most_rows
        self._rows = 0
        self._next = min(least_rows, _ROWS_PER_PAGE)
        self._begun = dict.fromkeys(names, 0)
        self._held = dict.fromkeys(names, 0.0)

    def advance(self, sizes: Mapping[str, Floats]) -> dict[str, list[int]]:
        """Take the next rows.

        Args:
            sizes: Column -> (rows,) bytes of each row.

        Returns:
            Column -> rows of these after which a page ends, ascending in [1, rows].
        """
        ends: dict[str, list[int]] = {name: [] for name in sizes}
        count = len(next(iter(sizes.values()), ()))
        sums = {name: np.cumsum(size) + self._held[name] for name, size in sizes.items()}
        gone = dict.fromkeys(sizes, 0.0)
        while self._next <= self._rows + count:
            at = self._next - self._rows
            wait = float(self._most)
            for name, sum_ in sums.items():
                used, rows = float(sum_[at - 1]) - gone[name], self._next - self._begun[name]
                room = self._page_bytes - used
                if room <= (1 - _FULL) * self._page_bytes or rows >= _ROWS_PER_PAGE:
                    ends[name].append(at)
                    self._begun[name], gone[name] = self._next, float(sum_[at - 1])
                    room = self._page_bytes
                wait = min(wait, self._most if used <= 0 else rows * room / used)
            self._next += int(np.clip(wait // 2, self._least, self._most))
            self._next = min(self._next, min(self._begun.values()) + _ROWS_PER_PAGE)
        for name, sum_ in sums.items():
            self._held[name] = float(sum_[-1]) - gone[name] if count else self._held[name]
        self._rows += count
        return ends


def row_bytes(column: pa.Array | pa.ChunkedArray) -> Floats:
    """Bytes of each row before any encoding, levels included. (rows,) float64."""
    array = single_chunk(column)
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, offsets = list_parts(array)
        sums = np.concatenate([[0.0], np.cumsum(row_bytes(values))])
        within: Floats = sums[offsets[1:]] - sums[offsets[:-1]] + _LEVEL_BYTES
        return within
    if pa.types.is_boolean(kind):
        return np.full(len(array), 1 / 8)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        lengths = pa.compute.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        texts: Floats = lengths.astype(np.float64) + 4.0
        return texts
    if pa.types.is_primitive(kind):
        # Parquet has no integers narrower than four bytes.
        return np.full(len(array), max(4.0, kind.bit_width / 8))
    return np.full(len(array), array.nbytes / max(1, len(array)))

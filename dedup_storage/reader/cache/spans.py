"""Which bytes of a Parquet file are fetched and kept together: blocks of column chunks, small neighbours as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

__all__ = ["Spans"]

# A larger chunk of a column is several spans: one is held in memory while it is fetched.
_MOST = 4 << 20
# Neighbours below this are one span: a request costs more than bytes that nobody asked for.
_SMALL = 256 << 10


@dataclass(frozen=True)
class Spans:
    """Spans of a file, ascending, which follow from its footer alone: whatever columns are read, they are the same.

    Attributes:
        starts: First byte of each.
        stops: Last byte of each, exclusive.
    """

    starts: list[int]
    stops: list[int]

    @classmethod
    def of(cls, metadata: pq.FileMetaData) -> Spans:
        """The spans of all row groups."""
        found = list(_spans(metadata))
        return cls([start for start, _ in found], [stop for _, stop in found])

    def at(self, place: int) -> tuple[int, int] | None:
        """The span that a byte is in; ``None`` for one between them."""
        found = bisect_right(self.starts, place) - 1
        return (self.starts[found], self.stops[found]) if found >= 0 and place < self.stops[found] else None

    def next(self, place: int) -> int | None:
        """Where the next span behind a byte begins; ``None`` where there is none."""
        found = bisect_right(self.starts, place)
        return self.starts[found] if found < len(self.starts) else None


def _spans(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    first = last = 0
    for start, stop in _chunks(metadata):
        # Files whose chunks overlap do not occur; what is read would be right all the same.
        start = max(start, last)
        if start == last and stop - first <= _SMALL:
            last = max(stop, last)
            continue
        yield from _blocks(first, last)
        first, last = start, max(stop, start)
    yield from _blocks(first, last)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        yield start, min(start + _MOST, stop)
        start += _MOST


def _chunks(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """First and last byte of each column chunk, ascending."""
    found = []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in range(row_group.num_columns):
            chunk = row_group.column(place)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset
            found.append((start, start + chunk.total_compressed_size))
    return sorted(found)

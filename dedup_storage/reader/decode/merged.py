"""Requests of a user bucket on all of its dates, decoded as one unit: those of a user lie together, as events do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.event_rows import EventRows, Int32
from dedup_storage.reader.decode.events import HistoryReader
from dedup_storage.reader.decode.streams import LEAST_PIECE, Streams
from dedup_storage.reader.decode.unit_reader import Decoded, UnitReader, UnitSource
from dedup_storage.reader.decode.units import RequestUnit
from dedup_storage.reader.segment import SegmentKey

__all__ = ["AnyUnit", "MergedReader", "MergedUnit"]


@dataclass(frozen=True)
class MergedUnit:
    """Units of several files, their requests in one order that keeps each file's own.

    Attributes:
        parts: The units.
        part: (n,) int32, the unit of each request.
        users: (n,) int32, its user's number, ascending.
        events: Where the lists of each sequence group stand.
    """

    parts: tuple[RequestUnit, ...]
    part: Int32
    users: Int32
    events: tuple[EventRows, ...]

    def __len__(self) -> int:
        return len(self.part)

    @property
    def segment(self) -> SegmentKey:
        """The bucket, for messages."""
        return self.parts[0].segment

    @cached_property
    def rows(self) -> tuple[Int64, ...]:
        """Of each part the places of its requests, ascending."""
        return tuple(np.flatnonzero(self.part == number) for number in range(len(self.parts)))

    def _merged(self, arrays: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        together = np.concatenate(arrays)
        found = np.empty_like(together)
        found[np.concatenate(self.rows)] = together
        return found

    @cached_property
    def lengths(self) -> Int32:
        """(n,) int32 impressions of each request."""
        return self._merged([part.lengths for part in self.parts]).astype(np.int32)

    @cached_property
    def tokens(self) -> Int64 | None:
        """(n,) int64 elements of the list column that batches are measured in."""
        found = [part.tokens for part in self.parts if part.tokens is not None]
        return self._merged(found).astype(np.int64) if found else None

    def _mean(self, values: Sequence[float], weights: Sequence[int]) -> float:
        return float(np.dot(values, weights)) / max(sum(weights), 1)

    @property
    def request_bytes(self) -> float:
        """Decoded bytes behind one request's own columns, estimated."""
        own = self._mean([p.request_bytes for p in self.parts], [len(p) for p in self.parts])
        return own + sum(each.request_bytes for each in self.events)

    @property
    def impression_bytes(self) -> float:
        """The same for one impression."""
        return self._mean([p.impression_bytes for p in self.parts], [int(p.lengths.sum()) for p in self.parts])

    @property
    def index_bytes(self) -> int:
        """Bytes of its arrays: what it costs to keep."""
        own = self.part.nbytes + self.users.nbytes + self.lengths.nbytes + sum(rows.nbytes for rows in self.rows)
        return own + sum(p.index_bytes for p in self.parts) + sum(e.nbytes for e in self.events)


AnyUnit = RequestUnit | MergedUnit


class MergedReader:
    """Decodes ascending blocks of a merged unit.

    Args:
        unit: The unit.
        source: What its parts are read from.
    """

    def __init__(self, unit: MergedUnit, source: UnitSource) -> None:
        self._unit = unit
        # All parts are open at once, and share what one of them alone may hold.
        piece_bytes = max(source.piece_bytes // len(unit.parts), LEAST_PIECE)
        own = replace(source, events=(), cut=(), request_columns=source.stored_requests, piece_bytes=piece_bytes)
        self._readers = [UnitReader(part, own) for part in unit.parts]
        self._columns = list(source.request_columns)
        self._streams = Streams(source.piece_bytes)
        self._histories = HistoryReader(unit.events, source.events, source.cuts, source.most, self._streams)

    def close(self) -> None:
        """Let the files go."""
        for reader in self._readers:
            reader.close()
        self._streams.close()

    def read(self, start: int, stop: int) -> Decoded:
        """Requests ``start`` to ``stop`` of the unit, with their impressions."""
        found: list[Decoded] = []
        for reader, rows in zip(self._readers, self._unit.rows, strict=True):
            first, last = np.searchsorted(rows, (start, stop)).tolist()
            if first < last or not found:
                found.append(reader.read(first, last))
        lengths = np.concatenate([part.lengths for part in found])
        requests = pa.concat_tables([part.requests for part in found], promote_options="permissive")
        impressions = pa.concat_tables([part.impressions for part in found], promote_options="permissive")
        # Which of the requests, part after part, comes first, second, ...
        place = np.empty(len(lengths), dtype=np.int64)
        place[np.argsort(self._unit.part[start:stop], kind="stable")] = np.arange(len(lengths))
        if np.any(place[1:] < place[:-1]):
            offsets = offsets_from_lengths(lengths)
            lengths = lengths[place]
            requests = gather_table(requests, place)
            impressions = gather_table(impressions, ranges(offsets[place], lengths))
        requests = self._histories.put(requests, start, stop)
        return Decoded(requests.select(self._columns), impressions, lengths)

"""Request units: what is decoded from beginning to end, and where the impressions of its requests are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.event_rows import EventRows, Int32
from dedup_storage.reader.decode.features import FeatureRows
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.segment import SegmentKey

__all__ = ["RequestUnit", "RunList", "Runs"]


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
class RequestUnit:
    """Requests of one file that are decoded one after the other.

    Attributes:
        segment: Their (date, bucket) segment, for messages.
        file: File of the request columns.
        first: Row of the first request in ``file``.
        rows: Row of each request in ``file``; ``None`` when they follow ``first`` without a gap.
        lengths: (n,) impressions of each request.
        impressions: Where these are.
        features: Where the rows of each feature group are.
        request_bytes: Decoded bytes behind one request's own columns, estimated.
        impression_bytes: The same for one impression.
        tokens: (n,) elements of the list column that batches are measured in.
        weights: (n,) inverse inclusion probability, in a sample.
        events: Where the lists of each sequence group stand, in layout ``user``.
        users: (n,) number of each request's user, where the order keeps requests of a user together.
    """

    segment: SegmentKey
    file: DataFile
    first: int
    rows: Int64 | None
    lengths: Int32
    impressions: tuple[Runs, ...]
    features: tuple[FeatureRows, ...]
    request_bytes: float
    impression_bytes: float
    tokens: Int64 | None = None
    weights: npt.NDArray[np.float64] | None = None
    events: tuple[EventRows, ...] = ()
    users: Int32 | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def index_bytes(self) -> int:
        """Bytes of its arrays: what it costs to keep."""
        lists = [r.listed for r in self.impressions if r.listed is not None]
        arrays: list[npt.NDArray[Any] | None] = [self.lengths, self.rows, self.tokens, self.weights, self.users]
        arrays += [a for r in lists for a in (r.starts, r.lengths, r.requests)]
        arrays += [a for f in self.features for _, *of_file in f.files for a in cast(list[npt.NDArray[Any]], of_file)]
        return sum(a.nbytes for a in arrays if a is not None) + sum(e.nbytes for e in self.events)

"""Units: what is decoded from beginning to end, and where the impressions of its requests are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.features import FeatureRows
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.open.scan import SegmentKey

__all__ = ["FileRuns", "RunList", "Runs", "Unit", "cut_points", "unit_runs"]

Int32 = npt.NDArray[np.int32]
# A cut may cost this share of a unit's own decoding: impressions before it in their row group are decoded twice.
_WASTE = 0.25


@dataclass(frozen=True)
class FileRuns:
    """Runs of one file's impressions.

    Attributes:
        file: The file.
        starts: First row of each run.
        lengths: Rows of each run.
        owners: Candidate of the segment that each belongs to.
        group_starts: First row of each row group, and the end.
    """

    file: DataFile
    starts: Int64
    lengths: Int64
    owners: Int64
    group_starts: Int64


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

    def __len__(self) -> int:
        return len(self.lengths)

    def request_rows(self, start: int, stop: int) -> Int64:
        """Row in ``file`` of the unit's requests ``start`` to ``stop``."""
        if self.rows is not None:
            return self.rows[start:stop]
        return np.arange(self.first + start, self.first + stop, dtype=np.int64)


def cut_points(
    group_starts: Int64,
    file: DataFile,
    rows: Int64,
    runs: Sequence[FileRuns],
    low: int,
    request_bytes: float,
    impression_bytes: float,
) -> list[int]:
    """Where a file's requests are divided into units: at row groups whose impressions also begin near one.

    Args:
        group_starts: First row of each of the request file's row groups, and the end.
        file: The request file.
        rows: Row in the file of each request.
        runs: The segment's impressions.
        low: Candidate number of the file's first request.
        request_bytes: Decoded bytes behind one request.
        impression_bytes: Decoded bytes behind one impression.

    Returns:
        Ascending places, from 0 to the number of requests.
    """
    total = len(rows)
    whole = [0, total]
    mine = [r for r in runs if np.any((r.owners >= low) & (r.owners < low + total))]
    if len(group_starts) <= 2 or file.deleted is not None or len(mine) != 1:
        return whole
    run, cuts = mine[0], [0]
    if run.file.deleted is not None or np.any(run.owners[1:] < run.owners[:-1]):
        return whole
    for boundary in np.searchsorted(rows, group_starts[1:-1]).tolist():
        begins = np.searchsorted(run.owners, low + boundary)
        if boundary <= cuts[-1] or boundary >= total or begins >= len(run.starts):
            continue
        row = int(run.starts[begins])
        group = int(np.searchsorted(run.group_starts, row, side="right")) - 1
        decoded_twice = (row - int(run.group_starts[group])) * impression_bytes
        if decoded_twice <= _WASTE * (boundary - cuts[-1]) * request_bytes:
            cuts.append(boundary)
    return [*cuts, total]


def unit_runs(runs: Sequence[FileRuns], low: int, high: int, local: Int64, lengths: Int32) -> list[Runs]:
    """The runs of one unit, in the compact form where they allow it.

    Args:
        runs: The segment's impressions.
        low: First candidate of the unit's file.
        high: Its last, exclusive.
        local: Row in the unit of each of these candidates, -1 for those of another unit or none.
        lengths: Impressions of each of the unit's requests.
    """
    found = []
    for run in runs:
        inside = (run.owners >= low) & (run.owners < high)
        inside[inside] = local[run.owners[inside] - low] >= 0
        if not np.any(inside):
            continue
        starts, sizes, requests = run.starts[inside], run.lengths[inside], local[run.owners[inside] - low]
        present = np.flatnonzero(lengths)
        end_to_end = np.array_equal(starts[1:], starts[:-1] + sizes[:-1])
        listed = None
        if not (end_to_end and np.array_equal(requests, present) and np.array_equal(sizes, lengths[present])):
            listed = RunList(starts, sizes.astype(np.int32), requests.astype(np.int32))
        found.append(Runs(run.file, int(starts[0]), listed))
    return found

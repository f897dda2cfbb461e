"""How a file's requests are divided into units, and which runs of impressions belong to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.decode.units import RunList, Runs

__all__ = ["FileRuns", "cut_points", "unit_runs"]

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
    own = [r for r in runs if np.any((r.owners >= low) & (r.owners < low + total))]
    if len(group_starts) <= 2 or file.deleted is not None or len(own) != 1:
        return whole
    run, cuts = own[0], [0]
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

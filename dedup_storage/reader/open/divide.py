"""How a file's requests are divided into units, and which runs of impressions belong to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.decode.units import RunList, Runs

__all__ = ["FileRuns", "GroupSizes", "cut_rows", "unit_runs"]

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
        row_bytes: Decoded bytes behind one impression, estimated.
    """

    file: DataFile
    starts: Int64
    lengths: Int64
    owners: Int64
    row_bytes: float


@dataclass(frozen=True)
class GroupSizes:
    """Row groups of one file.

    Attributes:
        starts: (groups + 1,) first row of each, and the end.
        row_bytes: Decoded bytes behind one row, estimated.
    """

    starts: Int64
    row_bytes: float


def cut_rows(requests: GroupSizes, impressions: GroupSizes, least_rows: int = 0) -> list[int]:
    """Where a file's requests are divided into units: at row groups whose impressions also begin near one.

    Footers do not say where a request's impressions begin: they are taken to be spread evenly. In flat layout both
    files are the same, so that every row group is a place to cut at.

    Args:
        requests: The request file.
        impressions: The one file with all of its impressions, in the same order.
        least_rows: Rows of a unit, at least.

    Returns:
        Ascending rows of the request file, from 0 to the end.
    """
    total = int(requests.starts[-1])
    spread = int(impressions.starts[-1]) / max(total, 1)
    cuts = [0]
    for boundary in requests.starts[1:-1].tolist():
        row = min(boundary * spread, float(impressions.starts[-1]) - 1)
        group = int(np.searchsorted(impressions.starts, row, side="right")) - 1
        decoded_twice = (row - float(impressions.starts[max(group, 0)])) * impressions.row_bytes
        own = boundary - cuts[-1]
        if own >= max(least_rows, 1) and boundary < total and decoded_twice <= _WASTE * own * requests.row_bytes:
            cuts.append(boundary)
    return [*cuts, total]


def unit_runs(runs: Sequence[FileRuns], low: int, high: int, local: Int64, lengths: Int32) -> list[Runs]:
    """The runs of one unit, in the compact form where they allow it.

    Args:
        runs: The impressions that were matched with the unit's candidates.
        low: First candidate of the unit.
        high: Its last, exclusive.
        local: Row in the unit of each of these candidates, -1 for those that are none of its requests.
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

"""What is known of units: before their keys are read by rows, then by the lengths of their requests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import StorageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.reader.decode.merged import AnyUnit
from dedup_storage.reader.open.lengths import KnownLengths
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.open.sections import PlannedUnit
from dedup_storage.reader.open.units import UnitIndex
from dedup_storage.reader.options import Filters, ReadOptions, Unit
from dedup_storage.reader.order import UnitSizes, UnitWeights
from dedup_storage.reader.segment import SegmentKey, segment_text
from dedup_storage.words import counted

__all__ = [
    "SizesInTurn",
    "Totals",
    "counted_first",
    "filters_of_rows",
    "known_totals",
    "planned_weights",
    "unit_sizes",
]

Int32 = npt.NDArray[np.int32]
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class Totals:
    """Rows of an epoch; ``None`` where keys must be counted.

    Attributes:
        requests: Requests.
        impressions: Impressions.
        users_not_found: Users that the filters name and that have no request to read.
    """

    requests: int | None = None
    impressions: int | None = None
    users_not_found: int = 0


def filters_of_rows(filters: Filters, spec: DatasetSpec, scan: TableScan) -> Filters:
    """What filters ask of rows: buckets choose files, and dates do where each file holds days that are wanted alone."""
    left = filters.model_copy(update={"buckets": None})
    column = spec.event_date_column
    if column is not None and all(_wanted(key, column, filters) for key in scan.segments):
        left = left.model_copy(update={"start": None, "end": None})
    return left


def _wanted(segment: SegmentKey, column: str, filters: Filters) -> bool:
    for field, value in segment:
        days = _days(field, value, column)
        if days is not None:
            first, last = days
            return (filters.start is None or first >= filters.start) and (filters.end is None or last <= filters.end)
    return False


def _days(field: str, value: Any, column: str) -> tuple[dt.date, dt.date] | None:
    """First and last day of a segment, where its partition says."""
    if field in (column, f"identity({column})", f"day({column})"):
        if isinstance(value, dt.date):
            return value, value
        return (_EPOCH + dt.timedelta(days=value),) * 2 if isinstance(value, int) else None
    if field == f"month({column})" and isinstance(value, int):
        first, following = (dt.date(1970 + m // 12, m % 12 + 1, 1) for m in (value, value + 1))
        return first, following - dt.timedelta(days=1)
    return None


def planned_weights(
    spec: DatasetSpec,
    options: ReadOptions,
    units: Sequence[PlannedUnit],
    impressions: TableScan,
    *,
    complete: bool,
) -> UnitWeights:
    """From row counts alone, for units of whose rows nothing is filtered.

    Args:
        units: The plan's units.
        impressions: Scan of the table with the impression columns.
        complete: Whether every impression of a segment has a request there, or reading it is an error.
    """
    rows = np.array([unit.rows for unit in units], dtype=np.int64)
    flat = spec.layout is Layout.FLAT
    of_segment: dict[SegmentKey, int] = {}
    for unit in units:
        of_segment[unit.segment] = of_segment.get(unit.segment, 0) + unit.rows
    whole = np.array([of_segment[unit.segment] for unit in units], dtype=np.int64)
    shown = {key: sum(file.rows for file in files) for key, files in impressions.segments.items()}
    candidates = np.array([shown.get(unit.segment, 0) for unit in units], dtype=np.int64)
    # Nobody knows which of a segment's impressions are a part's.
    alone = (rows == whole) & (rows > 0)
    share = np.maximum(candidates * rows // np.maximum(whole, 1), rows)
    weights = rows if options.unit is Unit.REQUESTS else share
    least = np.where(alone, 1, 0) if flat else rows
    # A request above the batch size is one batch, whatever it holds: only where there is none do impressions count.
    bounded = options.oversize == "split" or (
        impressions.positions is not None and impressions.positions <= options.batch_size
    )
    if options.unit is Unit.IMPRESSIONS and bounded and complete:
        least = np.where(alone, np.maximum(candidates, least), least)
    return UnitWeights(rows, weights, least, exact=options.unit is Unit.REQUESTS and not flat)


def known_totals(spec: DatasetSpec, requests: TableScan, impressions: TableScan, *, complete: bool) -> Totals:
    """What row counts say of an epoch of whose rows nothing is filtered."""
    if spec.layout is Layout.FLAT:
        return Totals(None, impressions.num_rows)
    return Totals(requests.num_rows, impressions.num_rows if complete else None)


def unit_sizes(unit: AnyUnit, measure: Unit, together: int = 1) -> UnitSizes:
    """What the order needs of a unit whose keys were read.

    Args:
        unit: The unit.
        measure: What batches count.
        together: Requests of one user that the shuffle keeps together.
    """
    cost = _cost(unit.lengths, measure, unit.tokens)
    groups = None if unit.users is None or together == 1 else _groups(unit.users, together)
    return UnitSizes(unit.lengths, cost, unit.request_bytes, unit.impression_bytes, groups)


def _groups(users: Int32, together: int) -> Int64:
    """(n,) first of the requests that each stays with: neighbours of one user, so many at a time."""
    new = np.ones(len(users), dtype=np.bool_)
    new[1:] = users[1:] != users[:-1]
    heads = np.flatnonzero(new)
    rows = np.arange(len(users), dtype=np.int64)
    within = rows - np.repeat(heads, np.diff(heads, append=len(users)))
    return rows - within % together


def _cost(lengths: Int32, measure: Unit, tokens: Int64 | None) -> Int64:
    if measure is Unit.REQUESTS:
        return np.ones(len(lengths), dtype=np.int64)
    if measure is Unit.TOKENS and tokens is not None:
        return np.maximum(tokens, 1)
    # A request without impressions still takes a row.
    return np.maximum(lengths.astype(np.int64), 1)


@dataclass(frozen=True)
class SizesInTurn:
    """What the order needs of units, whose keys are read when it asks.

    Attributes:
        units: The units.
        known: Lengths that were read before.
        measure: What batches count.
        longest: Impressions of a request, at most, where the order rests on it.
        together: Requests of one user that the shuffle keeps together.
    """

    units: UnitIndex
    known: KnownLengths
    measure: Unit
    longest: int | None
    together: int = 1

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, number: int) -> UnitSizes:
        # Lengths alone are known, neither lists nor users.
        plain = self.measure is not Unit.TOKENS and self.together == 1
        known = self.known.get(number) if plain else None
        if known is not None:
            lengths, request_bytes, impression_bytes = known
            return UnitSizes(lengths, _cost(lengths, self.measure, None), request_bytes, impression_bytes)
        unit = self.units[number]
        longest = int(unit.lengths.max(initial=0))
        if self.longest is not None and longest > self.longest:
            raise StorageError(
                f"a request has several impressions at one position, in {segment_text(unit.segment)}",
                expected=f"at most {counted(self.longest, 'impression')} of a request, as its files' bounds say",
                got=str(longest),
                fix="Write the segment again.",
            )
        self.known.put(number, unit)
        return unit_sizes(unit, self.measure, self.together)


def counted_first(
    units: UnitIndex, options: ReadOptions, users: set[int | str] | None = None
) -> tuple[UnitIndex, UnitWeights, Totals]:
    """Units that have requests, their weights and totals: all keys are read.

    Args:
        users: The users that the filters name.
    """
    kept, requests, impressions = [], 0, 0

    def sizes() -> Iterator[UnitSizes]:
        nonlocal requests, impressions
        for number, unit in enumerate(units.visit()):
            if len(unit):
                kept.append(number)
                requests, impressions = requests + len(unit), impressions + int(unit.lengths.sum())
                yield unit_sizes(unit, options.unit)

    weights = UnitWeights.of(sizes(), options.batch_size, exact=options.unit is Unit.REQUESTS)
    missing = len((users or set()) - units.indexer.found_users)
    return units.only(kept), weights, Totals(requests, impressions, missing)

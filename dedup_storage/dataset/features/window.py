"""The part of a log that one computation reads or writes: event dates and user buckets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.ranges import in_ranges
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain

__all__ = ["EVERYTHING", "Window"]

_DAY = timedelta(days=1)
Ranges = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Window:
    """Event dates and user buckets.

    Attributes:
        ranges: Half-open ranges of event dates (ISO); an empty text is no bound.
        buckets: User buckets; ``None`` for all.
    """

    ranges: Ranges = (("", ""),)
    buckets: tuple[int, ...] | None = None

    @property
    def all_dates(self) -> bool:
        """Whether no event date is left out."""
        return self.ranges == (("", ""),)

    @classmethod
    def of(cls, cells: Iterable[Cell], spec: DatasetSpec) -> Window:
        """The smallest window that holds the cells."""
        cells = list(cells)
        ends = []
        for cell in cells:
            dated = spec.event_date_column is not None
            low = cell.low.isoformat() if dated and cell.low is not None else ""
            high = (cell.high + _DAY).isoformat() if dated and cell.high is not None else ""
            ends.append((low, high))
        buckets = {c.bucket for c in cells}
        named = tuple(sorted(b for b in buckets if b is not None))
        return cls(_joined(ends), None if None in buckets or len(named) == spec.buckets else named)

    def with_history(self, lookback: int | None) -> Window:
        """The window and the days before it (``None``: all of them)."""
        if lookback == 0:
            return self
        ends = [("" if lookback is None or not low else _shift(low, -lookback), high) for low, high in self.ranges]
        return Window(_joined(ends), self.buckets)

    def whole_segments(self, spec: DatasetSpec) -> Window:
        """The segments that hold it."""
        if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
            return Window((("", ""),), self.buckets)
        if spec.date_grain is DateGrain.DAY:
            return self
        ends = []
        for low, high in self.ranges:
            first = date.fromisoformat(low).replace(day=1).isoformat() if low else ""
            last = (date.fromisoformat(high) - _DAY).replace(day=1) if high else None
            ends.append((first, (last + 32 * _DAY).replace(day=1).isoformat() if last is not None else ""))
        return Window(_joined(ends), self.buckets)

    def cells(self) -> list[Cell]:
        """The window as cells."""
        cells = []
        for low, high in self.ranges:
            first = date.fromisoformat(low) if low else None
            last = date.fromisoformat(high) - _DAY if high else None
            cells += [Cell(first, last, b) for b in (self.buckets if self.buckets is not None else (None,))]
        return cells

    def condition(self, handle: Handle) -> Column | None:
        """The rows inside, in terms that the table format prunes files by; ``None`` when that is all."""
        parts = []
        if not self.all_dates and handle.spec.event_date_column is not None:
            parts.append(in_ranges(handle.spec.event_date_column, self.ranges))
        if self.buckets is not None:
            parts.append(handle.bucket.isin(list(self.buckets) or [-1]))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else parts[0] & parts[1]

    def only(self, handle: Handle, frame: DataFrame) -> DataFrame:
        """The rows of a frame that lie inside; the frame needs the user key and the event date."""
        condition = self.condition(handle)
        return frame if condition is None else frame.filter(condition)

    def outside(self, handle: Handle, frame: DataFrame) -> DataFrame:
        """The other rows of a frame, those without an event date among them."""
        condition = self.condition(handle)
        inside = F.lit(True) if condition is None else F.coalesce(condition, F.lit(False))
        return frame.filter(~inside)


EVERYTHING = Window()


def _shift(day: str, days: int) -> str:
    try:
        return (date.fromisoformat(day) + days * _DAY).isoformat()
    except OverflowError:
        return ""


def _joined(ranges: Iterable[tuple[str, str]]) -> Ranges:
    """Overlapping and neighbouring ranges made one; ISO texts sort as their dates do."""
    joined: list[tuple[str, str]] = []
    for low, high in sorted(set(ranges)):
        if joined and (not joined[-1][1] or low <= joined[-1][1]):
            before = joined[-1]
            joined[-1] = (before[0], "" if not high or not before[1] else max(before[1], high))
        else:
            joined.append((low, high))
    return tuple(joined)

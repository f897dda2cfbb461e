"""Event dates of a user bucket: what changed, what is stored, what a run computes. Pure."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

__all__ = ["Cell", "shown_cells", "shown_ranges", "whole_month"]


@dataclass(frozen=True)
class Cell:
    """Event dates of one user bucket.

    Attributes:
        low, high: First and last event date; ``None`` when a file does not say.
        bucket: User bucket; ``None`` for all.
    """

    low: date | None
    high: date | None
    bucket: int | None

    def to_list(self) -> list[str | int | None]:
        """Plain values for JSON."""
        ends = (d.isoformat() if d is not None else None for d in (self.low, self.high))
        return [*ends, self.bucket]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Cell:
        """The cell of ``to_list``."""
        low, high = (date.fromisoformat(v) if v is not None else None for v in values[:2])
        return cls(low, high, values[2])

    def stretched(self, days: int | None) -> Cell:
        """The cell and the days after it (``None``: all days after it)."""
        if self.high is None or days == 0:
            return self
        return replace(self, high=None if days is None else self.high + timedelta(days=days))

    @property
    def of_all_buckets(self) -> Cell:
        """The same dates in every bucket: for one whose number is of another count of buckets."""
        return replace(self, bucket=None)

    def overlaps(self, other: Cell) -> bool:
        """Whether a row could lie in both."""
        if self.bucket is not None and other.bucket is not None and self.bucket != other.bucket:
            return False
        below = self.high is not None and other.low is not None and self.high < other.low
        above = self.low is not None and other.high is not None and self.low > other.high
        return not (below or above)


def whole_month(day: date) -> tuple[date, date]:
    """The first and the last day of a day's month."""
    return day.replace(day=1), day.replace(day=monthrange(day.year, day.month)[1])


def shown_ranges(ranges: Iterable[tuple[str, str]]) -> str:
    """Half-open ranges of event dates (ISO; an empty text is no bound) as people say them: by first and last day."""
    return ", ".join(_days(first, _day_before(end) if end else "") for first, end in ranges)


def shown_cells(cells: Collection[Cell]) -> str:
    """Event dates with their user buckets, as people say them; an empty text for none."""
    buckets: dict[tuple[str, str], set[int | None]] = {}
    for cell in cells:
        low, high = (day.isoformat() if day is not None else "" for day in (cell.low, cell.high))
        buckets.setdefault((low, high), set()).add(cell.bucket)
    told = []
    for days, those in sorted(buckets.items()):
        numbers = sorted(number for number in those if number is not None)
        where = f" (buckets {_runs(numbers)})" if None not in those else ""
        told.append(_days(*days) + where)
    return ", ".join(told)


def _days(first: str, last: str) -> str:
    if not first or not last:
        return f"from {first} on" if first else f"up to {last}" if last else "all"
    return first if first == last else f"{first} to {last}"


def _day_before(day: str) -> str:
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def _runs(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours joined: ``0 to 3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)

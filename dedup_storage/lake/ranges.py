"""Half-open ranges of event dates, as runs name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

__all__ = ["date_ranges", "in_ranges"]


def in_ranges(column: str, ranges: Sequence[tuple[str, str]]) -> Column:
    """Whether a date lies in one of half-open ranges (ISO; an empty text is no bound)."""
    condition: Column | None = None
    for low, high in ranges:
        part = F.lit(True)
        if low:
            part = F.col(column) >= F.lit(low).cast("date")
        if high:
            part = part & (F.col(column) < F.lit(high).cast("date"))
        condition = part if condition is None else condition | part
    return F.lit(False) if condition is None else condition


def date_ranges(days: Iterable[date]) -> tuple[tuple[str, str], ...]:
    """Half-open ISO ranges that hold exactly these days, neighbours joined."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if ranges and ranges[-1][1] == day:
            ranges[-1] = (ranges[-1][0], day + timedelta(days=1))
        else:
            ranges.append((day, day + timedelta(days=1)))
    return tuple((low.isoformat(), high.isoformat()) for low, high in ranges)

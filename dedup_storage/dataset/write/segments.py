"""Segments of a log's event dates."""

from __future__ import annotations

from datetime import date, timedelta

from dedup_storage.errors import InputError
from dedup_storage.schema import DateGrain

__all__ = ["segment_ranges"]


def segment_ranges(dates: tuple[str, ...], grain: DateGrain) -> tuple[tuple[str, str], ...]:
    """Half-open date ranges of the segments that hold the dates, neighbours joined.

    Raises:
        InputError: a date lies outside of the years 1 to 9999.

    Example: days 2024-01-30 and 2024-01-31 -> (("2024-01-30", "2024-02-01"),)
    """
    if grain is DateGrain.NONE:
        return (("", ""),)
    ranges: list[tuple[date, date]] = []
    for day in map(_day, dates):
        low, high = day, day + timedelta(days=1)
        if grain is DateGrain.MONTH:
            low = day.replace(day=1)
            high = (low + timedelta(days=32)).replace(day=1)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
        else:
            ranges.append((low, high))
    return tuple((low.isoformat(), high.isoformat()) for low, high in ranges)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"the event date {text} cannot be replaced",
            expected="a date of the years 1 to 9999",
            fix="Correct the log's event times, or say their unit in the schema.",
        ) from None

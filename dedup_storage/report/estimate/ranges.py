"""Intervals as the report tells them: of one figure, and of a layout's columns together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.estimate.intervals import Interval
from dedup_storage.report.estimate.layouts import LayoutEstimate
from dedup_storage.report.model import Range

__all__ = ["as_range", "columns_range"]


def as_range(interval: Interval) -> Range:
    """An interval as the report has it."""
    return Range(value=interval.value, low=interval.low, high=interval.high)


def columns_range(
    layouts: Mapping[BaselineLayout, LayoutEstimate], layout: BaselineLayout, names: Iterable[str]
) -> Range | None:
    """Stored bytes of some columns in a layout: the sum of the columns' intervals, on the safe side.

    Args:
        layouts: Those that were measured.
        layout: Which of them; ``None`` comes back where it was not.
        names: The columns.
    """
    if layout not in layouts:
        return None
    columns = layouts[layout].columns
    chosen = [columns[n] for n in names if n in columns]
    value, low, high = (sum(getattr(interval, end) for interval in chosen) for end in ("value", "low", "high"))
    return Range(value=value, low=low, high=high)

"""Expressions on the history lists of request rows. A missing list is an empty one."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.dataset.functions.windows import check_window, instant_micros, micros, not_after
from dedup_storage.errors import UsageError

__all__ = ["as_column", "count_in_window", "elapsed_seconds", "last_k", "recency_seconds", "sequence_length"]


def as_column(column: Column | str) -> Column:
    """A column given by name or as an expression."""
    return F.col(column) if isinstance(column, str) else column


def elapsed_seconds(start: Column, end: Column) -> Column:
    """double: seconds from ``start`` to ``end`` (timestamps or dates), exact to the microsecond in any time zone."""
    return (instant_micros(end) - instant_micros(start)) / F.lit(1e6)


def sequence_length(sequence: Column | str) -> Column:
    """int: elements of a list, null ones and duplicates counted; 0 for a missing list.

    Formula: n = |x|.
    """
    return F.coalesce(F.array_size(as_column(sequence)), F.lit(0))


def last_k(sequence: Column | str, k: int) -> Column:
    """The newest ``k`` elements in their order; all of a shorter list, null for a missing one.

    Formula: (x_{n-k+1}, ..., x_n).

    Raises:
        UsageError: ``k`` is not positive.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise UsageError("last_k needs a number of elements", expected="an integer of at least 1", got=repr(k))
    column = as_column(sequence)
    # A negative start beyond the list's head gives an empty list in Spark, so the start is computed.
    return F.slice(column, F.greatest(F.array_size(column) - F.lit(k - 1), F.lit(1)), F.lit(k))


def recency_seconds(times: Column | str, at: Column | str) -> Column:
    """double: seconds since the last event at or before ``at``.

    Null when no event is: the list is missing or empty, holds only nulls or later times, or ``at`` is null. The list
    need not be sorted.

    Formula: at - max{t in x : t <= at} (recency as in recency, frequency, monetary value).

    Args:
        times: List of timestamps.
        at: The request's time.
    """
    column, moment = as_column(times), as_column(at)
    newest = F.array_max(column)
    # Where nothing lies ahead, as the quality gate demands of histories, no element is looked at one by one.
    behind = F.array_max(F.filter(column, lambda t: not_after(t, moment)))
    seen = F.when(not_after(newest, moment), newest).otherwise(behind)
    return elapsed_seconds(seen, moment)


def count_in_window(times: Column | str, at: Column | str, window: dt.timedelta) -> Column:
    """int: events in (at - window, at], duplicates each, null elements never.

    0 for a missing list, null without ``at``.

    Formula: |{t in x : at - W < t <= at}|.

    Args:
        times: List of timestamps.
        at: The request's time.
        window: Length of the window.

    Raises:
        UsageError: the window is not positive.
    """
    length = F.lit(micros(check_window(window)))
    column, moment = as_column(times), as_column(at)
    # Microseconds, since a day of the session's calendar may have 23 or 25 hours.
    inside = F.array_size(
        F.filter(column, lambda t: not_after(t, moment) & (instant_micros(moment) - instant_micros(t) < length))
    )
    return F.when(moment.isNotNull(), F.coalesce(inside, F.lit(0)))

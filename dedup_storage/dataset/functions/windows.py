"""Lengths of time and moments in microseconds, whatever the session's time zone; windows in a column's name."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.errors import UsageError

__all__ = ["check_window", "instant_micros", "micros", "not_after", "window_suffix"]

_DAY_MICROS, _HOUR_MICROS, _MINUTE_MICROS = 86_400_000_000, 3_600_000_000, 60_000_000

_MICROSECOND = dt.timedelta(microseconds=1)
_UNITS = (("d", dt.timedelta(days=1)), ("h", dt.timedelta(hours=1)), ("min", dt.timedelta(minutes=1)))


def check_window(window: dt.timedelta, what: str = "window") -> dt.timedelta:
    """The window, if it is a positive length of time.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(window, dt.timedelta) or window < _MICROSECOND:
        raise UsageError(
            f"the {what} is no length of time",
            expected="a positive datetime.timedelta, such as timedelta(days=7)",
            got=repr(window),
        )
    return window


def micros(length: dt.timedelta) -> int:
    """A length of time in microseconds."""
    return length // _MICROSECOND


def instant_micros(moment: Column) -> Column:
    """bigint: microseconds since 1970-01-01 of a timestamp, a timestamp without zone or a date.

    Spark's own differences of times go by the clock of the session's zone, and lose or gain an hour where that clock
    is changed. A timestamp is an instant and needs no zone; one without a zone, and a date, count as UTC.
    """
    of_day = F.hour(moment) * F.lit(_HOUR_MICROS) + F.minute(moment) * F.lit(_MINUTE_MICROS)
    seconds = F.date_part(F.lit("SECOND"), moment) * F.lit(1_000_000)
    by_clock = F.unix_date(moment.cast("date")) * F.lit(_DAY_MICROS) + of_day + seconds.cast("bigint")
    # The type is known when the query is analysed, so one of the two is all that is left of this.
    kind = F.typeof(moment)
    by_date = F.unix_date(moment.cast("date")).cast("bigint") * F.lit(_DAY_MICROS)
    without_zone = F.when(kind == "date", by_date).otherwise(by_clock)
    return F.when(kind == "timestamp", F.unix_micros(moment.cast("timestamp"))).otherwise(without_zone)


def not_after(moment: Column, other: Column) -> Column:
    """boolean: whether a moment is not later than another, of whatever types of time the two are.

    Spark compares an instant with a date, or with a time without zone, by the clock of the session's zone.
    """
    return instant_micros(moment) <= instant_micros(other)


def window_suffix(window: dt.timedelta | None) -> str:
    """How a window ends a column's name. Examples: 7 days -> ``7d``, 36 hours -> ``36h``, ``None`` -> ``all``"""
    if window is None:
        return "all"
    for unit, length in _UNITS:
        if window % length == dt.timedelta(0):
            return f"{window // length}{unit}"
    return f"{micros(window)}us" if window % dt.timedelta(seconds=1) else f"{window // dt.timedelta(seconds=1)}s"

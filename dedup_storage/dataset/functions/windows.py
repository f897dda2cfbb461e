"""Lengths of time: checked, in microseconds, and as the end of a column's name."""

from __future__ import annotations

import datetime as dt

from dedup_storage.errors import UsageError

__all__ = ["check_window", "micros", "window_suffix"]

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


def window_suffix(window: dt.timedelta | None) -> str:
    """How a window ends a column's name. Examples: 7 days -> ``7d``, 36 hours -> ``36h``, ``None`` -> ``all``"""
    if window is None:
        return "all"
    for unit, length in _UNITS:
        if window % length == dt.timedelta(0):
            return f"{window // length}{unit}"
    return f"{micros(window)}us" if window % dt.timedelta(seconds=1) else f"{window // dt.timedelta(seconds=1)}s"

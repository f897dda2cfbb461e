"""Statistics of a user's earlier requests, such that no request sees itself or a later one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from enum import StrEnum

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.dataset.functions.windows import check_window, instant_micros, micros, window_suffix
from dedup_storage.errors import UnknownColumnError, UsageError, known_names
from dedup_storage.schema import check_name

__all__ = ["Statistic", "request_totals", "rolling_statistics"]

_AT = "_at_us"


class Statistic(StrEnum):
    """What is computed of the values inside a window; nulls and NaN are left out.

    ``count``: values; ``sum``, ``mean``, ``min``, ``max``: of them, null when there are none; ``std``: the sample's
    standard deviation (divided by n - 1), null below two values.
    """

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    STD = "std"


def request_totals(impressions: DataFrame, keys: Sequence[str], totals: Mapping[str, Column]) -> DataFrame:
    """One narrow row per request from its impressions, to roll over.

    Example: ``request_totals(imp, keys, {"clicks": F.sum("label"), "shown": F.count("item_id")})``

    Args:
        impressions: B rows.
        keys: Columns of the result beside the totals: the request key.
        totals: New column -> aggregate.
    """
    return impressions.groupBy(*keys).agg(*(c.alias(check_name(name, "column name")) for name, c in totals.items()))


def rolling_statistics(
    requests: DataFrame,
    *,
    keys: Sequence[str],
    at: str,
    values: Sequence[str] = (),
    window: dt.timedelta | None = None,
    statistics: Sequence[Statistic | str] = (Statistic.SUM, Statistic.MEAN),
    delay: dt.timedelta | None = None,
    include_current: bool = False,
) -> DataFrame:
    """Statistics over the same user's requests before each request.

    For a request at t the window holds the user's other requests at s with t - W < s < t, so requests of the same
    instant do not see each other. ``delay`` ends it at s <= t - delay, for labels that are not known at once;
    ``include_current`` ends it at s <= t and takes in the request itself and those of the same instant.

    - ``requests_count_<window>``, bigint: requests in the window;
    - ``seconds_since_previous``, double, only without ``delay`` and ``include_current``: t - max s of the window,
      null where it holds none;
    - ``<value>_<statistic>_<window>`` for each value and statistic (see ``Statistic``).

    A request without a time sees none and is seen by none. Only the named columns are sorted, never a history;
    between tables bucketed by user nothing is shuffled.

    Formula: f({v_s : u_s = u, t - W < s < t}), pandas' ``rolling(W, closed="neither")`` by user.

    Args:
        requests: R rows, one for each key.
        keys: Request key, the user first.
        at: Timestamp of the request.
        values: Numeric columns.
        window: Length W; ``None`` takes all earlier requests. The end of the names is ``7d``, ``36h``, ``all``, ...
        statistics: Of each value.
        delay: How long a value takes until it is known.
        include_current: Whether to see the present, for statistics that are no features.

    Returns:
        ``keys`` and the new columns, R rows.

    Raises:
        UnknownColumnError: the frame lacks a column.
        UsageError: a window or delay that is not positive, a delay together with ``include_current``, a delay as long
            as the window, a statistic that does not exist, or one of texts.
    """
    for column in (*keys, at, *values):
        if column not in requests.columns:
            raise UnknownColumnError(
                f"the requests have no column {column}", expected=known_names(column, requests.columns)
            )
    chosen = [_statistic(s) for s in statistics]
    for value in values:
        if requests.schema[value].dataType.typeName() == "string" and set(chosen) - {Statistic.COUNT}:
            raise UsageError(
                f"the column {value} holds texts, of which there are no statistics but their count",
                expected="numbers",
                fix="Cast it.",
            )
    suffix = window_suffix(window)
    low, high = _bounds(window, delay, include_current)
    narrow = requests.select(*dict.fromkeys((*keys, *values)), _micros(requests, at).alias(_AT))
    timed = F.col(_AT).isNotNull()
    over = Window.partitionBy(keys[0]).orderBy(_AT).rangeBetween(low, high)
    # Nulls sort first and so lie in a window without a beginning: they count for nothing there.
    count = F.count(F.when(timed, F.lit(1))).over(over)
    features = [F.when(timed, count).otherwise(F.lit(0)).alias(f"requests_count_{suffix}")]
    if delay is None and not include_current:
        features.append(((F.col(_AT) - F.max(_AT).over(over)) / F.lit(1e6)).alias("seconds_since_previous"))
    for value in values:
        for statistic in chosen:
            result = _apply(statistic, F.when(timed, _known(requests, value))).over(over)
            none = F.lit(0) if statistic is Statistic.COUNT else F.lit(None)
            features.append(F.when(timed, result).otherwise(none).alias(f"{value}_{statistic.value}_{suffix}"))
    return narrow.select(*keys, *features)


def _bounds(window: dt.timedelta | None, delay: dt.timedelta | None, include_current: bool) -> tuple[int, int]:
    """First and last microsecond of the window, from the request's."""
    low = Window.unboundedPreceding if window is None else 1 - micros(check_window(window))
    if include_current:
        if delay is not None:
            raise UsageError("delay and include_current exclude each other", fix="Leave one out.")
        return low, 0
    high = -1 if delay is None else -micros(check_window(delay, "delay"))
    if window is not None and high < low:
        raise UsageError(
            "the window holds nothing", expected="a delay shorter than the window", got=f"{delay} in {window}"
        )
    return low, high


def _micros(frame: DataFrame, at: str) -> Column:
    kind = frame.schema[at].dataType.typeName()
    if kind not in ("timestamp", "timestamp_ntz", "date"):
        raise UsageError(f"the column {at} holds no times", expected="timestamp or date", got=kind)
    return instant_micros(F.col(at))


def _statistic(value: Statistic | str) -> Statistic:
    try:
        return Statistic(value)
    except ValueError:
        raise UsageError(f"the statistic {value} does not exist", expected=known_names(str(value), Statistic)) from None


def _known(requests: DataFrame, value: str) -> Column:
    """The value; null where it is NaN, which Spark takes for greater than every number."""
    floats = requests.schema[value].dataType.typeName() in ("float", "double")
    return F.when(~F.isnan(value), F.col(value)) if floats else F.col(value)


def _apply(statistic: Statistic, value: Column) -> Column:
    functions = {
        Statistic.COUNT: F.count,
        Statistic.SUM: F.sum,
        Statistic.MEAN: F.avg,
        Statistic.MIN: F.min,
        Statistic.MAX: F.max,
        Statistic.STD: F.stddev_samp,
    }
    return functions[statistic](value)

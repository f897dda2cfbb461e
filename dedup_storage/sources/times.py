"""Event times that come as numbers or texts: in which unit, and as timestamps."""

from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import InputError
from dedup_storage.schema import LogSchema, TimeUnit
from dedup_storage.spark.rows import only_row

__all__ = ["as_times", "with_times"]

_NUMBERS = (T.ShortType, T.IntegerType, T.LongType, T.FloatType, T.DoubleType, T.DecimalType)
_PER_SECOND = {TimeUnit.S: 1, TimeUnit.MS: 10**3, TimeUnit.US: 10**6, TimeUnit.NS: 10**9}
# Logs are younger than this and older than that; in these bounds no number fits two units.
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def with_times(frame: DataFrame, schema: LogSchema) -> tuple[DataFrame, LogSchema, tuple[str, ...]]:
    """The frame with its event time as timestamps, the schema with the unit, and what is to be said.

    Raises:
        InputError: see ``as_times``.
    """
    made, unit, said = as_times(frame, str(schema.event_time), schema.time_unit)
    return made, schema.model_copy(update={"time_unit": unit}), said


def as_times(frame: DataFrame, column: str, unit: str | None = None) -> tuple[DataFrame, str | None, tuple[str, ...]]:
    """The frame with a column of numbers or texts as timestamps, their unit, and what is to be said.

    A unit that is not given is found from the least and the greatest number, in one look at the column. Texts without
    a zone are UTC.

    Args:
        frame: Rows.
        column: The column of times.
        unit: ``s``, ``ms``, ``us``, ``ns``, or the pattern of a text.

    Raises:
        InputError: the numbers fit no unit, or some values are no times.
    """
    kind, value = frame.schema[column].dataType, F.col(column)
    if isinstance(kind, _NUMBERS):
        found, said = _unit(frame, column, unit)
        return frame.withColumn(column, _from_number(value, found)), found.value, said
    if not isinstance(kind, T.StringType):
        return frame, unit, ()
    pattern = None if unit in [u.value for u in TimeUnit] else unit
    if pattern is None:
        zoned = F.when(value.rlike(r":[0-9.]*([zZ]|[+-][0-9]{2}(:?[0-9]{2})?)$"), value)
        parsed = zoned.otherwise(F.concat(value, F.when(value.rlike(":"), "Z").otherwise(" 00:00:00Z")))
        parsed = parsed.try_cast("timestamp")
    else:
        parsed = F.try_to_timestamp(value, F.lit(pattern))
    wrong = only_row(frame.agg(F.count_if(value.isNotNull() & parsed.isNull()).alias("n")))["n"]
    if wrong:
        raise InputError(
            f"{wrong} texts of the time column {column} are no times",
            expected="ISO 8601, such as 2024-06-01T10:00:00Z" if pattern is None else f"the pattern {pattern}",
            fix=f"Say their pattern in the schema: event_time: {{column: {column}, unit: M/d/yyyy h:mm:ss a}}.",
        )
    return frame.withColumn(column, parsed), unit, ()


def _unit(frame: DataFrame, column: str, given: str | None) -> tuple[TimeUnit, tuple[str, ...]]:
    value, units = F.col(column), {u.value: u for u in TimeUnit}
    broken = F.count_if(F.isnan(value.cast("double")) | (value != F.floor(value)))
    row = only_row(frame.agg(F.min(value).alias("low"), F.max(value).alias("high"), broken.alias("broken")))
    say = f"Say the unit in the schema: event_time: {{column: {column}, unit: s}}."
    if row["broken"]:
        raise InputError(
            f"{row['broken']} values of the time column {column} are no whole numbers",
            expected="whole seconds, milliseconds, microseconds or nanoseconds",
            fix=f"Cast {column} to a timestamp in the log.",
        )
    if given is not None:
        if given in units:
            return units[given], ()
        raise InputError(
            f"the time column {column} holds numbers", expected="a unit: s, ms, us or ns", got=given, fix=say
        )
    if row["low"] is None:
        return TimeUnit.S, ()
    for unit, factor in _PER_SECOND.items():
        if _FIRST.timestamp() * factor <= row["low"] and row["high"] < _LAST.timestamp() * factor:
            return unit, (f"{column} was read as {unit.value} since 1970, UTC",)
    raise InputError(
        f"the time column {column} holds numbers of no known unit",
        expected="numbers that all lie between 1990 and 2100 in one of s, ms, us, ns",
        fix=say,
    )


def _from_number(value: Column, unit: TimeUnit) -> Column:
    whole = value.cast("bigint")
    if unit is TimeUnit.S:
        return F.timestamp_seconds(whole)
    if unit is TimeUnit.MS:
        return F.timestamp_millis(whole)
    if unit is TimeUnit.US:
        return F.timestamp_micros(whole)
    # The stored unit is the microsecond; a time that is between two of them is none.
    kept = F.when(whole % 1000 == 0, F.timestamp_micros((whole / 1000).cast("bigint")))
    return F.coalesce(kept, F.raise_error(F.lit("a time of nanoseconds falls between two microseconds")))

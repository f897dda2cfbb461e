"""Event times that come as numbers or texts: in which unit, and as timestamps."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import InputError
from dedup_storage.schema import LogSchema, TimeUnit
from dedup_storage.sources.texts import ZONED
from dedup_storage.spark.rows import only_row

__all__ = ["as_times", "time_unit", "with_times"]

_INTEGERS = (T.ShortType, T.IntegerType, T.LongType)
_NUMBERS = (*_INTEGERS, T.FloatType, T.DoubleType, T.DecimalType)
# A text that begins with a date: without one, Spark would take the day on which it reads.
_DATED = r"^\s*[+-]?[0-9]{4,6}-"
# A fraction of a second that is no whole number of microseconds, the rest of which Spark leaves out.
_FINER = r"[.][0-9]{6}[0-9]*[1-9]"
# Letters of a pattern that tell a zone, and what a pattern quotes.
_ZONE, _QUOTED = re.compile(r"[VzOXxZ]"), re.compile(r"'[^']*'")
# Logs are younger than this and older than that; in these bounds no number fits two units.
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def with_times(
    frame: DataFrame, schema: LogSchema, *, declared: bool = False
) -> tuple[DataFrame, LogSchema, tuple[str, ...]]:
    """The frame with its event time and its lists of times as timestamps, the schema with their units, what to say.

    Args:
        frame: Rows.
        schema: Their meaning.
        declared: Only what the schema states a unit of, so that no row is looked at to find one.

    Raises:
        InputError: see ``as_times``.
    """
    notes: list[str] = []
    if schema.event_time in frame.columns and not (declared and schema.time_unit is None):
        frame, unit, said = as_times(frame, str(schema.event_time), schema.time_unit)
        schema = schema.model_copy(update={"time_unit": unit})
        notes += said
    sequences = []
    for sequence in schema.sequences:
        if sequence.times and sequence.column in frame.columns and not (declared and sequence.unit is None):
            frame, unit, said = as_times(frame, sequence.column, sequence.unit)
            sequence = sequence.model_copy(update={"unit": unit})
            notes += said
        sequences.append(sequence)
    return frame, schema.model_copy(update={"sequences": tuple(sequences)}), tuple(notes)


def as_times(frame: DataFrame, column: str, unit: str | None = None) -> tuple[DataFrame, str | None, tuple[str, ...]]:
    """The frame with a column of numbers or texts, or of lists of them, as timestamps; their unit, what is to be said.

    A unit that is not given is found from the least and the greatest number, in one look at the column. Texts without
    a zone are UTC.

    Args:
        frame: Rows.
        column: The column of times.
        unit: ``s``, ``ms``, ``us``, ``ns``, or the pattern of a text.

    Raises:
        InputError: the numbers fit no unit, or some values are no times.
    """
    kind = frame.schema[column].dataType
    many = isinstance(kind, T.ArrayType)
    values = _Values(F.col(column), column, many)
    element = kind.elementType if isinstance(kind, T.ArrayType) else kind
    if isinstance(element, _NUMBERS):
        found, said = _unit(frame, values, element, unit)
        return frame.withColumn(column, values.each(lambda x: _from_number(x, found))), found.value, said
    if not isinstance(element, T.StringType):
        return frame, unit, ()
    pattern = None if unit in [u.value for u in TimeUnit] else unit
    wrong, finer = _rows_with(
        frame,
        values,
        lambda x: x.isNotNull() & _from_text(x, pattern).isNull(),
        lambda x: x.isNotNull() & x.rlike(_FINER),
    )
    if wrong:
        told = (
            f"{wrong} lists of the time column {column} hold texts that"
            if many
            else f"{wrong} texts of the time column {column}"
        )
        raise InputError(
            f"{told} are no times",
            expected="ISO 8601, such as 2024-06-01T10:00:00Z" if pattern is None else f"the pattern {pattern}",
            fix=f"Say their pattern in the schema: {values.said('M/d/yyyy h:mm:ss a')}.",
        )
    if finer:
        raise values.between(finer)
    return frame.withColumn(column, values.each(lambda x: _from_text(x, pattern))), unit, ()


@dataclass(frozen=True)
class _Values:
    """A column of values, or of lists of them.

    Attributes:
        column: The column.
        name: Its name.
        many: Whether a row holds a list.
    """

    column: Column
    name: str
    many: bool

    def each(self, made: Callable[[Column], Column]) -> Column:
        """Something made of each value."""
        return F.transform(self.column, made) if self.many else made(self.column)

    def some(self, test: Callable[[Column], Column]) -> Column:
        """Whether something holds for a value of the row."""
        return F.exists(self.column, test) if self.many else test(self.column)

    @property
    def rows(self) -> str:
        """What a row holds, in words."""
        return "lists" if self.many else "values"

    @property
    def ends(self) -> tuple[Column, Column]:
        """The least and the greatest value of a row."""
        return (F.array_min(self.column), F.array_max(self.column)) if self.many else (self.column, self.column)

    def between(self, count: int) -> InputError:
        """The refusal of times that are finer than the ones that are stored."""
        return InputError(
            f"{count} {self.rows} of the time column {self.name} fall between two microseconds",
            expected="times that are whole microseconds",
            fix=f"Round {self.name} to whole microseconds in the log.",
        )

    def said(self, unit: str) -> str:
        """How a schema file states the unit."""
        if self.many:
            return f"sequences: [{{column: {self.name}, times: true, unit: {unit}}}]"
        return f"event_time: {{column: {self.name}, unit: {unit}}}"


def _from_text(value: Column, pattern: str | None) -> Column:
    """The time that a text tells, null where it tells none; without a zone it is UTC, whatever zone the session has."""
    if pattern is not None:
        if _ZONE.search(_QUOTED.sub("", pattern)):
            return F.try_to_timestamp(value, F.lit(pattern))
        return F.try_to_timestamp(F.concat(value, F.lit(" Z")), F.lit(f"{pattern} X"))
    zoned = F.when(value.rlike(ZONED), value)
    parsed = zoned.otherwise(F.concat(value, F.when(value.rlike(":"), "Z").otherwise(" 00:00:00Z")))
    return F.when(value.rlike(_DATED), parsed.try_cast("timestamp"))


def time_unit(low: float | None, high: float | None) -> TimeUnit | None:
    """The unit in which all numbers between two lie between 1990 and 2100; ``None`` where there is none."""
    if low is None or high is None:
        return None
    fits = (u for u in TimeUnit if _FIRST.timestamp() * u.per_second <= low and high < _LAST.timestamp() * u.per_second)
    return next(fits, None)


def _unit(
    frame: DataFrame, values: _Values, element: T.DataType, given: str | None
) -> tuple[TimeUnit, tuple[str, ...]]:
    column, units = values.name, {u.value: u for u in TimeUnit}
    say = f"Say the unit in the schema: {values.said('s')}."
    if given is not None and given not in units:
        raise InputError(
            f"the time column {column} holds numbers", expected="a unit: s, ms, us or ns", got=given, fix=say
        )
    if not isinstance(element, _INTEGERS):
        # NaN lies beyond every number, and is no whole one.
        (broken,) = _rows_with(frame, values, lambda x: F.isnan(x.cast("double")) | (x != F.floor(x)))
        if broken:
            raise InputError(
                f"{broken} {values.rows} of the time column {column} are no whole numbers",
                expected="whole seconds, milliseconds, microseconds or nanoseconds",
                fix=f"Write whole numbers into {column}, in a finer unit where there are fractions.",
            )
    unit = None if given is None else units[given]
    said: tuple[str, ...] = ()
    if unit is None:
        low, high = values.ends
        row = only_row(frame.agg(F.min(low).alias("low"), F.max(high).alias("high")))
        if row["low"] is None:
            return TimeUnit.S, ()
        unit = time_unit(row["low"], row["high"])
        if unit is None:
            raise InputError(
                f"the time column {column} holds numbers of no known unit",
                expected="numbers that all lie between 1990 and 2100 in one of s, ms, us, ns",
                fix=say,
            )
        said = (f"{column} was read as {unit.value} since 1970, UTC",)
    between = _rows_with(frame, values, lambda x: x % 1000 != 0) if unit is TimeUnit.NS else [0]
    if between[0]:
        raise values.between(between[0])
    return unit, said


def _rows_with(frame: DataFrame, values: _Values, *tests: Callable[[Column], Column]) -> list[int]:
    """How many rows each test holds for, in one pass."""
    counts = [F.count_if(values.some(test)).alias(f"n{number}") for number, test in enumerate(tests)]
    row = only_row(frame.agg(*counts))
    return [int(row[f"n{number}"]) for number in range(len(tests))]


def _from_number(value: Column, unit: TimeUnit) -> Column:
    whole = value.cast("bigint")
    if unit is TimeUnit.S:
        return F.timestamp_seconds(whole)
    if unit is TimeUnit.MS:
        return F.timestamp_millis(whole)
    if unit is TimeUnit.US:
        return F.timestamp_micros(whole)
    # The stored unit is the microsecond; that none falls between two of them was looked at.
    return F.timestamp_micros(F.call_function("div", whole, F.lit(1000)))

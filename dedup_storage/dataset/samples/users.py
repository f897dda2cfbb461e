"""One row per user: what strata are made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.read import frames as read
from dedup_storage.dataset.samples.columns import label_value
from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.layout import DatasetSpec
from dedup_storage.sampling.definition import How, Measure, SampleSpec, Stratum
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import not_nan

__all__ = ["STRATUM", "in_dates", "labelled", "measured", "value_column"]

STRATUM = "stratum"
_VALUE = "_value_"
_BY = "_by"
_SECONDS_A_DAY = 86_400
_EPOCH = dt.date(1970, 1, 1).toordinal()


def value_column(number: int) -> str:
    """Name of the column that holds the value of stratum ``number``."""
    return f"{_VALUE}{number}"


def in_dates(df: DataFrame, cut: Cut, spec: SampleSpec) -> DataFrame:
    """Request rows of the sample's dates, which are UTC whatever zone the frame's session has.

    Raises:
        UsageError: the dataset has no dates.
    """
    if spec.start is None and spec.end is None:
        return df
    date = cut.spec.event_date_column
    if date is None:
        raise UsageError(f"the dataset {cut.spec.name} has no event date to sample by", fix="Leave start and end out.")
    column = date if date in df.columns else str(cut.spec.schema_.event_time)
    kind = df.schema[column].dataType
    if spec.start is not None:
        df = df.filter(F.col(column) >= _beginning(spec.start.toordinal(), kind))
    return df if spec.end is None else df.filter(F.col(column) < _beginning(spec.end.toordinal() + 1, kind))


def _beginning(ordinal: int, kind: T.DataType) -> Column:
    """The first moment of a day (UTC), in a type of times."""
    day = ordinal - _EPOCH
    if isinstance(kind, T.TimestampType):
        return F.timestamp_seconds(F.lit(day * _SECONDS_A_DAY))
    return F.date_from_unix_date(F.lit(day)).cast(kind)


def measured(cut: Cut, spec: SampleSpec, only: DataFrame | None = None) -> DataFrame:
    """Users with the value of every stratum (``_value_0`` ...) and, for Neyman allocation, ``_by``.

    Args:
        cut: The version whose rows count; a handle of ``Handle.for_run``, so that what is stored depends on no zone.
        spec: Names strata and dates.
        only: Users to look at; ``None`` for all.
    """
    user = cut.spec.schema_.user
    everybody = in_dates(read.requests(cut.handle, cut.version), cut, spec)
    requests = everybody if only is None else everybody.join(only, user, "left_semi")
    wanted = {s.measure for s in spec.strata if s.measure is not None} | ({spec.by} if spec.by is not None else set())
    aggregates = {m.value: _of_requests(cut.spec, m) for m in wanted if m in _REQUEST_MEASURES}
    for number, stratum in enumerate(spec.strata):
        if stratum.column is not None:
            aggregates[value_column(number)] = _of_column(cut.spec, requests, stratum)
        elif stratum.expression is not None:
            aggregates[value_column(number)] = F.expr(stratum.expression)
    named = [column.alias(name) for name, column in aggregates.items()]
    people = requests.groupBy(user).agg(*named) if named else requests.select(user).distinct()
    if wanted - _REQUEST_MEASURES:
        people = people.join(_of_impressions(cut, spec, requests, wanted), user, "left")
    if Measure.RECENCY_DAYS in wanted:
        # The last of all requests, whoever is looked at.
        last = only_row(everybody.agg(_of_requests(cut.spec, Measure.RECENCY_DAYS).alias("last")))["last"]
        days = (F.lit(last) - F.col(Measure.RECENCY_DAYS.value)) / _SECONDS_A_DAY
        people = people.withColumn(Measure.RECENCY_DAYS.value, days)
    values = [F.col(s.measure.value).alias(value_column(n)) for n, s in enumerate(spec.strata) if s.measure is not None]
    own = [value_column(n) for n, s in enumerate(spec.strata) if s.measure is None]
    by = [F.col(spec.by.value).cast("double").alias(_BY)] if spec.by is not None else []
    return people.select(user, *own, *values, *by)


_REQUEST_MEASURES = {Measure.REQUESTS, Measure.SEQUENCE_LENGTH, Measure.TENURE_DAYS, Measure.RECENCY_DAYS}


def _of_requests(spec: DatasetSpec, measure: Measure) -> Column:
    schema = spec.schema_
    if measure is Measure.REQUESTS:
        return F.count(F.lit(1))
    if measure is Measure.SEQUENCE_LENGTH:
        if not schema.sequence_columns:
            raise SchemaError(f"the dataset {spec.name} has no sequence column to measure the length of")
        return F.avg(F.coalesce(F.array_size(schema.sequence_columns[0]), F.lit(0)))
    if schema.event_time is None:
        raise SchemaError(f"the dataset {spec.name} has no event time to measure {measure.value} by")
    seconds = F.unix_micros(F.col(schema.event_time).cast("timestamp")) / 1e6
    if measure is Measure.TENURE_DAYS:
        return (F.max(seconds) - F.min(seconds)) / _SECONDS_A_DAY
    return F.max(seconds)


def _of_impressions(cut: Cut, spec: SampleSpec, requests: DataFrame, wanted: set[Measure]) -> DataFrame:
    """Impression measures by user."""
    schema, keys = cut.spec.schema_, list(cut.spec.request_key)
    rows = read.impressions(cut.handle, cut.version).select(*keys, *schema.labels[:1])
    aggregates = [F.count(F.lit(1)).alias(Measure.IMPRESSIONS.value)]
    if Measure.LABEL_RATE in wanted:
        if not schema.labels:
            raise SchemaError(f"the dataset {cut.spec.name} has no label to measure the rate of")
        aggregates.append(F.avg(label_value(rows, schema.labels[0])).alias(Measure.LABEL_RATE.value))
    if spec.start is not None or spec.end is not None:
        rows = rows.join(requests.select(*keys).hint("shuffle_hash"), keys, "left_semi")
    return rows.groupBy(schema.user).agg(*aggregates)


def _of_column(spec: DatasetSpec, requests: DataFrame, stratum: Stratum) -> Column:
    column = str(stratum.column)
    if column not in requests.columns:
        raise UnknownColumnError(
            f"the column {column} of the stratum {stratum.name} is no request column of {spec.name}",
            expected=known_names(column, requests.columns),
        )
    value = not_nan(F.col(column), requests.schema[column].dataType)
    if stratum.how in (How.MIN, How.MAX, How.MEAN):
        return {How.MIN: F.min, How.MAX: F.max, How.MEAN: F.avg}[stratum.how](value)
    # Requests of one instant are told apart by their keys, so that the answer never depends on the order of rows.
    order = F.struct(*([spec.schema_.event_time] if spec.schema_.event_time else []), *spec.schema_.request)
    return F.max_by(value, order) if stratum.how is How.LATEST else F.min_by(value, order)


def _borders(people: DataFrame, strata: tuple[Stratum, ...]) -> dict[str, tuple[float, ...]]:
    """Borders of the strata that are divided; exact quantiles, so that no layout changes them."""
    borders = {s.name: s.cuts for s in strata if s.cuts}
    numbered = [(n, s) for n, s in enumerate(strata) if s.quantiles]
    if numbered:
        parts = [
            F.percentile(F.col(value_column(n)).cast("double"), [i / q for i in range(1, q)]).alias(s.name)
            for n, s in numbered
            if (q := s.quantiles) is not None
        ]
        row = only_row(people.agg(*parts))
        for _, stratum in numbered:
            borders[stratum.name] = tuple(sorted(set(row[stratum.name] or ())))
    return borders


def labelled(
    people: DataFrame, spec: SampleSpec, borders: Mapping[str, tuple[float, ...]] | None = None
) -> tuple[DataFrame, dict[str, tuple[float, ...]]]:
    """Users with their stratum's label in place of the values, and the borders used.

    Args:
        people: From ``measured``.
        spec: The strata.
        borders: Those of an earlier run; ``None`` finds them.

    Raises:
        UsageError: a stratum is to be divided and holds no numbers.
    """
    for number, stratum in enumerate(spec.strata):
        kind = people.schema[value_column(number)].dataType
        if (stratum.quantiles or stratum.cuts) and not isinstance(kind, T.NumericType):
            raise UsageError(
                f"the stratum {stratum.name} holds no numbers to divide", expected="a number", got=kind.simpleString()
            )
    # What an expression gives may be NaN, which Spark takes for greater than every number.
    kinds = {c: people.schema[c].dataType for c in map(value_column, range(len(spec.strata)))}
    people = people.withColumns({c: not_nan(F.col(c), kind) for c, kind in kinds.items()})
    used = dict(borders) if borders is not None else _borders(people, spec.strata)
    parts = [_label(number, stratum, used) for number, stratum in enumerate(spec.strata)]
    label = F.concat_ws(",", *parts) if parts else F.lit("all")
    kept = [c for c in people.columns if not c.startswith(_VALUE)]
    return people.select(*kept, label.alias(STRATUM)), used


def _label(number: int, stratum: Stratum, borders: Mapping[str, tuple[float, ...]]) -> Column:
    value = F.col(value_column(number))
    if stratum.name in borders:
        part = F.lit(1)
        for border in borders[stratum.name]:
            part = part + (value >= F.lit(border)).cast("int")
        value = part
    return F.concat(F.lit(f"{stratum.name}="), F.coalesce(value.cast("string"), F.lit("null")))

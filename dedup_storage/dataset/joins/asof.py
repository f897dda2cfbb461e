"""For each request the latest feature row of its user that was known at its time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.dataset.joins.bucket import settled
from dedup_storage.dataset.joins.inputs import How, as_frame, field_of, refuse_shared, same_type
from dedup_storage.dataset.joins.plan import physical_plan
from dedup_storage.errors import DuplicateRowsError, SchemaError, UsageError
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import fingerprint

__all__ = ["asof_join"]

_TIMES = (T.TimestampType, T.TimestampNTZType, T.DateType)
_REFUSE = "refuse"


def asof_join(
    requests: DataFrame | str,
    features: DataFrame | str,
    on: str | None = None,
    *,
    by: Sequence[str] | str,
    left_on: str | None = None,
    right_on: str | None = None,
    tolerance: timedelta | int | None = None,
    allow_exact_matches: bool = True,
    ties: Sequence[str] | str = _REFUSE,
    matched_time: str | None = None,
    spark: SparkSession | None = None,
) -> DataFrame:
    """Give each request the latest feature row of its user at or before its time (``pandas.merge_asof``, backward).

    Only (user, time) of the requests and the feature rows are shuffled: one sorted pass over both finds each moment's
    feature row, however many rows a user has. The requests' other columns, histories above all, stay in their buckets,
    where the matches are brought to them; that needs ``requests`` to be a bucketed table or a frame that only reads,
    filters and projects one.

    Args:
        requests: Left side, any columns; every row comes back once.
        features: Right side: user, time and feature columns.
        on: Time column of both sides: timestamp, date or integer.
        by: The user column, or several.
        left_on, right_on: The time columns where their names differ, in place of ``on``.
        tolerance: Greatest age of a match, inclusive: a ``timedelta``, or an integer for integer times.
        allow_exact_matches: Whether a feature row of the same time counts; ``False`` takes earlier ones only.
        ties: Feature rows of one user and time: ``refuse`` them, or the columns whose greatest values win; rows equal
            in these too, or all where no column is named, are decided by their content, the same way every time.
        matched_time: Name of a column with the matched feature row's time; left out by default.
        spark: Session that table names are looked up in; the active one by default.

    Returns:
        The requests' columns, then the features' columns (without ``by`` and time). Null where nothing matched: a null
        user or time matches nothing.

    Raises:
        UsageError: unknown or ambiguous columns, a tolerance that does not fit the time.
        SchemaError: types that cannot be compared.
        DuplicateRowsError: feature rows of one user and time, unless ``ties`` says which counts.
    """
    left, right = as_frame(requests, spark), as_frame(features, spark)
    users = (by,) if isinstance(by, str) else tuple(by)
    left_time, right_time = _times(on, left_on, right_on)
    kind = _check(left, right, users, left_time, right_time, tolerance)
    values = [c for c in right.columns if c not in users and c != right_time]
    order = () if ties == _REFUSE else ((ties,) if isinstance(ties, str) else tuple(ties))
    for column in order:
        field_of(right, column, "the feature side")
    shown = (
        right.select(*values) if matched_time is None else right.select(*values, F.col(right_time).alias(matched_time))
    )
    if len(set(shown.columns)) != len(shown.columns):
        raise UsageError(f"the feature side has a column {matched_time} already", fix="Choose another matched_time.")
    refuse_shared(left, shown, ())
    with translated():
        known = right.where(_not_null(*users, right_time))
        if ties == _REFUSE:
            _refuse_ties(known, users, right_time)
        moments = _moments(left, users, left_time)
        tie = F.lit(0) if ties == _REFUSE else F.struct(*order, _content(right, values))
        matched = _matched(left.select(*moments).distinct(), known, users, left_time, right_time, values, tie,
                           allow_exact_matches, tolerance, kind, matched_time)  # fmt: skip
        # Requests that lie in no buckets are shuffled: there is nowhere to bring the matches to.
        result, _ = settled(left, matched, moments, How.LEFT, one_side=True)
        return result.select(*left.columns, *shown.columns)


def _times(on: str | None, left_on: str | None, right_on: str | None) -> tuple[str, str]:
    if on is not None and left_on is None and right_on is None:
        return on, on
    if on is None and left_on is not None and right_on is not None:
        return left_on, right_on
    raise UsageError("the time columns are not clear", expected="on, or both left_on and right_on")


def _check(
    left: DataFrame,
    right: DataFrame,
    users: tuple[str, ...],
    left_time: str,
    right_time: str,
    tolerance: timedelta | int | None,
) -> T.DataType:
    """Check columns, types and the tolerance; gives the type of time."""
    if not users:
        raise UsageError("no column says whose rows belong together", expected="by, the user column")
    for user in users:
        same_type(field_of(left, user, "the request side"), field_of(right, user, "the feature side"))
    moment = field_of(left, left_time, "the request side")
    same_type(moment, field_of(right, right_time, "the feature side"))
    kind = moment.dataType
    if not isinstance(kind, (*_TIMES, T.IntegralType)):
        raise SchemaError(
            f"the time {left_time} has a type that cannot be used",
            expected="timestamp, date or an integer",
            got=kind.simpleString(),
        )
    if tolerance is None:
        return kind
    if isinstance(tolerance, timedelta):
        fits = isinstance(kind, _TIMES) and tolerance >= timedelta(0)
    else:
        fits = isinstance(kind, T.IntegralType) and type(tolerance) is int and tolerance >= 0
    if not fits:
        raise UsageError(
            "the tolerance does not fit the time",
            expected="a timedelta, not negative" if isinstance(kind, _TIMES) else "an integer, not negative",
            got=repr(tolerance)[:80],
        )
    return kind


def _not_null(*columns: str) -> Column:
    condition = F.lit(True)
    for column in columns:
        condition = condition & F.col(column).isNotNull()
    return condition


def _refuse_ties(features: DataFrame, users: tuple[str, ...], time: str) -> None:
    doubled = features.groupBy(*users, time).agg(F.count(F.lit(1)).alias("n")).where("n > 1")
    count = int(only_row(doubled.agg(F.count(F.lit(1)).alias("n")))["n"])
    if count:
        raise DuplicateRowsError(
            "the features have several rows for one user and time",
            expected="one row",
            got=f"{count:,} such users and times",
            fix="Name the columns that decide as ties=(…), or drop the surplus rows.",
        )


def _moments(left: DataFrame, users: tuple[str, ...], time: str) -> tuple[str, ...]:
    """Columns that a match depends on, and those partition columns that keep the last join in its buckets.

    A partition column in which a request has no value would lose the request's match: then all of them are left out.
    """
    scans = physical_plan(left).scans
    parts = [p.column for p in scans[0].partitions] if len(scans) == 1 else []
    own = (*users, time)
    more = [c for c in dict.fromkeys(parts) if c in left.columns and c not in own]
    unsure = [c for c in more if left.schema[c].nullable]
    # A table's own counts answer this, where no such row is there.
    if unsure and not left.where(~_not_null(*unsure)).isEmpty():
        more = []
    return tuple(dict.fromkeys((*own, *more)))


def _content(features: DataFrame, values: list[str]) -> Column:
    """What tells feature rows apart: a hash that nulls and the places of nulls in lists change too."""
    return fingerprint([features.schema[c] for c in values], strict=True)


def _matched(
    moments: DataFrame,
    features: DataFrame,
    users: tuple[str, ...],
    left_time: str,
    right_time: str,
    values: list[str],
    tie: Column,
    exact: bool,
    tolerance: timedelta | int | None,
    kind: T.DataType,
    matched_time: str | None,
) -> DataFrame:
    """Each moment with its feature row: one window over both, sorted by time."""
    whose = [f"u{i}" for i in range(len(users))]
    events = features.select(
        *(F.col(u).alias(w) for u, w in zip(users, whose, strict=True)),
        F.col(right_time).alias("t"),
        F.lit(0 if exact else 1).alias("turn"),
        F.struct(F.col(right_time).alias("t"), F.struct(*values).alias("v"), tie.alias("o")).alias("f"),
    )
    asked = moments.select(
        *(F.col(u).alias(w) for u, w in zip(users, whose, strict=True)),
        F.col(left_time).alias("t"),
        F.lit(1 if exact else 0).alias("turn"),
        F.struct(*moments.columns).alias("m"),
    )
    window = (
        Window.partitionBy(*whose).orderBy("t", "turn", "f.o").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    both = asked.unionByName(events, allowMissingColumns=True)
    latest = both.withColumn("f", F.last("f", ignorenulls=True).over(window)).where("m is not null")
    if tolerance is not None:
        latest = latest.withColumn("f", F.when(_age(kind) <= F.lit(_most(tolerance, kind)), F.col("f")))
    times = [] if matched_time is None else [F.col("f.t").alias(matched_time)]
    return latest.select("m.*", *(F.col(f"f.v.{c}") for c in values), *times)


def _most(tolerance: timedelta | int, kind: T.DataType) -> timedelta | int:
    """The tolerance as ``_age`` tells ages."""
    if isinstance(tolerance, timedelta) and isinstance(kind, T.TimestampType):
        # Longer than all time is no longer than that.
        return min(tolerance // timedelta(microseconds=1), 2**63 - 1)
    return tolerance


def _age(kind: T.DataType) -> Column:
    """How old a match is, in the unit of a tolerance."""
    if isinstance(kind, T.TimestampType):
        # Spark's difference of two instants is that of the session's clock, which is changed twice a year.
        return F.unix_micros("t") - F.unix_micros("f.t")
    # Subtraction of far-apart integers overflows; such a match is too old.
    return F.try_subtract("t", F.col("f.t")) if isinstance(kind, T.IntegralType) else F.col("t") - F.col("f.t")

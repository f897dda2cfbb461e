"""As-of joins: equal to pandas.merge_asof and to a plain loop, no row from the future, wide rows left in place."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.joins import asof_join
from dedup_storage.dataset.joins.plan import physical_plan
from dedup_storage.errors import DuplicateRowsError, SchemaError, UnknownColumnError, UsageError
from tests.spark.helpers import frame, multiset
from tests.spark.join_tables import Tables
from tests.strategies import examples

pytestmark = pytest.mark.usefixtures("compiled")

Row = tuple[Any, ...]


def reference(
    requests: list[Row], features: list[Row], tolerance: int | None, exact: bool
) -> list[tuple[Any, Any, Any, Any, Any]]:
    """(user, time, payload) and (user, time, value) -> (user, time, payload, value, matched time), by a plain loop."""
    found = []
    for user, time, payload in requests:
        best: tuple[Any, Any] | None = None
        for other, when, value in features:
            if user is None or time is None or other != user or when is None:
                continue
            if when > time or (when == time and not exact) or (tolerance is not None and time - when > tolerance):
                continue
            if best is None or when > best[1]:
                best = (value, when)
        found.append((user, time, payload, *(best or (None, None))))
    return found


users = st.one_of(st.none(), st.integers(0, 3))
times = st.one_of(st.none(), st.integers(-6, 12), st.sampled_from([-(2**63), 2**63 - 1]))
asked = st.lists(st.tuples(users, times, st.integers(0, 2)), max_size=30)
known = st.lists(
    st.tuples(users, times, st.one_of(st.none(), st.integers(0, 9))), max_size=30, unique_by=lambda row: row[:2]
)


logs = given(asked, known, st.one_of(st.none(), st.integers(0, 4)), st.booleans(), st.integers(-6, 12))


@pytest.mark.long
@examples(3, shrink=False)
@logs
def test_every_request_gets_what_was_known(
    spark: SparkSession, requests: list[Row], features: list[Row], tolerance: int | None, exact: bool, now: int
) -> None:
    check_leakage(spark, requests, features, tolerance, exact, now)


@pytest.mark.slow
@examples(25, shrink=False)
@logs
def test_more_requests_get_what_was_known(
    spark: SparkSession, requests: list[Row], features: list[Row], tolerance: int | None, exact: bool, now: int
) -> None:
    check_leakage(spark, requests, features, tolerance, exact, now)


def check_leakage(
    spark: SparkSession, requests: list[Row], features: list[Row], tolerance: int | None, exact: bool, now: int
) -> None:
    left = frame(spark, requests, "u bigint, t bigint, p int")
    options: dict[str, Any] = {"tolerance": tolerance, "allow_exact_matches": exact, "matched_time": "seen"}
    right = frame(spark, features, "u bigint, t bigint, v bigint")
    result = asof_join(left, right, "t", by="u", **options)
    assert result.columns == ["u", "t", "p", "v", "seen"]
    rows = [tuple(r) for r in result.collect()]
    assert Counter(rows) == Counter(reference(requests, features, tolerance, exact))
    # What happens later changes nothing: without any row after `now`, requests up to `now` see the same.
    past = right.where(F.col("t") <= now)
    then = asof_join(left.where(F.col("t") <= now), past, "t", by="u", **options)
    assert multiset(then) == Counter(r for r in rows if r[1] is not None and r[1] <= now)


@pytest.mark.parametrize(
    ("exact", "tolerance", "kind"),
    [
        (True, None, "timestamp"),
        (False, dt.timedelta(hours=5), "timestamp"),
        (True, dt.timedelta(hours=5), "timestamp_ntz"),
        (True, dt.timedelta(0), "timestamp"),
        (False, dt.timedelta(0), "timestamp_ntz"),
    ],
)
def test_equal_to_pandas(spark: SparkSession, exact: bool, tolerance: dt.timedelta | None, kind: str) -> None:
    base = dt.datetime(2024, 3, 31)  # clocks change in Europe
    asked = [(f"usér {i % 5}", base + dt.timedelta(minutes=17 * (i * i % 97)), i) for i in range(80)]
    seen = {(f"usér {i % 6}", base + dt.timedelta(minutes=17 * (i * 7 % 89))): i for i in range(90)}
    left, right = pd.DataFrame(asked, columns=["u", "t", "p"]), pd.DataFrame(
        [(u, t, float(v)) for (u, t), v in seen.items()], columns=["u", "s", "v"]
    )  # fmt: skip
    expected = pd.merge_asof(
        left.sort_values("t"), right.sort_values("s"), left_on="t", right_on="s", by="u",
        tolerance=None if tolerance is None else pd.Timedelta(tolerance), allow_exact_matches=exact,
    )  # fmt: skip
    result = asof_join(
        spark.createDataFrame(left).withColumn("t", F.col("t").cast(kind)),
        spark.createDataFrame(right).withColumn("s", F.col("s").cast(kind)),
        left_on="t", right_on="s", by="u", tolerance=tolerance, allow_exact_matches=exact,
    )  # fmt: skip
    wanted = {int(p): None if pd.isna(v) else v for p, v in zip(expected["p"], expected["v"], strict=True)}
    assert {r["p"]: r["v"] for r in result.collect()} == wanted
    assert any(v is None for v in wanted.values())
    assert any(v is not None for v in wanted.values()) or (tolerance == dt.timedelta(0) and not exact)


def test_dates_and_several_users(spark: SparkSession) -> None:
    day = dt.date(2024, 2, 28)
    left = frame(spark, [(1, "a", day + dt.timedelta(d)) for d in range(4)], "u int, shop string, d date")
    right = frame(spark, [(1, "a", day, 1), (1, "b", day + dt.timedelta(1), 2)], "u int, shop string, d date, v int")
    result = asof_join(left, right, "d", by=("u", "shop"), tolerance=dt.timedelta(days=1))
    assert [r["v"] for r in result.orderBy("d").collect()] == [1, 1, None, None]


def test_ties_are_refused_or_decided(spark: SparkSession) -> None:
    left = frame(spark, [(1, 10), (1, 4)], "u int, t int")
    rows = [(1, 3, 1, "x"), (1, 3, 2, "y"), (1, 3, 2, "z"), (None, 3, 1, "n"), (None, 3, 1, "n")]
    right = frame(spark, rows, "u int, t int, n int, v string")
    with pytest.raises(DuplicateRowsError, match="got 1 such users and times"):
        asof_join(left, right, "t", by="u")
    one = asof_join(left, right, "t", by="u", ties="n")
    assert {r["n"] for r in one.collect()} == {2}
    chosen = {r["v"] for r in one.collect()}
    assert len(chosen) == 1
    other_order = asof_join(left, right.orderBy(F.desc("v")).repartition(3), "t", by="u", ties=("n",))
    assert {r["v"] for r in other_order.collect()} == chosen
    assert {r["v"] for r in asof_join(left, right, "t", by="u", ties=("n", "v")).collect()} == {"z"}


def test_ties_of_nulls_and_lists_are_decided_whatever_the_order(spark: SparkSession) -> None:
    left = frame(spark, [(1, 10)], "u int, t int")
    rows = [(1, 3, None, 1, None, {"k": 1}), (1, 3, 1, None, [], {"k": 2}), (1, 3, 1, None, [None], {"k": 1})]
    kinds = "u int, t int, a int, b int, l array<int>, m map<string,int>"
    ends = [
        asof_join(left, frame(spark, order, kinds).coalesce(1), "t", by="u", ties=()).drop("u", "t").first()
        for order in (rows, rows[::-1], [rows[1], rows[0], rows[2]])
    ]
    assert ends[0] is not None
    assert ends == [ends[0]] * 3


def test_integer_times_of_two_widths(spark: SparkSession) -> None:
    spark = spark.newSession()
    spark.conf.set("spark.sql.ansi.enabled", "false")
    # Cut to an int the later time would be 7.
    right = spark.createDataFrame([(1, 5, "known"), (1, 2**32 + 7, "later")], "u bigint, t bigint, v string")
    found = asof_join(spark.createDataFrame([(1, 10)], "u int, t int"), right, "t", by="u", tolerance=5)
    assert [tuple(row) for row in found.collect()] == [(1, 10, "known")]


def test_a_tolerance_is_elapsed_time_where_clocks_change(spark: SparkSession) -> None:
    spark = spark.newSession()
    spark.conf.set("spark.sql.session.timeZone", "Europe/Copenhagen")
    # The clock goes from 1:59 to 3:00 on 31 March, and from 2:59 back to 2:00 on 27 October.
    asked = [("spring", "2024-03-31T02:30:00Z"), ("autumn", "2024-10-27T02:30:00Z")]
    known = [("spring", "2024-03-31T00:30:00Z", 1), ("autumn", "2024-10-27T00:30:00Z", 2)]
    left = spark.createDataFrame(asked, "u string, t string").withColumn("t", F.col("t").cast("timestamp"))
    right = spark.createDataFrame(known, "u string, t string, v int").withColumn("t", F.col("t").cast("timestamp"))
    for hours, matched in ((2, {1, 2}), (1, {None})):
        found = asof_join(left, right, "t", by="u", tolerance=dt.timedelta(hours=hours))
        assert {row["v"] for row in found.collect()} == matched, hours


@pytest.fixture(scope="module")
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return Tables(spark, settings.catalog.name)


@pytest.mark.parametrize("partitions", ["event_date, bucket(4, user_id)", "bucket(4, user_id)"])
def test_wide_rows_stay_in_their_buckets(tables: Tables, partitions: str) -> None:
    # More partitions than buckets: Spark prefers the side that has more, unless it does not know of them.
    spark = tables.spark.newSession()
    spark.conf.set("spark.sql.shuffle.partitions", "40")
    dated = partitions.startswith("event")
    left = spark.table(tables("asked_day" if dated else "asked", partitions)).withColumnsRenamed(
        {"v_asked_day": "wide", "v_asked": "wide"}
    )
    right = spark.table(tables("known", "bucket(8, user_id)", where="id % 4 = 1")).drop("event_date")
    right = right.groupBy("user_id", "request_id").agg(F.max("v_known").alias("v"))
    result = asof_join(left, right, "request_id", by="user_id", allow_exact_matches=False, tolerance=40)
    shuffled = set(_shuffled(result))
    assert "wide" not in shuffled
    assert "user_id" in shuffled
    expected = [(r[0], r[1], (r[2], r[3])) for r in left.collect()]
    model = reference(expected, [tuple(r) for r in right.collect()], 40, False)
    assert multiset(result) == Counter((u, t, *p, v) for u, t, p, v, _ in model)


def test_a_request_in_a_partition_without_a_name_keeps_its_match(tables: Tables) -> None:
    table = tables("asked_day", "event_date, bucket(4, user_id)")
    nameless = f"{table}_null"
    spark = tables.spark
    spark.sql(f"CREATE TABLE {nameless} USING iceberg PARTITIONED BY (event_date, bucket(4, user_id)) AS "
              f"SELECT user_id, request_id, nullif(event_date, date'2024-01-31') event_date FROM {table}")  # fmt: skip
    left = spark.table(nameless)
    right = left.groupBy("user_id").agg(F.min("request_id").alias("request_id")).withColumn("v", F.lit(1))
    found = asof_join(left, right, "request_id", by="user_id")
    known = left.where("user_id is not null and request_id is not null")
    assert found.where("v = 1").count() == known.count()
    assert found.where("event_date is null and v = 1").count() > 0


def _shuffled(df: DataFrame) -> Iterator[str]:
    for node in physical_plan(df).walk():
        if node.is_shuffle or node.is_broadcast:
            for scan in node.scans:
                yield from scan.columns


def test_wrong_input_is_one_sentence(spark: SparkSession) -> None:
    left = frame(spark, [(1, 10)], "u int, t int")
    right = frame(spark, [(1, 3, 1)], "u int, t int, v int")
    with pytest.raises(UnknownColumnError, match="the feature side has no column x"):
        asof_join(left.withColumn("x", F.lit(1)), right, "t", by="x")
    with pytest.raises(UnknownColumnError, match="no column when"):
        asof_join(left, right, "when", by="u")
    with pytest.raises(SchemaError, match=r"different types.*int and string"):
        asof_join(left, right.withColumn("t", F.lit("3")), "t", by="u")
    with pytest.raises(SchemaError, match=r"type that cannot be used.*got double"):
        asof_join(left.withColumn("t", F.lit(1.0)), right.withColumn("t", F.lit(1.0)), "t", by="u")
    for tolerance in (dt.timedelta(1), -1, 1.5, True):
        with pytest.raises(UsageError, match="tolerance does not fit"):
            asof_join(left, right, "t", by="u", tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="time columns are not clear"):
        asof_join(left, right, by="u", left_on="t")
    with pytest.raises(UsageError, match="both sides have v"):
        asof_join(left.withColumn("v", F.lit(1)), right, "t", by="u")
    with pytest.raises(UsageError, match="whose rows belong together"):
        asof_join(left, right, "t", by=())
    with pytest.raises(UsageError, match="has a column v already"):
        asof_join(left, right, "t", by="u", matched_time="v")

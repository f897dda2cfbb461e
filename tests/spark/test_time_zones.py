"""Sessions whose clocks are not UTC's: what is computed and stored is the same, an hour's change of clocks included."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.functions import count_in_window, recency_seconds, rolling_statistics
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import flat_schema, multiset

ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo")
# An hour after New York put its clocks forward, and an hour after Berlin did.
CHANGES = (dt.datetime(2026, 3, 8, 8, 7, tzinfo=dt.UTC), dt.datetime(2026, 3, 29, 2, 7, tzinfo=dt.UTC))
HOURS = (24, 23, 3, 2, 1)
DAY = dt.timedelta(days=1)


def session_in(spark: SparkSession, zone: str) -> SparkSession:
    session = spark.newSession()
    session.conf.set("spark.sql.session.timeZone", zone)
    return session


def around_changes(session: SparkSession, kind: str) -> DataFrame:
    """One row for each change of clocks: ``at``, and ``times`` so many hours before it, as UTC's clock shows them."""
    rows = [(i, int(at.timestamp())) for i, at in enumerate(CHANGES)]
    df = session.createDataFrame(rows, "n int, s bigint")

    def moment(seconds: str) -> str:
        utc = f"timestamp_seconds({seconds})"
        # Wall-clock times without a zone, in the range and the order of UTC's.
        return (
            utc if kind == "timestamp" else f"timestamp_ntz'1970-01-01 00:00:00' + make_dt_interval(0, 0, 0, {seconds})"
        )

    hours = ", ".join(map(str, HOURS))
    return df.selectExpr("n", f"{moment('s')} at", f"transform(array({hours}), h -> {moment('s - 3600 * h')}) times")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz"])
def test_history_functions_by_zone(spark: SparkSession, kind: str) -> None:
    for zone in ZONES:
        df = around_changes(session_in(spark, zone), kind)
        found = df.select(
            recency_seconds(F.slice("times", 1, 1), "at").alias("oldest"),
            recency_seconds("times", "at").alias("newest"),
            count_in_window("times", "at", DAY).alias("day"),
            count_in_window("times", "at", dt.timedelta(hours=2, minutes=30)).alias("short"),
        ).collect()
        assert [tuple(row) for row in found] == [(86_400.0, 3_600.0, 4, 2)] * len(CHANGES), zone


@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz"])
def test_rolling_statistics_by_zone(spark: SparkSession, kind: str) -> None:
    for zone in ZONES:
        df = around_changes(session_in(spark, zone), kind)
        requests = df.selectExpr("1 user", "n", "posexplode(times) (p, at)").selectExpr("user", "n * 10 + p r", "at")
        rows = rolling_statistics(requests, keys=["user", "r"], at="at", window=dt.timedelta(hours=23)).orderBy("r")
        found = [(row["r"], row["requests_count_23h"], row["seconds_since_previous"]) for row in rows.collect()]
        one = [(0, 0, None), (1, 1, 3_600.0), (2, 2, 72_000.0), (3, 3, 3_600.0), (4, 3, 3_600.0)]
        assert found == [*one, *((10 + r, count, since) for r, count, since in one)], zone


def test_dates_count_in_whole_days(spark: SparkSession) -> None:
    for zone in ZONES:
        df = session_in(spark, zone).sql("select date'2026-03-09' at, array(date'2026-03-08', date'2026-03-07') times")
        row = df.select(recency_seconds("times", "at"), count_in_window("times", "at", 2 * DAY)).first()
        assert row is not None
        assert tuple(row) == (86_400.0, 1), zone


def log_rows(session: SparkSession) -> DataFrame:
    """A request at each hour around both changes, its history the hours before it; times as texts of UTC."""
    return session.createDataFrame(
        [
            (u, 100 * u + h, (at + dt.timedelta(hours=h)).strftime("%Y-%m-%d %H:%M:%S"), item, (u + h + item) % 2)
            for u, at in enumerate(CHANGES)
            for h in range(4)
            for item in range(2)
        ],
        "user_id bigint, request_id bigint, txt string, item bigint, y int",
    )


def stored(session: SparkSession, settings: Settings, name: str, frame: DataFrame) -> Dataset:
    schema = flat_schema(sequences=[{"column": "times", "times": True}], columns={})
    raw = RawLog.from_frame(frame, schema)
    ds = Dataset.create(session, settings, name, schema, raw)
    ds.write(raw, run_id="first", gate=False)
    return ds


def with_times(frame: DataFrame) -> DataFrame:
    """Instants from the texts, whatever the zone; the last step, on which a session's own zone has worked."""
    hours = F.array(*(F.lit(h) for h in HOURS))
    seconds = F.unix_seconds(F.to_timestamp(F.concat("txt", F.lit("Z"))))
    rows = frame.withColumn("times", F.transform(hours, lambda h: F.timestamp_seconds(seconds - 3600 * h)))
    return rows.withColumn("ts", F.timestamp_seconds(seconds)).drop("txt")


@pytest.mark.long
def test_features_are_computed_alike_in_every_zone(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = stored(spark, settings, name, with_times(log_rows(spark)))

    def since(number: int) -> Callable[[DataFrame], DataFrame]:
        oldest = recency_seconds(F.slice("times", 1, 1), "ts").alias(f"oldest{number}")
        count = count_in_window("times", "ts", DAY).alias(f"day{number}")
        return lambda requests: requests.select(*ds.spec.request_key, "event_date", oldest, count)

    for number, zone in enumerate(ZONES):
        opened = Dataset.open(session_in(spark, zone), settings, name)
        opened.features.add(f"since{number}", since(number), gate=False)
        opened.features.add(f"clock{number}", {f"h{number}": "hour(ts)", f"d{number}": "to_date(ts)"}, gate=False)
    for number in range(len(ZONES)):
        rows = ds.requests(features=[f"since{number}", f"clock{number}"])
        assert {(r[f"oldest{number}"], r[f"day{number}"]) for r in rows.collect()} == {(86_400.0, 4)}
        wrong = rows.filter(f"h{number} <> hour(ts) or d{number} <> to_date(ts)")
        assert (rows.count(), wrong.count()) == (8, 0)


@pytest.mark.parametrize("zone", ZONES[1:])
def test_a_frame_keeps_its_own_values(spark: SparkSession, settings: Settings, name: str, zone: str) -> None:
    """``to_timestamp`` as the very last step: its texts are times of the frame's session."""
    session = session_in(spark, zone)
    frame = log_rows(session).withColumn("times", F.array().cast("array<timestamp>"))
    frame = frame.withColumn("ts", F.to_timestamp("txt"))
    own = multiset(frame.select("request_id", "item", F.unix_micros("ts")))
    ds = stored(session, settings, name, frame)
    assert multiset(ds.logs().select("request_id", "item", F.unix_micros("ts"))) == own


def test_a_run_has_catalogs_that_were_defined_while_spark_runs(spark: SparkSession) -> None:
    session = spark.newSession()
    session.conf.set("spark.sql.catalog.elsewhere", "org.apache.iceberg.spark.SparkCatalog")
    session.conf.set("spark.sql.catalog.elsewhere.type", "hadoop")
    copy = run_session(session)
    assert copy.conf.get("spark.sql.catalog.elsewhere.type") == "hadoop"
    assert copy.conf.get("spark.sql.session.timeZone") == "UTC"

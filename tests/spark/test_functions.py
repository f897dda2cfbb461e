"""Feature functions against plain Python, on data with nulls, duplicates, ties and empty lists."""

from __future__ import annotations

import datetime as dt
import math
import statistics as plain
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.functions import (
    Statistic,
    count_in_window,
    last_k,
    recency_seconds,
    request_totals,
    rolling_statistics,
    sequence_length,
    with_target_matches,
)
from dedup_storage.dataset.functions.windows import window_suffix
from dedup_storage.errors import DedupStorageError, SchemaError, UnknownColumnError, UsageError
from tests.spark.helpers import frame
from tests.strategies import examples

# An example takes Spark a second, so each holds many rows and a failing one is printed without shrinking.
EXAMPLES = examples(3, shrink=False)
START = dt.datetime(2024, 2, 28, 23, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
# Few distinct moments, a microsecond apart at the edges of an hour, so that ties and borders are common.
moments = st.builds(
    lambda hours, micros: START + hours * HOUR + dt.timedelta(microseconds=micros),
    st.integers(0, 4),
    st.integers(-1, 1),
)
maybe_moments = st.one_of(st.none(), moments)
items = st.one_of(st.none(), st.integers(-3, 3), st.just(2**62))
REQUESTS = "u bigint, r bigint, at timestamp, hist array<bigint>, times array<timestamp>"
KEYS = ["u", "r"]

Request = tuple[int, int, dt.datetime | None, list[int | None] | None, list[dt.datetime | None] | None]


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Up to 40 requests of up to 4 users, keys unique."""
    found: list[Request] = []
    for number in range(draw(st.integers(1, 40))):
        events = draw(st.one_of(st.none(), st.lists(st.tuples(items, maybe_moments), max_size=8)))
        hist = None if events is None else [e[0] for e in events]
        times = None if events is None else [e[1] for e in events]
        found.append((draw(st.integers(0, 3)), number, draw(maybe_moments), hist, times))
    return found


def seconds(length: dt.timedelta) -> float:
    return length // dt.timedelta(microseconds=1) / 1e6


def utc(value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.astimezone(dt.UTC)


def by_request(df: DataFrame) -> dict[int, dict[str, Any]]:
    rows = [row.asDict() for row in df.collect()]
    assert len({row["r"] for row in rows}) == len(rows)
    return {row["r"]: row for row in rows}


@EXAMPLES
@given(rows=requests(), k=st.integers(1, 5), hours=st.integers(1, 3))
def test_expressions_on_histories(spark: SparkSession, rows: list[Request], k: int, hours: int) -> None:
    window = hours * HOUR
    df = frame(spark, rows, REQUESTS).select(
        "r",
        sequence_length("hist").alias("length"),
        last_k("hist", k).alias("last"),
        recency_seconds("times", "at").alias("recency"),
        count_in_window("times", F.col("at"), window).alias("count"),
    )
    found = by_request(df)
    for _, r, at, hist, times in rows:
        seen = [t for t in times or [] if t is not None and at is not None and t <= at]
        assert found[r] == {
            "r": r,
            "length": len(hist or []),
            "last": None if hist is None else hist[-k:],
            "recency": seconds(at - max(seen)) if seen and at is not None else None,
            "count": None if at is None else sum(at - window < t for t in seen),
        }


@EXAMPLES
@given(rows=requests(), data=st.data(), timed=st.booleans())
def test_target_matches(spark: SparkSession, rows: list[Request], data: st.DataObject, timed: bool) -> None:
    shown = [
        (u, r, place, item)
        # The last request belongs to nobody, and some have no candidates.
        for u, r, *_ in [*rows, (9, 999)]
        for place, item in enumerate(data.draw(st.lists(items, max_size=5)))
    ]
    impressions = frame(spark, shown, "u bigint, r bigint, p int, item bigint")
    more = {"times": "times", "at": "at"} if timed else {}
    df = with_target_matches(impressions, frame(spark, rows, REQUESTS), keys=KEYS, item="item", history="hist", **more)
    expected = []
    by_key = {(u, r): (at, hist, times) for u, r, at, hist, times in rows}
    for u, r, place, item in shown:
        at, hist, times = by_key.get((u, r), (None, None, None))
        hits = [
            j
            for j, x in enumerate(hist or [])
            if item is not None and x == item
            and (not timed or (at is not None and times is not None and times[j] is not None and times[j] <= at))
        ]  # fmt: skip
        row: tuple[Any, ...] = (u, r, place, item, len(hits), len(hist or []) - 1 - max(hits) if hits else None)
        if timed:
            row += (min(seconds(at - times[j]) for j in hits) if hits else None,)
        expected.append(row)
    assert sorted(map(tuple, df.collect()), key=repr) == sorted(expected, key=repr)
    names = ["match_count", "match_events_ago", *(["match_recency_seconds"] if timed else [])]
    assert df.columns == [*impressions.columns, *names]


def test_target_matches_of_strings_and_other_integer_types(spark: SparkSession) -> None:
    requests = frame(
        spark, [("a", "x", ["é", "日本", "é"], [1, 2])], "u string, r string, h array<string>, i array<bigint>"
    )
    texts = frame(spark, [("a", "x", "é"), ("a", "x", "e"), ("a", "x", "é")], "u string, r string, item string")
    found = with_target_matches(texts, requests, keys=KEYS, item="item", history="h", prefix="seen")
    assert sorted((row["item"], row["seen_count"], row["seen_events_ago"]) for row in found.collect() if row[3]) == [
        ("é", 2, 0),
        ("é", 2, 0),
    ]
    assert found.count() == 3
    ints = frame(spark, [("a", "x", 1)], "u string, r string, item int")
    row = with_target_matches(ints, requests, keys=KEYS, item="item", history="i").first()
    assert row is not None
    assert (row["match_count"], row["match_events_ago"]) == (1, 1)


def test_times_of_other_types_are_compared_as_instants_in_any_zone(spark: SparkSession) -> None:
    zoned = spark.newSession()
    zoned.conf.set("spark.sql.session.timeZone", "America/New_York")
    # Midnight of New York comes five hours after that of UTC, which a date and a time without zone are of.
    rows = [("a", "x", [7, 8], ["2024-02-28T23:00:00Z", "2024-02-29T01:00:00Z"])]
    texts = zoned.createDataFrame(rows, "u string, r string, h array<bigint>, texts array<string>")
    shown = zoned.createDataFrame([("a", "x", 7), ("a", "x", 8)], "u string, r string, item bigint")
    for at in ("date'2024-02-29'", "timestamp_ntz'2024-02-29 00:00:00'", "timestamp'2024-02-29T00:00:00Z'"):
        df = texts.select(
            "u", "r", "h", F.expr("cast(texts AS array<timestamp>)").alias("times"), F.expr(at).alias("at")
        )
        found = df.select(recency_seconds("times", "at"), count_in_window("times", "at", 2 * HOUR)).collect()
        assert tuple(found[0]) == (3600.0, 1), at
        matches = with_target_matches(shown, df, keys=KEYS, item="item", history="h", times="times", at="at")
        assert {(r["item"], r["match_recency_seconds"]) for r in matches.collect()} == {(7, 3600.0), (8, None)}, at


ROLLED = "u bigint, r bigint, at timestamp, v double, n int"
rolled_rows = st.lists(
    st.tuples(
        st.integers(0, 2), maybe_moments, st.one_of(st.none(), st.just(math.nan), st.integers(-4, 4).map(float)),
        st.one_of(st.none(), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=40,
)  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@EXAMPLES
@given(
    rows=rolled_rows,
    window=st.sampled_from([None, HOUR, 3 * HOUR]),
    delay=st.sampled_from([None, dt.timedelta(microseconds=1), HOUR / 2]),
    current=st.booleans(),
)
def test_rolling_statistics(
    spark: SparkSession, rows: list[Any], window: dt.timedelta | None, delay: dt.timedelta | None, current: bool
) -> None:
    if current:
        delay = None
    numbered = [(u, r, at, v, n) for r, (u, at, v, n) in enumerate(rows)]
    df = rolling_statistics(
        frame(spark, numbered, ROLLED),
        keys=KEYS, at="at", values=["v", "n"], window=window, statistics=list(Statistic), delay=delay,
        include_current=current,
    )  # fmt: skip
    found, end = by_request(df), window_suffix(window)
    for u, r, at, _, _ in numbered:
        seen = [
            other
            for other in numbered
            if other[0] == u and at is not None and other[2] is not None
            and (window is None or at - window < other[2])
            and (other[2] <= at - delay if delay else other[2] <= at if current else other[2] < at)
        ]  # fmt: skip
        assert found[r][f"requests_count_{end}"] == len(seen)
        if delay is None and not current:
            assert found[r]["seconds_since_previous"] == (seconds(at - max(o[2] for o in seen)) if seen else None)
        for place, value in ((3, "v"), (4, "n")):
            values = [o[place] for o in seen if o[place] is not None and not math.isnan(o[place])]
            assert found[r][f"{value}_count_{end}"] == len(values)
            for name, function in (("sum", sum), ("min", min), ("max", max), ("mean", _mean)):
                wanted = None if not values else pytest.approx(function(values))
                assert found[r][f"{value}_{name}_{end}"] == wanted
            wanted = pytest.approx(plain.stdev(values), abs=1e-9) if len(values) > 1 else None
            assert found[r][f"{value}_std_{end}"] == wanted


@EXAMPLES
@given(rows=rolled_rows, data=st.data())
def test_what_happens_later_changes_no_feature(spark: SparkSession, rows: list[Any], data: st.DataObject) -> None:
    numbered = [(u, r, at, v, n) for r, (u, at, v, n) in enumerate(rows)]
    cut = data.draw(moments)
    # The present and the future get other values, and some new rows.
    changed = [row if row[2] is not None and row[2] < cut else (*row[:3], 99.0, 99) for row in numbered]
    changed += [(u, 1000 + u, cut, 7.0, 7) for u in range(3)]

    def features(given: list[Any]) -> dict[int, dict[str, Any]]:
        df = rolling_statistics(frame(spark, given, ROLLED), keys=KEYS, at="at", values=["v", "n"], window=2 * HOUR)
        return by_request(df)

    before, after = features(numbered), features(changed)
    known = [row[1] for row in numbered if row[2] is None or row[2] <= cut]
    assert {r: before[r] for r in known} == {r: after[r] for r in known}


def test_totals_of_requests(spark: SparkSession) -> None:
    rows = [(1, 1, 1), (1, 1, 0), (1, 2, None), (2, 3, 1)]
    impressions = frame(spark, rows, "u bigint, r bigint, y int")
    found = request_totals(impressions, KEYS, {"clicks": F.sum("y"), "shown": F.count(F.lit(1))})
    assert sorted(map(tuple, found.collect())) == [(1, 1, 1, 2), (1, 2, None, 1), (2, 3, 1, 1)]


def test_a_long_history_is_read_once_and_moved_by_nothing(spark: SparkSession, settings: Settings, name: str) -> None:
    """Between tables of one dataset: no exchange at all, no sort of a history, and few rows after the explode."""
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.sources.raw import RawLog
    from tests.spark.helpers import flat_rows, flat_schema, frame

    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2], users=8, candidates=5)), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    kept = {key: spark.conf.get(key) for key in ("spark.sql.adaptive.enabled",)}
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    try:
        df = with_target_matches(ds.impressions(), ds.requests(), keys=ds.spec.request_key, item="item", history="hist")
        plan = df._jdf.queryExecution().executedPlan().toString()
    finally:
        for key, value in kept.items():
            spark.conf.set(key, str(value))
    assert "Exchange" not in plan
    assert plan.count("ShuffledHashJoin") == 2
    assert "SortMergeJoin" not in plan
    scans = [line for line in plan.splitlines() if "BatchScan" in line]
    assert sum("hist" in line.split("[", 1)[1].split("]")[0] for line in scans) == 1
    sorts = [line for line in plan.splitlines() if "Sort " in line]
    assert not any("hist" in line for line in sorts)
    brute = ds.logs().select(
        "user_id", "request_id", "item", (F.size("hist") - F.size(F.array_remove("hist", F.col("item")))).alias("c")
    )
    ours = df.select("user_id", "request_id", "item", F.col("match_count").cast("int").alias("c"))
    assert sorted(map(tuple, brute.collect())) == sorted(map(tuple, ours.collect()))
    rolled = rolling_statistics(ds.requests(), keys=ds.spec.request_key, at="ts", window=dt.timedelta(days=7))
    text = rolled._jdf.queryExecution().sparkPlan().toString() + rolled._jdf.queryExecution().executedPlan().toString()
    assert "Exchange" not in text
    assert "hist" not in text


@pytest.mark.parametrize(
    ("call", "needle"),
    [
        (lambda _: last_k("hist", 0), "at least 1"),
        (lambda _: count_in_window("times", "at", dt.timedelta(0)), "positive"),
        (lambda df: rolling_statistics(df, keys=KEYS, at="hist"), "holds no times"),
        (lambda df: rolling_statistics(df, keys=KEYS, at="at", values=["vv"]), "no column vv"),
        (lambda df: rolling_statistics(df, keys=KEYS, at="at", values=["r"], statistics=["median"]), "median"),
        (lambda df: rolling_statistics(df, keys=KEYS, at="at", window=HOUR, delay=HOUR), "holds nothing"),
        (lambda df: rolling_statistics(df, keys=KEYS, at="at", delay=HOUR, include_current=True), "exclude"),
        (lambda df: with_target_matches(df, df, keys=KEYS, item="item", history="hist"), "no column item"),
        (lambda df: with_target_matches(df, df, keys=KEYS, item="r", history="hits"), "no column hits"),
        (lambda df: with_target_matches(df, df, keys=KEYS, item="r", history="hist", times="times"), "both or"),
        (lambda df: with_target_matches(df, df, keys=KEYS, item="r", history="hist", prefix="a b"), "'a b'"),
        (lambda df: with_target_matches(df.withColumn("r", F.expr("'1'")), df, keys=["u"], item="r", history="hist"),
         "got string and bigint"),
        (lambda df: with_target_matches(df, df.withColumn("u", F.lit(1.0)), keys=KEYS, item="r", history="hist"),
         "u of the impressions and the u of the requests cannot be compared"),
        (lambda df: rolling_statistics(df.withColumn("s", F.lit("1")), keys=KEYS, at="at", values=["s"]), "s holds te"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(spark: SparkSession, call: Any, needle: str) -> None:
    df = spark.createDataFrame([], REQUESTS)
    with pytest.raises(DedupStorageError, match=needle) as error:
        call(df)
    assert isinstance(error.value, (UsageError, UnknownColumnError, SchemaError))


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (None, "all"),
        (dt.timedelta(days=7), "7d"),
        (dt.timedelta(hours=36), "36h"),
        (dt.timedelta(minutes=90), "90min"),
        (dt.timedelta(seconds=61), "61s"),
        (dt.timedelta(microseconds=5), "5us"),
    ],
)
def test_names_of_windows(window: dt.timedelta | None, text: str) -> None:
    assert window_suffix(window) == text

"""Feature groups: added, read, refreshed, renamed, dropped, promoted; against the same columns computed plainly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features import Lookup
from dedup_storage.errors import (
    ConflictError,
    DuplicateRowsError,
    InputError,
    QualityGateError,
    SchemaError,
    UnknownColumnError,
    UsageError,
)
from dedup_storage.lake.upkeep import Policy
from dedup_storage.layout import Layout
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import RARELY, flat_rows, flat_schema, frame, multiset, same_rows


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows(days, first_request=first_request)), flat_schema())


def build(spark: SparkSession, settings: Settings, name: str, days: list[int], **options: Any) -> Dataset:
    raw = log(spark, days)
    created = Dataset.create(spark, settings, name, raw.schema, raw, **options)
    created.write(raw, run_id="first", gate=False)
    return created


def make(spark: SparkSession, settings: Settings, days: list[int], **options: Any) -> Dataset:
    """What ``build`` makes, put back in its place; one of each kind at a time."""
    kind = f"features {days} {sorted(options.items())}"
    return restored(spark, settings, kind, lambda name: build(spark, settings, name, days, **options))


def files(ds: Dataset, table: str, snapshot_id: int) -> set[str]:
    tasks = ds.metadata().tables[table].scan(snapshot_id=snapshot_id).plan_files()
    return {task.file.file_path for task in tasks}


def recent(requests: DataFrame) -> DataFrame:
    """Requests of the user on the day and the two before it."""
    day = F.datediff("event_date", F.lit("1970-01-01").cast("date"))
    window = Window.partitionBy("user_id").orderBy(day).rangeBetween(-2, 0)
    return requests.select("user_id", "request_id", "event_date", F.count("*").over(window).alias("recent"))


def clicked(requests: DataFrame, impressions: DataFrame) -> DataFrame:
    """Clicks of each request."""
    keys = ["user_id", "request_id", "event_date"]
    clicks = impressions.groupBy(*keys).agg(F.sum("y").alias("clicks"))
    return requests.select(*keys).join(clicks, keys, "left").select(*keys, "clicks")


@pytest.mark.long
@pytest.mark.parametrize("layout", [Layout.SPLIT, pytest.param(Layout.FLAT, marks=pytest.mark.slow)])
def test_added_columns_are_those_computed_plainly_and_nothing_is_rewritten(
    spark: SparkSession, settings: Settings, layout: Layout
) -> None:
    ds = make(spark, settings, [1, 2, 3], layout=layout)
    plain = ds.logs()
    before = ds.versions()[0]
    added = ds.features.add("age", {"length": "size(hist)", "in_dk": "country = 'DK'"}, run_id="a1")
    assert (added.version, added.rows, added.gate) == (2, 15, "passed")
    ds.features.add("match", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)
    ds.features.add("clicks", clicked, gate=False)
    wanted = plain.withColumn("length", F.size("hist")).withColumn("in_dk", F.expr("country = 'DK'"))
    clicks = plain.groupBy("user_id", "request_id").agg(F.sum("y").alias("clicks"))
    wanted = wanted.join(clicks, ["user_id", "request_id"]).withColumn("seen", F.array_contains("hist", F.col("item")))
    same_rows(ds.logs(), wanted.select(*plain.columns, "length", "in_dk", "clicks", "seen"))
    assert ds.requests().columns[-3:] == ["length", "in_dk", "clicks"]
    assert ds.impressions().columns[-1] == "seen"
    same_rows(ds.requests(), ds.logs().select(*ds.requests().columns).distinct())
    if layout is Layout.SPLIT:
        for frames in (ds.requests(), ds.impressions(), ds.logs()):
            assert "Exchange" not in frames._jdf.queryExecution().executedPlan().toString()
    same_rows(ds.logs(features=()), plain)
    assert ds.logs(features=["clicks"]).columns == [*plain.columns, "clicks"]
    same_rows(ds.logs(1), plain)
    with pytest.raises(UnknownColumnError, match="no feature group clocks; expected one of clicks"):
        ds.logs(features=["clocks"])
    # Not a file of the tables that were there is added or removed.
    now = ds.versions()[-1]
    for table, snapshot_id in before.snapshots.items():
        assert files(ds, table, snapshot_id) == files(ds, table, now.snapshots[table])
    again = ds.features.add("age", {"length": "size(hist)", "in_dk": "country = 'DK'"}, run_id="a1")
    assert (again.already_published, again.version) == (True, 2)
    with pytest.raises(UsageError, match=r"a1 published version 2 with another request: the source differs"):
        ds.features.add("age", {"length": "size(hist)"}, run_id="a1")


@pytest.mark.long
def test_lookups_frames_and_missing_rows(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    name = ds.name
    plain = ds.logs()
    catalog = settings.catalog.name
    spark.sql(f"CREATE TABLE {catalog}.{name}.items USING iceberg AS SELECT id item_id, id * 2 price FROM range(20)")
    ds.features.add("price", Lookup(f"{name}.items", {"item": "item_id"}, {"price": "price"}), grain="impression")
    texts = "SELECT cast(id AS string) item_id, id price FROM range(20)"
    spark.sql(f"CREATE TABLE {catalog}.{name}.texts USING iceberg AS {texts}")
    with pytest.raises(SchemaError, match=r"item cannot be looked up in item_id of .*\.texts.* got string"):
        ds.features.add("text", Lookup(f"{name}.texts", {"item": "item_id"}, {"p": "price"}), grain="impression")
    given = ds.requests(features=()).filter("user_id > 1").select("user_id", "request_id", F.lit(1.5).alias("score"))
    with pytest.raises(QualityGateError, match=r"missing_keys: expected a row for every key of the log \(2 do not"):
        ds.features.add("score", given)
    halves = given.withColumn("user_id", F.col("user_id") + F.lit(0.5))
    with pytest.raises(InputError, match="user_id of the rows of the feature group score cannot name keys"):
        ds.features.add("score", halves, missing="null", gate=False)
    ds.features.add("score", given, missing="null")
    with pytest.raises(UsageError, match="was computed from a frame"):
        ds.features.refresh("score", full=True)
    assert ds.features.refresh("score", given, full=True, gate=False).rows == 3
    wanted = plain.withColumn("price", F.expr("if(item < 20, item * 2, null)"))
    same_rows(ds.logs(), wanted.withColumn("score", F.expr("if(user_id > 1, 1.5D, null)")))


def test_a_changed_lookup_table_makes_the_group_stale(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    name = ds.name
    table = f"{settings.catalog.name}.{name}.prices"
    spark.sql(f"CREATE TABLE {table} USING iceberg AS SELECT id item, id * 2 price FROM range(20)")
    lookup = Lookup(f"{name}.prices", {"item": "item"}, {"price": "price"})
    ds.features.add("price", lookup, grain="impression", gate=False)
    state = ds.tables.state(f"{name}.prices")
    assert ds.features()["price"].coverage[0].lookups == {f"{name}.prices": state}
    assert ds.features.refresh("price", gate=False).up_to_date
    # A new day is computed alone, compaction changes nothing, another price concerns every row.
    ds.write(log(spark, [2], 100), gate=False)
    assert ds.features.refresh("price", gate=False).dates == (("2024-01-02", "2024-01-03"),)
    spark.sql(f"CALL {settings.catalog.name}.system.rewrite_data_files(table => '{name}.prices', "
              "options => map('rewrite-all', 'true'))")  # fmt: skip
    assert ds.features.refresh("price", gate=False).up_to_date
    spark.sql(f"UPDATE {table} SET price = price + 1")
    refreshed = ds.features.refresh("price", gate=False)
    assert (refreshed.dates, refreshed.replaced) == ((("", ""),), True)
    same_rows(ds.logs(), ds.logs(features=()).withColumn("price", F.expr("if(item < 20, item * 2 + 1, null)")))
    assert ds.features.refresh("price", gate=False).up_to_date


def test_rollback_rename_and_drop_are_versions(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    plain = multiset(ds.logs())
    ds.features.add("a", {"one": "1"}, gate=False, run_id="add-a")
    ds.features.rename("a", "b", run_id="rename")
    assert list(ds.features()) == ["b"]
    assert list(ds.features(2)) == ["a"]
    ds.features.drop("b", run_id="drop")
    assert ds.features() == {}
    assert multiset(ds.logs()) == plain
    assert ds.logs(2).columns[-1] == ds.logs(3).columns[-1] == "one"
    ds.features.add("a", {"one": "'text'"}, gate=False)
    assert {row["one"] for row in ds.logs().collect()} == {"text"}
    assert {row["one"] for row in ds.logs(2).collect()} == {1}
    ds.rollback(3)
    assert list(ds.features()) == ["b"]
    assert {row["one"] for row in ds.logs().collect()} == {1}
    ds.rollback(1)
    assert ds.features() == {}
    assert multiset(ds.logs()) == plain
    with pytest.raises(UnknownColumnError, match="has no feature group b"):
        ds.features.drop("b")


@pytest.mark.long
@pytest.mark.parametrize(
    "date_grain",
    [pytest.param("day", marks=pytest.mark.slow), "month", pytest.param("none", marks=pytest.mark.slow)],
)
def test_refresh_computes_what_is_new_or_changed(spark: SparkSession, settings: Settings, date_grain: str) -> None:
    ds = make(spark, settings, [1, 2, 3, 8], date_grain=date_grain)
    ds.features.add("recent", recent, lookback=2, gate=False)

    def up_to_date() -> None:
        plain = recent(ds.requests(features=()).withColumn("event_date", F.to_date("ts")))
        same_rows(
            ds.requests(features=["recent"]).select("user_id", "request_id", "recent"),
            plain.select("user_id", "request_id", "recent"),
        )
        again = ds.features.refresh("recent", gate=False)
        assert again.up_to_date
        assert again.version == ds.versions()[-1].version

    up_to_date()
    ds.write(log(spark, [9], 100), gate=False)
    new_day = ds.features.refresh("recent", run_id="day-9")
    assert not new_day.replaced
    assert new_day.dates == (("2024-01-09", "2024-01-10"),)
    assert new_day.rows == 5
    up_to_date()
    # A late row of one user: only its bucket, and only the days that look back on it.
    late = [r for r in flat_rows([2], first_request=200) if r[0] == 3]
    ds.write(RawLog.from_frame(frame(spark, late), flat_schema()), gate=False)
    refreshed = ds.features.refresh("recent")
    assert refreshed.replaced
    assert refreshed.dates == (("2024-01-02", "2024-01-05"),)
    assert refreshed.buckets is not None
    assert len(refreshed.buckets) == 1
    up_to_date()
    ds.write(log(spark, [8], 300), mode="replace", gate=False)
    assert ds.features.refresh("recent").replaced
    up_to_date()
    assert ds.features.refresh("recent", full=True, gate=False).replaced
    up_to_date()


def test_a_log_without_event_time(spark: SparkSession, settings: Settings, name: str) -> None:
    schema = flat_schema(event_time=None, date_grain="none", columns={"country": "request", "ts": "request"})
    first, second = (frame(spark, flat_rows([1], first_request=n)) for n in (0, 100))
    ds = Dataset.create(spark, settings, name, schema, RawLog.from_frame(first, schema))
    ds.write(RawLog.from_frame(first, schema), gate=False)
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    with pytest.raises(UsageError, match="a look-back needs event dates"):
        ds.features.add("recent", recent, lookback=2)
    ds.write(RawLog.from_frame(second, schema), gate=False)
    assert ds.features.refresh("age").rows == 10
    assert ds.features.refresh("age").up_to_date
    same_rows(ds.logs(), first.unionByName(second).withColumn("length", F.size("hist")))


@pytest.mark.long
def test_groups_that_read_other_groups(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    ds.features.add("a", {"length": "size(hist)"}, gate=False)
    ds.features.add("b", {"twice": "2 * length"}, uses=["a"], gate=False)
    assert {tuple(r) for r in ds.requests().select("length", "twice").collect()} == {(i, 2 * i) for i in range(5)}
    assert set(ds.features()["b"].coverage[0].snapshots) == {"requests", "fg_a"}
    with pytest.raises(UsageError, match="cannot be dropped, since other groups read it; got groups that read it: b"):
        ds.features.drop("a")
    ds.write(log(spark, [2], 100), gate=False)
    # b follows a: until a is refreshed its new rows have no length.
    ds.features.refresh("a", gate=False)
    ds.features.refresh("b", gate=False)
    assert ds.requests().filter("twice is null or twice != 2 * size(hist)").isEmpty()


def test_two_groups_added_at_once_are_both_there(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])

    def add(number: int) -> int:
        return ds.features.add(f"g{number}", {f"c{number}": str(number)}, gate=False).version

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(add, range(3))) == [2, 3, 4]
    assert {tuple(r) for r in ds.logs().select("c0", "c1", "c2").collect()} == {(0, 1, 2)}


def test_the_same_group_by_two_runs_conflicts_by_name(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    ds.features.add("a", {"one": "1"}, gate=False)
    ds.write(log(spark, [2], 100), gate=False)
    from dedup_storage.dataset.features.refresh import Refresher

    slow = Refresher(ds.handle, "a", run_id="slow", gate=False)
    original = slow.stage

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        staged = original(*args, **kwargs)
        ds.features.refresh("a", run_id="fast", gate=False)
        return staged

    slow.stage = overtaken  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="another run changed the feature group a"):
        slow.refresh()
    assert ds.features.refresh("a", run_id="slow", gate=False).up_to_date
    assert ds.logs().filter("one is null").isEmpty()


@pytest.fixture(scope="session")
def bad(spark: SparkSession, settings: Settings) -> Dataset:
    return build(spark, settings, "t_features_bad_input", [1])


def half_requests(requests: DataFrame) -> DataFrame:
    return requests.filter("user_id > 1").select("user_id", "request_id", "event_date", F.lit(1).alias("x"))


def doubled(requests: DataFrame) -> DataFrame:
    rows = requests.select("user_id", "request_id", "event_date", F.lit(1).alias("x"))
    return rows.unionByName(rows.filter("user_id = 1"))


def invented(requests: DataFrame) -> DataFrame:
    key = F.expr("request_id + if(user_id = 1, 1000, 0)").alias("request_id")
    return requests.select("user_id", key, "event_date", F.lit(1).alias("x"))


def random_key(requests: DataFrame) -> DataFrame:
    return requests.select("user_id", (F.rand() * 100).cast("bigint").alias("request_id"), F.lit(1).alias("x"))


def without_key(requests: DataFrame) -> DataFrame:
    return requests.select("user_id", F.lit(1).alias("x"))


def raises_on_a_row(requests: DataFrame) -> DataFrame:
    @F.udf("int")
    def check(user: int) -> int:
        if user == 3:
            raise ValueError(f"secret user {user}")
        return user

    return requests.select("user_id", "request_id", "event_date", check("user_id").alias("x"))


@pytest.mark.parametrize(
    ("source", "options", "error", "words"),
    [
        (half_requests, {}, QualityGateError, "features.g.missing_keys.*(2 do not hold)"),
        (doubled, {}, QualityGateError, "features.g.duplicate_keys: expected every key once"),
        (invented, {"missing": "null"}, QualityGateError, "features.g.surplus_keys: expected no key that the log"),
        ({"x": "if(user_id = 1, null, 1)"}, {"not_null": ["x"]}, QualityGateError, "features.g.x.not_null"),
        ({"x": "1"}, {"not_null": ["y"]}, SchemaError, "not_null names the column y"),
        (random_key, {}, UsageError, "the key of the feature group g is not deterministic"),
        (without_key, {}, UnknownColumnError, "has no column request_id"),
        (raises_on_a_row, {}, InputError, "function raises_on_a_row raised ValueError on a row in check"),
        ({"x": "1 / (user_id - 3)"}, {}, InputError, "its expression failed on a row with DIVIDE_BY_ZERO"),
        ({"x": "nothing + 1"}, {}, UnknownColumnError, "nothing"),
        ({"x": "1 +"}, {}, InputError, "PARSE_SYNTAX_ERROR|syntax"),
        ({"x": "null"}, {}, SchemaError, "column x has a type that no table can hold"),
        ({"Country": "1"}, {}, SchemaError, "has the name of another column; .* a column of the log"),
        ({"position": "1"}, {}, SchemaError, "no columns|name of another column"),
        (lambda requests: 7, {}, UsageError, "gave no frame"),
        (7, {}, UsageError, "cannot be computed from this source"),
        ({"x": "1"}, {"lookback": -1}, UsageError, "the look-back is negative"),
        ({"x": "1"}, {"uses": ["h"]}, UnknownColumnError, "no feature group h"),
        ({"x": "1"}, {"grain": "user"}, UsageError, "the grain user is not known"),
    ],
)
def test_bad_input_is_named_and_nothing_is_published(
    bad: Dataset, source: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        bad.features.add("g", source, **options)
    assert "secret" not in str(raised.value)
    assert bad.features() == {}
    assert [v.version for v in bad.versions()] == [1]
    assert all(len(t.metadata.snapshots) <= 1 for t in bad.metadata().tables.values())


@pytest.mark.long
def test_a_refresh_of_a_promoted_group_keeps_the_rows_of_a_flat_month(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1, 2], layout="flat", date_grain="month")
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    once = ds.requests(features=()).select("user_id", "request_id", F.lit(1).alias("n"))
    ds.features.add("twice", once.unionByName(once), gate=False)
    with pytest.raises(DuplicateRowsError, match=r"two rows for one request; expected 30 rows, as logs has; got 60"):
        ds.features.promote("twice")
    ds.features.drop("twice")
    ds.features.promote("age")
    with pytest.raises(UsageError, match="age was computed by another source than the one given"):
        ds.features.refresh("age", {"length": "size(hist) + 1"})
    ds.write(log(spark, [3], 100), gate=False)
    # A part of the group would be computed otherwise than the rest.
    with pytest.raises(UsageError, match="computed by another source"):
        ds.features.refresh("age", {"length": "size(hist) + 1"})
    # Day 3 lies in the segment of days 1 and 2, of which each request has three rows.
    assert ds.features.refresh("age", {"length": "size(hist)"}, gate=False).dates == (("2024-01-03", "2024-01-04"),)
    plain = log(spark, [1, 2]).frame.unionByName(log(spark, [3], 100).frame)
    same_rows(ds.logs(), plain.withColumn("length", F.size("hist")))
    ds.features.refresh("age", {"length": "size(hist) + 1"}, full=True, gate=False)
    same_rows(ds.logs(), plain.withColumn("length", F.size("hist") + 1))


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "date_grain", "whole"),
    [
        pytest.param("split", "month", False, id="half"),
        pytest.param("split", "month", True, id="split-month", marks=RARELY),
        pytest.param("flat", "day", True, id="flat-day", marks=pytest.mark.slow),
    ],
)
def test_a_promoted_group_reads_and_refreshes_as_before(
    spark: SparkSession, settings: Settings, layout: str, date_grain: str, whole: bool
) -> None:
    ds = make(spark, settings, [1, 2], layout=layout, date_grain=date_grain)
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    ds.features.add("match", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)
    ds.features.add("other", {"twice": "2 * length"}, uses=["age"], gate=False)
    before = multiset(ds.logs())
    assert ds.features.promote("age").rows == (10 if layout == "split" else 30)
    ds.features.promote("match")
    assert multiset(ds.logs()) == before
    assert ds.metadata().info(ds.versions()[-1].version).rows["fg_age"] == 0
    for group in ("age", "match", "other"):
        assert ds.features.refresh(group).up_to_date, group
    with pytest.raises(UsageError, match="age is promoted already; got columns of"):
        ds.features.promote("age")
    # New and replaced days come without the values, which a refresh writes into their segments.
    ds.write(log(spark, [3], 100), gate=False)
    ds.write(log(spark, [2], 200), mode="replace", gate=False)
    assert ds.logs().filter("length is null").count() == 30
    assert ds.requests(4).columns[-2:] == ["length", "twice"]
    # A replaced day replaces its segment, whose files do not tell which of their days changed.
    first = "2024-01-01" if date_grain == "month" else "2024-01-02"
    for group in ("age", "match", "other"):
        assert ds.features.refresh(group).dates == ((first, "2024-01-04"),), group
    plain = ds.logs(features=())
    wanted = plain.withColumn("length", F.size("hist")).withColumn("seen", F.array_contains("hist", F.col("item")))
    same_rows(ds.logs(), wanted.withColumn("twice", F.expr("2 * length")))
    for group in ("age", "match", "other"):
        assert ds.features.refresh(group).up_to_date, group
    with pytest.raises(UsageError, match="groups that read it: other"):
        ds.features.drop("age")
    ds.features.drop("other")
    ds.features.drop("age")
    assert "length" not in ds.logs().columns
    if not whole:
        return
    # The column stays in the table, and writes that know nothing of it go on.
    ds.write(log(spark, [4], 400), gate=False)
    plain = ds.logs(features=())
    ds.features.refresh("match", gate=False)
    # Versions show a number under that name, which files of a text's column do not give back after a rollback.
    text = ds.features.add("age", {"length": "concat('n', size(hist))"}, gate=False)
    named = plain.select("hist", F.expr("concat('n', size(hist)) length"))
    with pytest.raises(
        UsageError, match=r" has a column length of another type, which version \d+ shows; expected int"
    ):
        ds.features.promote("age")
    same_rows(ds.logs().select("hist", "length"), named)
    ds.rollback(6)
    ds.write(log(spark, [5], 500), gate=False)
    columns = ("request_id", "item", "length", "seen")
    same_rows(ds.logs().filter("ts < '2024-01-05'").select(*columns), ds.logs(6).select(*columns))
    ds.rollback(text.version)
    ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False)
    ds.features.promote("age")
    plain = ds.logs(features=())
    same_rows(ds.logs().select("hist", "length"), plain.select("hist", F.expr("concat('n', size(hist)) length")))


@pytest.mark.long
def test_the_check_of_a_version_judges_its_groups(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1])
    ds.features.add("age", {"length": "size(hist)"}, not_null=True, gate=False)
    ds.features.add("seen", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)
    ds.features.add("bad", {"x": "if(user_id = 1, null, 1)"}, not_null=True, gate=False)
    verdict = ds.check()
    assert [c.name for c in verdict.failures] == ["features.bad.x.not_null"]
    assert {c.name.split(".")[1] for c in verdict.checks if c.name.startswith("features.")} == {"age", "seen", "bad"}
    assert (verdict.facts["features.seen.log_keys"], verdict.facts["features.age.feature_rows"]) == (15, 5)
    assert verdict == type(verdict).model_validate_json((Path(verdict.docs) / "verdict.json").read_text())
    ds.features.drop("bad")
    # A day without values yet is no fault, and where the values lie makes no difference.
    ds.write(log(spark, [2], 100), gate=False)
    ds.features.promote("age")
    verdict = ds.check()
    assert verdict.passed
    assert verdict.facts["features.seen.log_keys"] == 15
    ds.features.refresh("age", gate=False)
    assert ds.check().facts["features.age.feature_rows"] == 10
    assert [c for c in ds.check(2).checks if c.name.startswith("features.seen")] == []

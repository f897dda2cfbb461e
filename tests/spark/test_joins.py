"""Bucket joins: no row moves, the rows are the plain join's, and what cannot stay in its buckets is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.joins import How, ShuffleWarning, bucket_join
from dedup_storage.dataset.joins.plan import physical_plan
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, missing
from dedup_storage.errors import (
    InputError,
    SchemaError,
    ShuffleRefusedError,
    UnknownColumnError,
    UnsafeNameError,
    UsageError,
)
from tests.spark.helpers import multiset
from tests.spark.join_tables import KEYS, Tables, exchanges, plain_join, same_as_plain

pytestmark = pytest.mark.usefixtures("compiled")

DATED = (*KEYS, "event_date")
SOME = "request_id % 3 <> 0"


@pytest.fixture(scope="module")
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return Tables(spark, settings.catalog.name)


@pytest.fixture
def read(tables: Tables) -> Callable[..., DataFrame]:
    """A table without its date, so that it is grouped by bucket alone."""

    def reader(name: str, partitions: str, **options: object) -> DataFrame:
        return tables.spark.table(tables(name, partitions, **options)).drop("event_date")  # type: ignore[arg-type]

    return reader


@pytest.mark.parametrize(
    ("name", "partitions", "user", "how"),
    [
        *(("day", "event_date, bucket(4, user_id)", "bigint", how) for how in How),
        ("month", "months(event_date), bucket(4, user_id)", "bigint", How.LEFT),
        ("text", "event_date, bucket(3, user_id)", "string", How.INNER),
        ("text", "event_date, bucket(3, user_id)", "string", How.ANTI),
    ],
)
def test_dated_tables(tables: Tables, name: str, partitions: str, user: str, how: How) -> None:
    left = tables.spark.table(tables(f"{name}_l", partitions, user=user))
    right = tables.spark.table(
        tables(f"{name}_r", partitions, user=user, where=f"{SOME} AND event_date > '2024-01-30'")
    )
    result = bucket_join(left, right, how=how)
    assert exchanges(result) == 0
    # Where the suite's session has all settings, the frame stays in it, and views of it are seen there; Spark 4.0 lacks
    # one of them.
    assert (result.sparkSession is tables.spark) == (not missing(tables.spark))
    same_as_plain(result, left, right, DATED, how)
    if user == "string" and how is How.INNER:
        same_as_plain(bucket_join(left, right, ("event_date", *KEYS), how), left, right, ("event_date", *KEYS), how)


@pytest.mark.parametrize("how", [How.LEFT, How.ANTI])
def test_tables_without_their_dates(read: Callable[..., DataFrame], how: How) -> None:
    """Whatever the dates' grain: where no date is read, buckets are whole, over all dates."""
    left = read("day_l", "event_date, bucket(4, user_id)")
    right = read("plain_r", "bucket(4, user_id)", where=SOME)
    result = bucket_join(left, right, how=how)
    assert exchanges(result) == 0
    same_as_plain(result, left, right, KEYS, how)
    if how is not How.LEFT:
        return
    alone = right.drop("request_id")
    same_as_plain(bucket_join(left, alone, how=how), left, alone, ("user_id",), how)


@pytest.mark.parametrize(
    ("left", "right", "free"),
    [
        (4, 8, {"inner", "left", "semi", "anti"}),
        (8, 4, {"inner", "semi"}),
        pytest.param(4, 6, {"inner", "semi"}, marks=pytest.mark.slow),
        pytest.param(6, 3, {"inner", "semi"}, marks=pytest.mark.slow),
        (3, 5, set()),
    ],
)
def test_different_bucket_counts(read: Callable[..., DataFrame], left: int, right: int, free: set[str]) -> None:
    a = read(f"l{left}", f"bucket({left}, user_id)")
    b = read(f"r{right}", f"bucket({right}, user_id)", where=SOME)
    for how in How if free else (How.LEFT,):
        if how.value in free:
            result = bucket_join(a, b, how=how)
            assert exchanges(result) == 0
        else:
            with pytest.raises(ShuffleRefusedError, match=rf"l{left} has {left} buckets and .*r{right} has {right}"):
                bucket_join(a, b, how=how)
            result = bucket_join(a, b, how=how, exchange="one-side")
            assert exchanges(result) == 1
        same_as_plain(result, a, b, KEYS, how)


def test_joins_above_different_bucket_counts(read: Callable[..., DataFrame]) -> None:
    """Spark 4.1 loses rows when such a join is joined again by its buckets: it must not know them."""
    a, b = read("l12", "bucket(12, user_id)"), read("r8", "bucket(8, user_id)")
    c, d = read("m12", "bucket(12, user_id)"), read("r18", "bucket(18, user_id)")
    one, two = bucket_join(a, b), bucket_join(c, d)
    keys = list(KEYS)
    expected = plain_join(a.join(b, keys), c.join(d, keys), KEYS, "inner")
    assert multiset(one.join(two, keys)) == multiset(expected)
    three = read("r6", "bucket(6, user_id)")
    assert multiset(one.join(three, keys)) == multiset(plain_join(a.join(b, keys), three, KEYS, "inner"))
    window = Window.partitionBy("user_id")
    seen = one.withColumn("n", F.count(F.lit(1)).over(window)).select("user_id", "n").distinct()
    counted = plain_join(a, b, KEYS, "inner").groupBy("user_id").agg(F.count(F.lit(1)).alias("n"))
    assert multiset(seen) == multiset(counted)


@pytest.mark.parametrize(
    ("how", "flipped"),
    [
        (How.INNER, False),
        (How.LEFT, False),
        (How.ANTI, True),
        *(
            pytest.param(how, flipped, marks=pytest.mark.slow)
            for how, flipped in (
                (How.INNER, True),
                (How.LEFT, True),
                (How.SEMI, False),
                (How.SEMI, True),
                (How.ANTI, False),
            )
        ),
    ],
)
def test_one_side_that_is_not_bucketed(read: Callable[..., DataFrame], how: How, flipped: bool) -> None:
    a, b = read("l4", "bucket(4, user_id)"), read("loose", "", where=SOME)
    if flipped:
        a, b = b, a
    with pytest.raises(ShuffleRefusedError, match=r"loose is not bucketed.*not partitioned"):
        bucket_join(a, b, how=how)
    result = bucket_join(a, b, how=how, exchange="one-side")
    assert exchanges(result) == 1
    same_as_plain(result, a, b, KEYS, how)
    if not flipped and how is How.LEFT:
        local = b.sparkSession.createDataFrame(b.collect(), b.schema)
        same_as_plain(bucket_join(a, local, how=how, exchange="one-side"), a, local, KEYS, how)


@pytest.mark.parametrize("how", [How.INNER, How.LEFT, How.ANTI])
def test_an_empty_side(read: Callable[..., DataFrame], how: How) -> None:
    a, b = read("l4", "bucket(4, user_id)"), read("none", "bucket(4, user_id)", where="false")
    with pytest.raises(ShuffleRefusedError, match="none has nothing to read"):
        bucket_join(a, b, how=how)
    result = bucket_join(a, b, how=how, exchange="one-side")
    assert exchanges(result) <= 1
    assert multiset(result) == multiset(plain_join(a, b, KEYS, how))


def test_a_hashed_side_is_not_sorted(read: Callable[..., DataFrame]) -> None:
    a, b = read("l4", "bucket(4, user_id)"), read("plain_r", "bucket(4, user_id)", where=SOME)
    for how, side in (("inner", "left"), ("inner", "right"), ("left", "right"), ("anti", "right")):
        result = bucket_join(a, b, how=how, hash_side=side)
        assert "Sort" not in result._jdf.queryExecution().executedPlan().toString()
        assert exchanges(result) == 0
        same_as_plain(result, a, b, KEYS, how)
    with pytest.raises(UsageError, match="left join cannot hash the side left"):
        bucket_join(a, b, how="left", hash_side="left")


def test_chains_and_snapshots(tables: Tables) -> None:
    spark = tables.spark
    table = tables("day_l", "event_date, bucket(4, user_id)")
    old = spark.table(f"{table}.snapshots").agg(F.min("snapshot_id")).first()[0]  # type: ignore[index]
    left = spark.read.option("versionAsOf", str(old)).table(table)
    right = spark.table(tables("day_r", "event_date, bucket(4, user_id)"))
    third = spark.table(table).withColumnRenamed("v_day_l", "again")
    chain = bucket_join(bucket_join(left, right, how="left").where("user_id < 9"), third)
    assert exchanges(chain) == 0
    expected = plain_join(left.join(right, list(DATED), "left").where("user_id < 9"), third, DATED, "inner")
    assert multiset(chain) == multiset(expected)


def test_a_session_without_the_settings_stays_as_it_is(tables: Tables) -> None:
    table, other = tables("day_l", "event_date, bucket(4, user_id)"), tables("day_r", "event_date, bucket(4, user_id)")
    spark = tables.spark.newSession()
    for key, value in BUCKET_JOIN.items():
        spark.conf.set(key, "false" if value == "true" else "true")
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    spark.table(other).createOrReplaceTempView("mine")
    before = spark.conf.getAll
    result = bucket_join(spark.table(table), spark.table("mine"))
    assert exchanges(result) == 0
    assert exchanges(result.where("user_id = 0").select("v_day_r")) == 0
    assert spark.conf.getAll == before
    assert all(spark.conf.get(key) != value for key, value in BUCKET_JOIN.items())
    assert exchanges(spark.table(table).join(spark.table("mine"), list(DATED))) == 2
    same_as_plain(result, spark.table(table), spark.table(other), DATED)


DAILY = "event_date, bucket(4, user_id)"
REFUSED = [
    ("day_l", DAILY, "bigint", KEYS, "event_date is a partition column that is read"),
    ("turned", "bucket(4, user_id), event_date", "bigint", DATED, "turned by bucket.4. of user_id, event"),
    ("month_r", "months(event_date), bucket(4, user_id)", "bigint", DATED, "month of event_date"),
    ("narrow", DAILY, "int", DATED, "user_id is long in .* and user_id is int in"),
]


@pytest.mark.parametrize(("name", "partitions", "user", "on", "why"), REFUSED)
def test_what_keeps_rows_from_staying(
    tables: Tables, name: str, partitions: str, user: str, on: tuple[str, ...], why: str
) -> None:
    left = tables.spark.table(tables("day_r", "event_date, bucket(4, user_id)"))
    right = tables.spark.table(tables(name, partitions, user=user))
    if on == KEYS:
        right = right.withColumnRenamed("event_date", "their_date")
    with pytest.raises(ShuffleRefusedError, match=why) as refused:
        bucket_join(left, right, on)
    assert refused.value.fix
    assert refused.value.exit_code == 2
    with pytest.warns(ShuffleWarning, match=why):
        warned = bucket_join(left, right, on, exchange="warn")
    same_as_plain(warned, left, right, on)


def test_the_side_that_moves_is_the_one_without_buckets(tables: Tables) -> None:
    spark = tables.spark.newSession()
    spark.conf.set("spark.sql.shuffle.partitions", "40")
    left = spark.table(tables("l4", "bucket(4, user_id)")).drop("event_date")
    loose = spark.table(tables("loose", "", where=SOME))
    counted = loose.groupBy("user_id").agg(F.count(F.lit(1)).alias("n"))
    result = bucket_join(left, counted, exchange="one-side")
    same_as_plain(result, left, counted, ("user_id",))
    moving = {scan.table for node in physical_plan(result).walk() if node.is_shuffle for scan in node.scans}
    assert moving == {tables("loose", "")}


def test_a_rearranged_side(tables: Tables) -> None:
    left = tables.spark.table(tables("l4", "bucket(4, user_id)"))
    right = tables.spark.table(tables("plain_r", "bucket(4, user_id)", where=SOME)).drop("event_date")
    with pytest.raises(ShuffleRefusedError, match="pass through Filter, Coalesce"):
        bucket_join(left, right.coalesce(1))
    # Grouping by what a bucket holds whole keeps the buckets.
    counted = right.groupBy("user_id").count()
    result = bucket_join(left, counted, how="left")
    assert exchanges(result) == 0
    same_as_plain(result, left, counted, ("user_id",), "left")


def test_wrong_input_is_one_sentence(tables: Tables) -> None:
    left = tables.spark.table(tables("l4", "bucket(4, user_id)"))
    right = tables.spark.table(tables("plain_r", "bucket(4, user_id)", where=SOME))
    with pytest.raises(UnknownColumnError, match="the right side has no column v_l4"):
        bucket_join(left, right, ("user_id", "v_l4"))
    with pytest.raises(SchemaError, match=r"different types.*string and bigint"):
        bucket_join(left.withColumn("user_id", F.col("user_id").cast("string")), right, KEYS)
    with pytest.raises(UsageError, match="both sides have event_date"):
        bucket_join(left, right, KEYS)
    with pytest.raises(UsageError, match="no column in common"):
        bucket_join(left.select("v_l4"), right)
    with pytest.raises(UsageError, match="the join outer is not known"):
        bucket_join(left, right, how="outer")
    with pytest.raises(UsageError, match="the exchange maybe is not known"):
        bucket_join(left, right, exchange="maybe")
    with pytest.raises(UsageError, match="2 columns named user_id"):
        bucket_join(left.select("user_id", F.col("v_l4").alias("user_id")), right, "user_id")
    with pytest.raises(UsageError, match="different columns"):
        bucket_join(left, right, ("user_id", "user_id"))
    with pytest.raises(UnsafeNameError, match="table name"):
        bucket_join("lake.x; drop", right, spark=tables.spark)
    with pytest.raises(InputError, match=r"nowhere"):
        bucket_join("lake.nowhere.t", right, spark=tables.spark)


def test_no_warning_where_nothing_moves(tables: Tables) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bucket_join(tables("l4", "bucket(4, user_id)"), tables("plain_r", "bucket(4, user_id)", where=SOME),
                    exchange="warn", spark=tables.spark)  # fmt: skip

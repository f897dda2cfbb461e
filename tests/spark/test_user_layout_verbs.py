"""Layout ``user``: backfills, promotion, joins with lists, and the way in by a conversion, on both formats."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.joins.bucket import ShuffleWarning
from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from tests.spark.helpers import ICEBERG_DAILY, WHOLE, halves
from tests.spark.test_user_layout import FORMATS, log, one_day, same

OTHER = {"iceberg": "delta", "delta": "iceberg"}


@pytest.fixture(params=FORMATS)
def lake(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"format": request.param})


def sound(ds: Dataset) -> bool:
    return all(check.passed for check in ds.check().checks if ".lists." in check.name)


def events_of(ds: Dataset) -> list[int]:
    return [number for table, number in ds.handle.cut().snapshots.items() if table.startswith("events_")]


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("iceberg"), indirect=["lake"])
def test_backfills_of_request_columns_and_from_lists(spark: SparkSession, lake: Settings, whole: bool) -> None:
    """Runs stay with their requests; whatever reads a list, a condition too, reads the one that was logged."""
    ds, one = one_day(spark, lake)
    two = log(spark, [2])
    ds.write(two, gate=False)
    logged, before = one.frame.unionByName(two.frame), events_of(ds)

    # A condition over a list, its name in another case; new values from another list; some of the users.
    some = Affected(users=["user 1", "user 2", "user 4"], where="SIZE(Words) > 3 AND size(seen) > 5")
    done = ds.backfill(Change({"age": "transform(seen, x -> coalesce(x, 0) + 1L)"}), some, run_id="ages", gate=False)
    hit = F.expr("u IN ('user 1', 'user 2', 'user 4') AND size(words) > 3 AND size(seen) > 5")
    logged = logged.withColumn(
        "age", F.when(hit, F.expr("transform(seen, x -> coalesce(x, 0) + 1L)")).otherwise(F.col("age"))
    )
    assert done.users == 3
    assert logged.filter(hit).dropDuplicates(["u", "r"]).count() > 3
    same(ds.logs(), logged)

    # All of them, from the column itself; and impressions from their requests' lists.
    ds.backfill(Change({"age": "transform(age, x -> x * 2)"}), strategy=Strategy.OVERWRITE, gate=False)
    ds.backfill(Change({"y": "coalesce(size(paid), -1) + size(words)"}), Affected(first_date="2024-01-02"), gate=False)
    logged = logged.withColumn("age", F.expr("transform(age, x -> x * 2)"))
    late, sizes = F.expr("ts >= '2024-01-02'"), F.expr("coalesce(size(paid), -1) + size(words)")
    logged = logged.withColumn("y", F.when(late, sizes).otherwise(F.col("y")))
    same(ds.logs(), logged)
    assert events_of(ds) == before
    if not whole:
        return

    # A function gets the lists, and not the runs that stand for them.
    def shorter(rows: DataFrame) -> DataFrame:
        assert "g_runs" not in rows.columns
        return rows.select("u", "r", F.expr("slice(words, 1, 1)").alias("w"), "seen").selectExpr(
            "u", "r", "transform(w, x -> cast(length(x) + size(seen) AS bigint)) AS age"
        )

    ds.backfill(Change(function=shorter, columns=("age",)), Affected(users=["user 3"]), gate=False)
    expected = "transform(slice(words, 1, 1), x -> cast(length(x) + size(seen) AS bigint))"
    logged = logged.withColumn("age", F.when(F.expr("u = 'user 3'"), F.expr(expected)).otherwise(F.col("age")))
    same(ds.logs(), logged)
    # No event was touched, and the lists go on.
    assert events_of(ds) == before
    three = log(spark, [3])
    ds.write(three, gate=False)
    same(ds.logs(), logged.unionByName(three.frame))
    assert sound(ds)

    with pytest.raises(UsageError, match="a backfill of history lists is not there for layout user"):
        ds.backfill(Change({"seen": "transform(seen, x -> x + 1)"}))
    with pytest.raises(UnknownColumnError, match="g_runs"):
        ds.backfill(Change({"g_runs": "NULL"}))


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_a_promoted_group_lies_beside_the_runs(spark: SparkSession, lake: Settings) -> None:
    ds, one = one_day(spark, lake)
    two = log(spark, [2])
    before = events_of(ds)
    ds.features.add("counts", {"many": "size(words)"}, gate=False)
    ds.features.add("labels", {"twice": "2 * y"}, grain="impression", gate=False)
    ds.features.promote("counts")
    ds.features.promote("labels")

    def wanted(*logs: DataFrame) -> DataFrame:
        whole = logs[0]
        for other in logs[1:]:
            whole = whole.unionByName(other)
        return whole.select("*", F.expr("size(words)").alias("many"), F.expr("2 * y").alias("twice"))

    columns = [*one.frame.columns, "many", "twice"]
    same(ds.logs().select(columns), wanted(one.frame))
    ds.write(two, gate=False)
    assert not ds.features.refresh("counts", gate=False).up_to_date
    ds.features.refresh("labels", gate=False)
    same(ds.logs().select(columns), wanted(one.frame, two.frame))
    same(ds.logs(2, features=()), one.frame)
    # The reader finds them in the table of requests too, with lists made of events.
    batches = DedupDataset(ds.name, lake, batch_size=64, columns=["words", "many"])
    counts = [(b["words"].lengths.tolist(), b["many"].values.tolist()) for b in batches]
    assert counts
    assert all(lengths == many for lengths, many in counts)
    assert events_of(ds) != before
    assert sound(ds)
    ds.features.drop("counts")
    same(ds.logs().select([*one.frame.columns, "twice"]), wanted(one.frame, two.frame).drop("many"))


def test_joins_have_lists_where_rows_may_move(spark: SparkSession, lake: Settings) -> None:
    """They are made by moving rows, which is said; a join that must not move any refuses them by name."""
    ds, one = one_day(spark, lake)
    for exchange in ("refuse", "one-side"):
        with pytest.raises(UsageError, match=r"the history lists of .* are made of users' lists"):
            ds.join(exchange=exchange)
    with pytest.warns(ShuffleWarning, match="the join moves rows"):
        joined = ds.join(exchange="warn", columns=["seen", "words", "y"])
    same(joined.select("u", "r", "seen", "words", "y"), one.frame.select("u", "r", "seen", "words", "y"))


@pytest.mark.long
@pytest.mark.parametrize("whole", WHOLE)
def test_a_conversion_into_the_layout_and_out_again(
    spark: SparkSession, settings: Settings, name: str, whole: bool
) -> None:
    """Groups are found as for a new log; rows, features and samples are what they were, in the other format too."""
    lake = settings
    one, two = (log(spark, [n]) for n in (1, 2))
    ds = Dataset.create(spark, lake, name, one.schema, one)
    ds.write(one, gate=False)
    ds.write(two, gate=False)
    ds.features.add("counts", {"many": "size(words)"}, gate=False)
    ds.features.promote("counts")
    ds.samples.make("half", fraction=0.5, seed=1)
    ds.pin(1, "paper")
    options = {"layout": Layout.USER, "format": OTHER[lake.format], "run_id": "in"}
    plan = ds.convert(f"{name}_u", dry_run=True, **options)
    assert (plan.target_layout, plan.features, plan.samples) == ("user", ("counts",), ("half",))
    done = ds.convert(f"{name}_u", **options)
    assert (done.requests, len(done.parts), done.left) == (ds.requests().count(), 2, plan.left)
    other = lake.model_copy(update={"format": OTHER[lake.format]})
    user = Dataset.open(spark, other, f"{name}_u")
    assert [(g.name, g.columns, g.newest_first) for g in user.spec.events] == [
        ("g", ("seen", "paid"), False), ("words", ("words",), True)
    ]  # fmt: skip
    columns = [*one.frame.columns, "many"]
    wanted = one.frame.unionByName(two.frame).withColumn("many", F.expr("size(words)"))
    same(user.logs().select(columns), wanted)
    assert sound(user)
    assert user.features.refresh("counts", gate=False).up_to_date
    assert user.samples.users("half").exceptAll(ds.samples.users("half")).isEmpty()
    assert user.samples.users("half").count() == ds.samples.users("half").count() > 0
    # Whoever runs it again finds it done; days go on being written.
    again = ds.convert(f"{name}_u", **options)
    assert (again.version, again.already_done) == (done.version, 2)
    three = log(spark, [3])
    user.write(three, gate=False)
    same(user.logs(features=()), wanted.drop("many").unionByName(three.frame))
    if not whole:
        return
    back = user.convert(f"{name}_f", layout=Layout.FLAT, buckets=3, run_id="out")
    flat = Dataset.open(spark, other, f"{name}_f")
    assert back.source_layout == "user"
    same(flat.logs(features=()), wanted.drop("many").unionByName(three.frame))
    # And from flat layout, where all dates are one part, into it again.
    flat.convert(f"{name}_g", layout="user", format=lake.format, date_grain="none", run_id="again")
    same(Dataset.open(spark, lake, f"{name}_g").logs(features=()), flat.logs(features=()))
    bare = log(spark, [1], schema={"sequences": []})
    plain = Dataset.create(spark, lake, f"{name}_p", bare.schema, bare)
    plain.write(bare, gate=False)
    with pytest.raises(SchemaError, match="layout user needs history lists"):
        plain.convert(f"{name}_q", layout=Layout.USER)

"""Backfills: the plain result in the one table that holds the columns, in parts, as one version."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.errors import ConflictError, QualityGateError, UsageError
from dedup_storage.reader import DedupDataset
from tests.contract.test_reader import rows_of
from tests.contract.upkeep import DELTA_ALONE, files, left_behind, log, made
from tests.integration.test_reader_spark import read
from tests.spark.backfilling import with_y
from tests.spark.helpers import frame, same_rows
from tests.spark.test_backfill_runs import Stop, overtake

MORE = Change(expressions={"y": "y + 10"})


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "date_grain"),
    [(Strategy.OVERWRITE, "day"), pytest.param(Strategy.COPY_ON_WRITE, "month", marks=pytest.mark.slow)],
)
def test_one_table_is_rewritten_where_users_are_affected(
    spark: SparkSession, lake: Settings, strategy: Strategy, date_grain: str
) -> None:
    ds, plain = made(spark, lake, date_grain=date_grain), log(spark, [1, 2]).frame
    before = {table: files(ds, table, 1) for table in ("requests", "impressions")}
    plan = ds.plan_backfill(MORE, Affected(users=[1, 5]), strategy)
    assert ds.metadata().current == 1
    summary = ds.backfill(MORE, Affected(users=[1, 5]), run_id="b", strategy=strategy, part_segments=2, gate=False)
    assert (summary.version, summary.table, summary.sequence_bytes_written) == (2, "impressions", 0)
    expected = with_y(plain, "user_id in (1, 5)", "y + 10")
    same_rows(ds.logs(), expected)
    same_rows(ds.logs(1), plain)
    # As many segments as the users lie in, and no file of another one.
    assert files(ds, "requests", 2) == before["requests"]
    kept = before["impressions"] & files(ds, "impressions", 2)
    assert 0 < len(kept) == len(before["impressions"]) - sum(s.affected_files for s in plan.segments)
    actual = {c.quantity: (c.planned, c.actual) for c in summary.planned_and_actual}
    assert actual["rows"][0] == actual["rows"][1] == plan.rows_written
    assert actual["segments"] == (len(plan.segments), len(plan.segments))
    assert actual["bytes_read"][1] > 0
    assert left_behind(ds) == []
    again = ds.backfill(MORE, Affected(users=[1, 5]), run_id="b", gate=False)
    assert (again.already_published, again.version) == (True, 2)
    # The reader, without Spark, sees the same.
    assert read(DedupDataset(ds.name, lake)) == rows_of(ds)
    ds.rollback(1)
    same_rows(ds.logs(), plain)


# On Delta test_backfill_crash goes on with a stopped run each day, and tests/spark with this one on Iceberg.
@pytest.mark.slow
@pytest.mark.exhaustive
@DELTA_ALONE
def test_a_stopped_run_goes_on(spark: SparkSession, lake: Settings) -> None:
    ds, who = made(spark, lake), Affected(where="user_id < 6")

    def stop(done: int, *_: int) -> None:
        if done >= 3:
            raise Stop

    with pytest.raises(Stop):
        ds.backfill(MORE, who, run_id="b", part_segments=1, progress=stop, gate=False)
    assert ds.tables.branches(ds.name, "impressions")
    # Rows appended meanwhile, also to finished segments, keep the values they came with.
    before, appended = ds.logs(), log(spark, [2, 4], 500)
    ds.write(appended, gate=False)
    with pytest.raises(UsageError, match="begun with another request"):
        ds.backfill(Change(expressions={"y": "y + 11"}), who, run_id="b", gate=False)
    summary = ds.backfill(MORE, who, run_id="b", part_segments=1, gate=False)
    assert (summary.resumed_segments, summary.base, summary.version) == (3, 1, 3)
    same_rows(ds.logs(), with_y(before, "user_id < 6", "y + 10").unionByName(appended.frame))
    assert left_behind(ds) == []


@pytest.mark.slow
def test_runs_that_meet(spark: SparkSession, lake: Settings) -> None:
    """The same segments conflict by name and leave nothing; other segments, tables and appends do not conflict."""
    ds, plain, appended = made(spark, lake), log(spark, [1, 2]).frame, log(spark, [2, 3], 500)

    def same() -> None:
        ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1]), run_id="fast", gate=False)

    slow = overtake(ds, same, change=MORE, affected=Affected(users=[1]))
    with pytest.raises(ConflictError, match=r"version 2 .* changed segments that this run replaces"):
        slow.run()
    expected = with_y(plain, "user_id = 1", "7")
    same_rows(ds.logs(), expected)
    assert left_behind(ds) == []

    def others() -> None:
        ds.backfill(Change(expressions={"y": "8"}), Affected(last_date="2024-01-01"), gate=False)
        ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[2]), gate=False)
        ds.write(appended, gate=False)

    late = Affected(users=[1, 2], first_date="2024-01-02")
    assert overtake(ds, others, change=MORE, affected=late, run_id="late").run().version == 6
    expected = with_y(expected, "date(ts) = '2024-01-01'", "8")
    expected = with_y(expected, "date(ts) = '2024-01-02' and user_id in (1, 2)", "y + 10")
    expected = expected.withColumn("country", F.expr("if(user_id = 2, 'NO', country)"))
    same_rows(ds.logs(), expected.unionByName(appended.frame))
    assert left_behind(ds) == []


@pytest.mark.slow
def test_what_is_refused_leaves_nothing(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake, checks={"y": {"allowed": [0, 1]}})
    with pytest.raises(QualityGateError, match="y"):
        ds.backfill(Change(expressions={"y": "y + 5"}), Affected(users=[1]), run_id="bad")
    assert left_behind(ds) == []
    if not ds.tables.marks_rows:
        assert set(ds.plan_backfill(MORE, Affected(users=[1])).strategies) <= {"overwrite", "copy-on-write"}
        with pytest.raises(UsageError, match=r"merge-on-read is not available on Delta tables: .* deletion vectors"):
            ds.backfill(MORE, Affected(users=[1]), strategy=Strategy.MERGE_ON_READ, gate=False)
    assert ds.metadata().current == 1


@pytest.mark.slow
@DELTA_ALONE
def test_new_values_by_every_means(spark: SparkSession, lake: Settings) -> None:
    ds, expected = made(spark, lake, layout="flat", date_grain="none"), log(spark, [1, 2]).frame
    on = ["user_id", "request_id", "item"]

    def rank(df: DataFrame) -> DataFrame:
        assert "user_bucket" not in df.columns
        return df.withColumn("y", F.col("position") + F.size("hist"))

    ds.backfill(Change(function=rank, columns=("y",), inputs=("hist",)), Affected(where="user_id = 3"), gate=False)
    ranked = ds.logs().join(ds.impressions().select("user_id", "request_id", "item", "position"), on)
    assert ranked.filter("user_id = 3 and y <> position + size(hist)").count() == 0
    same_rows(ds.logs().filter("user_id <> 3"), expected.filter("user_id <> 3"))
    given = frame(spark, [(1, 1, 0, 7), (1, 1, 2, 8), (4, 4, 1, None), (99, 1, 0, 5)], "user_id int, "
                                  "request_id int, position int, y int")  # fmt: skip
    plain = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions().collect()}
    ds.backfill(Change(rows=given, columns=("y",)), gate=False)
    found = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions().collect()}
    assert found == {**plain, (1, 1, 0): 7, (1, 1, 2): 8, (4, 4, 1): None}
    # Users with rows in files that came after version 2: those whose labels were just replaced.
    before = ds.logs()
    since = ds.backfill(Change(expressions={"country": "'NO'"}), Affected(changed_since=2), gate=False)
    assert since.version == 4
    changed = {r.user_id for r in ds.logs().filter("country = 'NO'").select("user_id").distinct().collect()}
    assert {1, 4} <= changed < set(range(8))
    same_rows(ds.logs().drop("country"), before.drop("country"))

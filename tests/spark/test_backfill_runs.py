"""Backfills that stop, go on, overtake each other and run side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Backfill, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConflictError, UsageError
from tests.spark.backfilling import left_behind, log, make, with_y
from tests.spark.helpers import same_rows

SLOW = pytest.mark.slow


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    return make(spark, settings)


class Stop(Exception):
    pass


def overtake(ds: Dataset, inner: Any, **given: Any) -> Backfill:
    """A backfill that another run overtakes after it has rewritten its segments."""
    given = {"run_id": "slow", **given}
    slow = Backfill(ds.handle, gate=False, **given)
    original = slow._audit_rows

    def audit(*args: Any) -> None:
        original(*args)
        inner()

    slow._audit_rows = audit  # type: ignore[method-assign]
    return slow


@pytest.mark.long
def test_a_stopped_run_goes_on(spark: SparkSession, ds: Dataset) -> None:
    change, who = Change(expressions={"y": "y + 10"}), Affected(where="user_id < 6")

    def stop(done: int, total: int, *_: int) -> None:
        if done >= 3:
            raise Stop

    for strategy in (Strategy.MERGE_ON_READ, Strategy.OVERWRITE):
        with pytest.raises(Stop):
            ds.backfill(
                change, who, run_id=f"b-{strategy}", strategy=strategy, part_segments=1, progress=stop, gate=False
            )
        started = ds.versions()[-1].version
        # Rows appended meanwhile, also to finished segments, keep the values they came with.
        appended = log(spark, [2, 4], 500 + 100 * started)
        before = ds.logs()
        ds.write(appended, gate=False)
        with pytest.raises(UsageError, match="begun with another request"):
            ds.backfill(Change(expressions={"y": "y + 11"}), who, run_id=f"b-{strategy}", gate=False)
        summary = ds.backfill(change, who, run_id=f"b-{strategy}", strategy=strategy, part_segments=1, gate=False)
        assert (summary.resumed_segments, summary.base) == (3, started)
        expected = with_y(before, "user_id < 6", "y + 10").unionByName(appended.frame)
        same_rows(ds.logs(), expected)
        assert left_behind(ds) == []


@pytest.mark.slow
def test_a_stopped_run_starts_anew_when_its_segments_changed(spark: SparkSession, ds: Dataset) -> None:
    change, who = Change(expressions={"y": "y + 10"}), Affected(users=[1, 2, 3])

    def stop(*_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ds.backfill(change, who, run_id="b", part_segments=1, progress=stop, gate=False)
    ds.backfill(Change(expressions={"y": "y + 100"}), Affected(users=[1, 2]), gate=False)
    summary = ds.backfill(change, who, run_id="b", gate=False)
    assert (summary.resumed_segments, summary.base) == (0, 2)
    expected = with_y(log(spark, [1, 2]).frame, "user_id in (1, 2)", "y + 100")
    same_rows(ds.logs(), with_y(expected, "user_id in (1, 2, 3)", "y + 10"))


@pytest.mark.long
@pytest.mark.parametrize("strategy", [Strategy.MERGE_ON_READ, pytest.param(Strategy.OVERWRITE, marks=SLOW)])
def test_the_same_segments_conflict_by_name(spark: SparkSession, ds: Dataset, strategy: Strategy) -> None:
    def fast() -> None:
        ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1]), run_id="fast", gate=False)

    change = Change(expressions={"y": "y + 1"})
    slow = overtake(ds, fast, change=change, affected=Affected(users=[1]), strategy=strategy)
    with pytest.raises(ConflictError, match=r"version 2 .* changed segments that this run replaces"):
        slow.run()
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id = 1", "7"))
    assert left_behind(ds) == []
    ds.backfill(change, Affected(users=[1]), run_id="slow", gate=False)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id = 1", "8"))


@pytest.mark.long
@pytest.mark.parametrize("strategy", [Strategy.MERGE_ON_READ, pytest.param(Strategy.COPY_ON_WRITE, marks=SLOW)])
def test_other_segments_and_appends_do_not_conflict(spark: SparkSession, ds: Dataset, strategy: Strategy) -> None:
    appended = log(spark, [2, 3], 500)

    def others() -> None:
        ds.backfill(Change(expressions={"y": "7"}), Affected(last_date="2024-01-01"), run_id="fast", gate=False)
        ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[2]), run_id="table", gate=False)
        ds.write(appended, gate=False)

    slow = overtake(
        ds,
        others,
        change=Change(expressions={"y": "y + 1"}),
        affected=Affected(users=[1, 2], first_date="2024-01-02"),
        strategy=strategy,
    )
    assert slow.run().version == 5
    expected = with_y(log(spark, [1, 2]).frame, "date(ts) = '2024-01-01'", "7")
    expected = with_y(expected, "date(ts) = '2024-01-02' and user_id in (1, 2)", "y + 1")
    expected = expected.withColumn("country", F.expr("if(user_id = 2, 'NO', country)"))
    same_rows(ds.logs(), expected.unionByName(appended.frame))
    assert left_behind(ds) == []


@pytest.mark.long
@pytest.mark.parametrize("date_grain", ["none", pytest.param("day", marks=SLOW)])
def test_feature_runs_on_the_same_dates_do_not_conflict(
    spark: SparkSession, settings: Settings, date_grain: str
) -> None:
    ds = make(spark, settings, date_grain=date_grain)
    ds.features.add("size", {"n": "size(hist)"}, gate=False)
    plain = log(spark, [1, 2]).frame.withColumn("n", F.size("hist"))

    def features() -> None:
        ds.features.add("other", {"one": "1"}, gate=False)
        ds.features.refresh("size", full=True, gate=False)
        ds.features.rename("other", "another")

    slow = overtake(ds, features, change=Change(expressions={"y": "y + 1"}), affected=Affected(users=[1]))
    assert slow.run().version == 6
    plain = with_y(plain, "user_id = 1", "y + 1").withColumn("one", F.lit(1))
    same_rows(ds.logs(), plain.select(*ds.logs().columns))

    def refresh() -> None:
        ds.features.refresh("size", full=True, gate=False)

    # The group's own column is another matter.
    change = Change(expressions={"n": "n + 1"})
    slow = overtake(ds, refresh, change=change, affected=Affected(users=[1]), run_id="slower")
    with pytest.raises(ConflictError):
        slow.run()
    same_rows(ds.logs(), plain.select(*ds.logs().columns))


@pytest.mark.slow
def test_a_replaced_day_conflicts_both_ways(spark: SparkSession, ds: Dataset) -> None:
    def replace() -> None:
        ds.write(log(spark, [1], 700), mode="replace", gate=False)

    slow = overtake(ds, replace, change=Change(expressions={"y": "7"}), affected=Affected(users=[1]))
    with pytest.raises(ConflictError):
        slow.run()
    assert left_behind(ds) == []


@pytest.mark.slow
def test_a_column_read_from_a_changed_table_conflicts(spark: SparkSession, ds: Dataset) -> None:
    def other() -> None:
        ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[1]), gate=False)

    slow = overtake(ds, other, change=Change(expressions={"y": "length(country)"}), affected=Affected(users=[1]))
    with pytest.raises(ConflictError):
        slow.run()


def test_parallel_backfills_of_disjoint_segments_all_succeed(spark: SparkSession, ds: Dataset) -> None:
    days = ["2024-01-01", "2024-01-02"]

    def run(day: str) -> int:
        who = Affected(first_date=day, last_date=day)
        return ds.backfill(Change(expressions={"y": f"{day[-1]}"}), who, run_id=day, gate=False).version

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, days)) == [2, 3]
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "true", "day(ts)"))

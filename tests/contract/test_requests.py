"""A run id stands for its request: another one is refused by what differs, under way and when it is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Limits
from dedup_storage.errors import UsageError
from dedup_storage.lake.requests import Request
from dedup_storage.sources.raw import RawLog
from tests.contract.upkeep import left_behind, log, made
from tests.spark.backfilling import with_y
from tests.spark.helpers import flat_schema, same_rows
from tests.spark.test_backfill_runs import Stop

pytestmark = pytest.mark.crash


def stop(done: int, *_: Any) -> None:
    if done >= 2:
        raise Stop


def test_a_backfill_under_way_and_done(spark: SparkSession, lake: Settings) -> None:
    ds, plain = made(spark, lake), log(spark, [1, 2]).frame
    keys = list(ds.spec.impression_key)
    rows = ds.impressions().select(*keys).withColumn("y", F.lit(7)).localCheckpoint()
    users = spark.createDataFrame([(1,), (2,), (3,), (5,)], "user_id bigint")

    def change(value: int) -> Change:
        return Change(rows=rows.withColumn("y", F.lit(value)), columns=("y",))

    def run(what: Change, who: DataFrame, **given: Any) -> Any:
        return ds.backfill(what, Affected(users=who), run_id="fix-1", part_segments=1, gate=False, **given)

    with pytest.raises(Stop):
        run(change(7), users, progress=stop)
    other = (
        (change(8), users, "the replacement rows differ; expected replacement rows 48 rows"),
        (change(7), users.limit(3), "the users differ; expected users 4 rows"),
        (Change(expressions={"y": "7"}), users, "the expressions and replacement rows differ"),
    )
    for what, who, told in other:
        with pytest.raises(UsageError, match=rf"the run fix-1 was begun with another request: {told}"):
            run(what, who)
    # The same rows in another order, out of another plan.
    again = Change(rows=rows.withColumn("y", F.expr("3 + 4")).orderBy(F.desc("user_id")), columns=("y",))
    summary = run(again, users.orderBy(F.desc("user_id")))
    assert (summary.resumed_segments, summary.version) == (2, 2)
    same_rows(ds.logs(), with_y(plain, "user_id in (1, 2, 3, 5)", "7"))
    assert run(change(7), users).already_published
    with pytest.raises(
        UsageError, match=r"the run fix-1 published version 2 with another .*: the replacement rows differ"
    ):
        run(change(8), users)
    assert (ds.metadata().current, left_behind(ds)) == (2, [])


def test_a_function_that_was_mended(spark: SparkSession, lake: Settings) -> None:
    ds, plain = made(spark, lake), log(spark, [1, 2]).frame

    def change(value: int) -> Change:
        def recompute(frame: DataFrame) -> DataFrame:
            return frame.withColumn("y", F.lit(value))

        return Change(function=recompute, columns=("y",))

    who = Affected(where="user_id < 4")
    with pytest.raises(Stop):
        ds.backfill(change(7), who, run_id="f", part_segments=1, gate=False, progress=stop)
    with pytest.raises(UsageError, match=r"the function differs; expected function recompute \(\w+\); got function"):
        ds.backfill(change(8), who, run_id="f", gate=False)
    assert ds.backfill(change(7), who, run_id="f", gate=False).resumed_segments == 2
    same_rows(ds.logs(), with_y(plain, "user_id < 4", "7"))


def test_writes(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    ds, place = made(spark, lake), str(tmp_path / "log")
    day = log(spark, [3], 500).frame
    day.coalesce(1).write.parquet(place)

    def read() -> RawLog:
        return RawLog.read(spark, place, schema=flat_schema())

    assert ds.write(read(), run_id="day-3", gate=False).version == 2
    assert ds.write(read(), run_id="day-3", gate=False).already_published
    with pytest.raises(UsageError, match=r"day-3 published version 2 with another request: the mode differs"):
        ds.write(read(), run_id="day-3", mode="replace", gate=False)
    # Corrected: as many rows, other values.
    with_y(day, "true", "1 - y").coalesce(1).write.mode("overwrite").parquet(place)
    with pytest.raises(
        UsageError, match=r"day-3 published version 2 with another request: the log differs; expected log 1 file"
    ):
        ds.write(read(), run_id="day-3", gate=False)
    # A frame is known by its rows.
    assert ds.write(log(spark, [1, 2]), run_id="first", gate=False).already_published
    with pytest.raises(UsageError, match=r"first published version 1 .*: the log differs; expected log 48 rows"):
        ds.write(
            RawLog.from_frame(with_y(log(spark, [1, 2]).frame, "user_id = 1", "1 - y"), flat_schema()), run_id="first"
        )
    # Another job under the same run id.
    with pytest.raises(UsageError, match=r"first published version 1 with another request: the job"):
        ds.backfill(Change(expressions={"y": "1"}), run_id="first", gate=False)
    same_rows(ds.logs(), log(spark, [1, 2]).frame.unionByName(day))


def stopped_after(point: str) -> Callable[[str], None]:
    def watch(reached: str) -> None:
        if reached == point:
            raise Stop

    return watch


def test_upkeep(spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = made(spark, lake, date_grain="month", buckets=2)
    rows, steps = log(spark, [1, 2]).frame, {"expire": False, "orphans": False}

    def grown(day: int) -> None:
        nonlocal rows
        more = log(spark, [day], 100 * day)
        ds.write(more, gate=False)
        rows = rows.unionByName(more.frame)

    def refused(work: Callable[[], Any], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            work()

    grown(3)
    first = ds.maintain("m", **steps)
    assert (first.version, first.compacted, first.already_published) == (3, 3, False)
    grown(4)
    # The same again has nothing to compact any more: it says so, and leaves what has decayed since.
    for dry_run in (True, False):
        again = ds.maintain("m", dry_run=dry_run, **steps)
        assert (again.version, again.compacted, again.already_published) == (4, 3, True)
        assert {g.skipped for g in again.compaction if g.decayed_segments} == {
            "the run m compacted already, as version 3: give another run id"
        }
    published = "the run m published version 3 with another request: the "
    refused(lambda: ds.maintain("m"), f"{published}steps differ; expected steps compact; got steps compact and expire")
    refused(
        lambda: ds.maintain("m", limits=Limits(files=8, hidden_share=0.1), **steps),
        f"{published}files and hidden share differ",
    )
    refused(lambda: ds.forget_users([1], "m"), f"{published}job differs; expected job maintain; got job forget-user")
    refused(lambda: ds.write(log(spark, [5], 500), run_id="m", gate=False), f"{published}job differs; .*got job write")

    # What a backfill finished is no compaction's, and no erasure takes it away.
    change, who = Change(expressions={"y": "y + 10"}), Affected(users=[1])
    given: dict[str, Any] = {"run_id": "b", "part_segments": 1, "gate": False}
    with pytest.raises(Stop):
        ds.backfill(change, who, progress=lambda *_: stop(2), **given)
    begun = "the run b was begun with another request: the job differs; expected job backfill; got job "
    refused(lambda: ds.maintain("b", **steps), f"{begun}maintain")
    refused(lambda: ds.forget_users([2], "b"), f"{begun}forget-user")
    assert ds.backfill(change, who, **given).resumed_segments == 1
    rows = with_y(rows, "user_id = 1", "y + 10")
    same_rows(ds.logs(), rows)

    # Nor are a compaction's parts a backfill's.
    monkeypatch.setattr(faults, "watcher", stopped_after("maintain:part"))
    with pytest.raises(Stop):
        ds.maintain("m2", **steps)
    monkeypatch.setattr(faults, "watcher", None)
    refused(
        lambda: ds.backfill(change, who, run_id="m2", gate=False),
        "the run m2 was begun with another request: the job differs; expected job maintain; got job backfill",
    )
    done = ds.maintain("m2", **steps)
    assert (done.compacted, done.already_published) == (6, False)
    same_rows(ds.logs(), rows)
    assert left_behind(ds) == []


@pytest.mark.slow
def test_conversions(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)
    target = f"{ds.name}_b"
    first = ds.convert(target, run_id="c")
    assert not first.already_done
    other = Dataset.create(spark, lake, f"{ds.name}_o", ds.schema, log(spark, [5], 500))
    other.write(log(spark, [5], 500), run_id="day-5", gate=False)
    ds.write(log(spark, [3], 300), gate=False)
    # No part of theirs has the name of one of ours.
    with pytest.raises(UsageError, match=r"the run c published version 1 with another request: the source differs"):
        other.convert(target, run_id="c")
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"version 1 with another .*: the version differs; .*; got version 2"):
            ds.convert(target, run_id="c", dry_run=dry_run)
    with pytest.raises(UsageError, match=r"the feature groups differ; .* taken along; got .* left"):
        ds.convert(target, run_id="c", version=1, drop_features=True)
    again = ds.convert(target, run_id="c", version=1)
    assert again.already_done == len(again.parts) == len(first.parts)
    same_rows(Dataset.open(spark, lake, target).logs(), ds.logs(1))


@pytest.mark.slow
def test_runs_of_before_go_on(spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Request, "facts", {})
    ds = made(spark, lake)
    monkeypatch.undo()
    assert "request" not in ds.versions()[0].summary
    assert ds.write(log(spark, [3], 500), run_id="first", gate=False).already_published


@pytest.mark.slow
def test_labels_features_and_rollbacks(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)
    late = ds.impressions().filter("user_id = 1").select(*ds.spec.impression_key)
    late = late.withColumn("y", F.lit(1)).withColumn("at", F.expr("timestamp'2024-02-01'"))
    for value, done in ((1, False), (1, True)):
        merged = ds.merge_labels(late.withColumn("y", F.lit(value)), "y", "at", run_id="l")
        assert merged.backfill.already_published is done
    with pytest.raises(UsageError, match=r"the run l published version 2 .*: the late labels differ"):
        ds.merge_labels(late.withColumn("y", F.lit(0)), "y", "at", run_id="l")
    assert ds.features.add("age", {"n": "size(hist)"}, run_id="a", gate=False).version == 3
    assert ds.features.add("age", {"n": "size(hist)"}, run_id="a", gate=False).already_published
    with pytest.raises(UsageError, match=r"the run a published version 3 .*: the source differs"):
        ds.features.add("age", {"n": "size(hist) + 1"}, run_id="a", gate=False)
    with pytest.raises(
        UsageError, match=r"the run a published version 3 .*: the job differs; expected job add-features; got"
    ):
        ds.features.drop("age", run_id="a")
    assert ds.rollback(1, run_id="r").version == ds.rollback(1, run_id="r").version == 4
    with pytest.raises(UsageError, match=r"the run r published version 4 .*: the version differs; expected version 1"):
        ds.rollback(2, run_id="r")

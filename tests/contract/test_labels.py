"""Late labels: any order of arrival gives what a rebuild from all rows gives; what is not known is kept aside."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from tests.contract.upkeep import USERS, files, left_behind, log, made
from tests.spark.backfilling import with_y
from tests.spark.helpers import frame, same_rows
from tests.spark.test_late_labels import TYPES, late, rebuilt


def aside(ds: Dataset) -> DataFrame:
    """Rows kept aside, as the newest version has them."""
    meta = ds.metadata()
    return ds.tables.read(ds.name, "labels_unknown", meta.snapshots(meta.current)["labels_unknown"])


@pytest.mark.slow
def test_any_order_of_arrival_equals_a_rebuild(spark: SparkSession, lake: Settings) -> None:
    ds, rows = made(spark, lake), late(40, users=USERS)
    before = files(ds, "requests", 1)
    unknown = 0
    for number, part in enumerate((rows[20:], rows[:25])):
        summary = ds.merge_labels(frame(spark, part, TYPES), "y", "at", run_id=f"l{number}", gate=False)
        assert summary.input_rows == len(part)
        assert summary.backfill.sequence_bytes_written == 0
        unknown += summary.unknown_rows
    same_rows(ds.logs(), rebuilt(spark, rows, users=USERS))
    same_rows(ds.logs(1), log(spark, [1, 2]).frame)
    assert files(ds, "requests", 3) == before
    kept = aside(ds).collect()
    assert len(kept) == unknown > 0
    given = {(user, request, str(item), str(y), at) for user, request, item, y, at in rows if user >= 900}
    assert {(r.user_id, r.request_id, r.position_or_item, r.value, r.label_time) for r in kept} <= {
        (*key, at.astimezone().replace(tzinfo=None)) for *key, at in given
    }
    # The same run again, and the same rows by another run, change no label.
    same = frame(spark, rows[20:], TYPES)
    assert ds.merge_labels(same, "y", "at", run_id="l0").backfill.already_published
    assert ds.merge_labels(same, "y", "at", run_id="again", gate=False).merged_rows == 0
    same_rows(ds.logs(), rebuilt(spark, rows, users=USERS))
    assert left_behind(ds) == []
    ds.rollback(1)
    same_rows(ds.logs(), log(spark, [1, 2]).frame)


@pytest.mark.long
def test_times_of_labels_are_compacted_and_decide_as_before(spark: SparkSession, lake: Settings) -> None:
    """Every merge adds a file to each bucket; maintenance joins them, and an older label still changes nothing."""
    ds = made(spark, lake)
    key = ds.impressions().select(*ds.spec.impression_key)

    def merged(value: int, day: int) -> tuple[int, int]:
        rows = key.withColumn("y", F.lit(value)).withColumn("at", F.expr(f"timestamp'2024-03-{day:02d}'"))
        summary = ds.merge_labels(rows, "y", "at", gate=False)
        return summary.merged_rows, summary.stale_rows

    rows = key.count()
    assert [merged(value, day) for value, day in ((5, 2), (6, 4))] == [(rows, 0), (rows, 0)]
    before = ds.metadata()
    added = files(ds, "label_times", before.current)
    assert merged(7, 3) == (0, rows)
    ds.maintain(expire=False, orphans=False)
    # A segment with several users: its two files overlap, and become one.
    assert 0 < len(files(ds, "label_times", ds.metadata().current)) < len(added)
    assert merged(7, 3) == (0, rows)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "true", "6"))
    assert merged(8, 5) == (rows, 0)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "true", "8"))


@pytest.mark.slow
def test_versions_list_the_rows_that_are_read(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)
    strategy = Strategy.MERGE_ON_READ if ds.tables.marks_rows else None
    ds.backfill(Change(expressions={"y": "y + 1"}), Affected(users=[1]), strategy=strategy, gate=False)
    read = {table: ds.handle.cut().rows(table).count() for table in ("requests", "impressions")}
    assert [dict(version.rows) for version in ds.versions()] == [read, read]

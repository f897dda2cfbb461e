"""Maintenance: only what decayed is rewritten, kept versions stay, run ids stay known, others are not disturbed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import VersionNotFoundError
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

NOW = Policy(keep_versions=1, keep_days=0)


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    schema = flat_schema(date_grain="month", buckets=2)
    return RawLog.from_frame(frame(spark, flat_rows(days, users=12, first_request=first_request)), schema)


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    def build(name: str) -> Dataset:
        raw = log(spark, [1])
        created = Dataset.create(spark, settings, name, raw.schema, raw)
        created.write(raw, run_id="first", gate=False)
        return created

    return restored(spark, settings, "to maintain", build)


def files(ds: Dataset, table: str) -> set[str]:
    place = f"{ds.settings.catalog.name}.{ds.name}.{table}.files"
    return {row["file_path"] for row in ds.spark.read.table(place).select("file_path").collect()}


@pytest.mark.long
def test_only_decayed_segments_are_rewritten(spark: SparkSession, ds: Dataset) -> None:
    """Rows of user 1 are hidden in one of two buckets, so the files of the other stay."""
    ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1]), strategy=Strategy.MERGE_ON_READ, gate=False)
    before, requests = files(ds, "impressions"), files(ds, "requests")
    expected = log(spark, [1]).frame.withColumn("y", F.expr("if(user_id = 1, 7, y)"))

    planned = ds.maintain(dry_run=True, expire=False, orphans=False)
    gain = {g.table: g for g in planned.compaction}
    assert (gain["impressions"].decayed_segments, gain["requests"].decayed_segments) == (1, 0)
    assert gain["impressions"].hidden_rows_before == 3
    assert (files(ds, "impressions"), planned.version) == (before, 2)

    done = ds.maintain("m", expire=False, orphans=False)
    gain = {g.table: g for g in done.compaction}
    assert done.version == 3
    assert (gain["impressions"].hidden_rows_after, gain["impressions"].overlapping_files_after) == (0, 0)
    assert gain["impressions"].files_after < gain["impressions"].files_before
    same_rows(ds.logs(), expected)
    same_rows(ds.logs(2), expected)
    same_rows(ds.logs(1), log(spark, [1]).frame)
    assert files(ds, "requests") == requests
    assert len(files(ds, "impressions") & before) == 1
    assert ds.maintain(expire=False, orphans=False).version == 3


@pytest.mark.long
def test_appends_into_one_month_are_sorted_again(spark: SparkSession, ds: Dataset) -> None:
    expected = log(spark, [1]).frame
    for number in (2, 3):
        raw = log(spark, [number], 100 * number)
        ds.write(raw, gate=False)
        expected = expected.unionByName(raw.frame)
    done = ds.maintain(expire=False, orphans=False)
    assert all(g.overlapping_files_before > 0 and g.overlapping_files_after == 0 for g in done.compaction)
    assert [(g.files_before, g.files_after) for g in done.compaction] == [(6, 2), (6, 2)]
    same_rows(ds.logs(), expected)
    # Inside a segment the rows lie in the sort order again.
    for path in files(ds, "impressions"):
        keys = [tuple(r) for r in spark.read.parquet(path).select("user_id", "request_id", "position").collect()]
        assert keys == sorted(keys)


@pytest.mark.slow
def test_expiry_keeps_what_is_named_and_remembers_run_ids(spark: SparkSession, ds: Dataset) -> None:
    logs: dict[int, Any] = {1: log(spark, [1]).frame}
    for number in (2, 3, 4, 5):
        raw = log(spark, [1], 100 * number)
        ds.write(raw, run_id=f"w{number}", mode="replace", gate=False)
        logs[number] = raw.frame
    ds.pin(2, "paper")
    table = f"{ds.settings.catalog.name}.{ds.name}.impressions"
    spark.sql(f"ALTER TABLE {table} CREATE TAG sample_x AS OF VERSION {ds.metadata().snapshots(3)['impressions']}")

    planned = ds.maintain(dry_run=True, policy=NOW, compact=False)
    assert (planned.expired_versions, planned.kept_versions) == ((1, 4), (2, 3, 5))
    assert len(ds.versions()) == 5
    done = ds.maintain(policy=NOW, compact=False)
    assert (done.expired_versions, done.kept_versions) == ((1, 4), (2, 3, 5))
    assert done.expiry == planned.expiry
    assert done.stored_bytes_after < done.stored_bytes_before
    for number in (2, 3, 5):
        same_rows(ds.logs(number), logs[number])
    with pytest.raises(VersionNotFoundError):
        ds.logs(4)
    # Their rows are gone from the disk, their run ids are not.
    root = Path(str(ds.settings.local_warehouse)) / ds.name
    stored = {f"{p}" for p in root.rglob("*.parquet")}
    live = {f.removeprefix("file:") for f in _all_files(ds)}
    assert stored == live
    assert ds.write(log(spark, [1], 400), run_id="w4", mode="replace").already_published
    assert ds.rollback(2).version == 6
    same_rows(ds.logs(), logs[2])


def _all_files(ds: Dataset) -> set[str]:
    found: set[str] = set()
    for table in ds.metadata().tables:
        place = f"{ds.settings.catalog.name}.{ds.name}.{table}.all_files"
        found |= {r["file_path"] for r in ds.spark.read.table(place).select("file_path").distinct().collect()}
    return found


def test_orphans_go_after_the_safe_age(ds: Dataset) -> None:
    root = Path(str(ds.settings.local_warehouse)) / ds.name / "impressions" / "data"
    young, old = root / "young.parquet", root / "old.parquet"
    for path, days in ((young, 0), (old, 5)):
        path.write_bytes(b"left by a killed task")
        moment = time.time() - days * 86_400
        os.utime(path, (moment, moment))
    planned = ds.maintain(dry_run=True, compact=False, expire=False)
    assert {e.table: e.orphan_files for e in planned.expiry} == {"requests": 0, "impressions": 1}
    assert old.exists()
    ds.maintain(compact=False, expire=False)
    assert (old.exists(), young.exists()) == (False, True)

"""Kept versions survive the format's own cleaning and expiry takes the others; compaction restores the order."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import VersionNotFoundError
from dedup_storage.lake.delta import files as delta_files
from dedup_storage.lake.upkeep import Policy
from tests.contract.conftest import MakeLog
from tests.contract.upkeep import files, left_behind, log, made
from tests.spark.helpers import same_rows
from tests.spark.test_backfill_runs import Stop

MONTH_NS = 30 * 86_400 * 10**9


def folder(lake: Settings, ds: Dataset) -> Path:
    return Path(lake.warehouse_uri) / ds.name


def grown_old(place: Path) -> None:
    """Let every data file be a month old."""
    then = time.time() - MONTH_NS / 1e9
    for file in place.rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            os.utime(file, (then, then))


@pytest.mark.slow
def test_kept_versions_survive_the_formats_own_cleaning(
    spark: SparkSession, lake: Settings, ds: Dataset, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # Delta goes by the time of a file's removal, which the publication notes.
        patch.setattr(delta_files.time, "time_ns", lambda: int(time.time() * 1e9) - MONTH_NS)
        ds.write(make_log([1], 200), mode="replace", gate=False)
    session = spark.newSession()
    session.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", "2")
    for table in ("requests", "impressions"):
        if lake.format == "delta":
            grown_old(folder(lake, ds))
            uri = folder(lake, ds) / table
            session.sql(f"VACUUM delta.`{uri}`").collect()
        else:
            now = "2100-01-01 00:00:00"
            session.sql(
                f"CALL {lake.catalog.name}.system.expire_snapshots(table => '{ds.name}.{table}', "
                f"older_than => TIMESTAMP '{now}', retain_last => 1)"
            ).collect()
    same_rows(ds.logs(1), make_log([1]).frame)
    same_rows(ds.logs(), make_log([1], 200).frame)


@pytest.mark.slow
def test_expiry_takes_versions_and_what_only_they_name(lake: Settings, ds: Dataset, make_log: MakeLog) -> None:
    ds.write(make_log([1], 100), mode="replace", gate=False)
    ds.write(make_log([1], 200), mode="replace", gate=False)
    ds.pin(2, "paper")
    stray = folder(lake, ds) / "requests" / ("data" if lake.format == "iceberg" else ".") / "stray.parquet"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left by a run that died")
    policy = Policy(keep_versions=1, keep_days=0)
    planned = ds.maintain(policy=policy, dry_run=True)
    assert planned.expired_versions == (1,)
    assert ds.metadata().version_numbers == [1, 2, 3]
    files = {
        p for p in folder(lake, ds).rglob("*.parquet") if "_delta_log" not in p.parts and "_versions" not in p.parts
    }
    done = ds.maintain(policy=policy)
    assert (done.expired_versions, done.kept_versions) == ((1,), (2, 3))
    assert done.expiry == planned.expiry
    left = {p for p in files if p.exists()}
    assert left < files
    # Too young to be nobody's.
    assert stray in left
    grown_old(folder(lake, ds))
    assert sum(t.orphan_files for t in ds.maintain(policy=policy).expiry) == 1
    assert not stray.exists()
    same_rows(ds.logs(2), make_log([1], 100).frame)
    same_rows(ds.logs(), make_log([1], 200).frame)
    with pytest.raises(VersionNotFoundError):
        ds.logs(1)
    # A run id stays spent, though its version is gone.
    assert ds.write(make_log([1]), run_id="day-1", gate=False).already_published
    assert ds.write(make_log([2], 300), gate=False).version == 4


@pytest.mark.slow
def test_an_expiry_that_was_killed_leaves_files_for_a_while_and_takes_no_row(
    lake: Settings, ds: Dataset, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (2, 3):
        ds.write(make_log([1], 100 * day), mode="replace", gate=False)
    ds.pin(2, "paper")
    policy = Policy(keep_versions=1, keep_days=0)

    def stop(point: str) -> None:
        if point == "maintain:unnamed":
            raise Stop

    monkeypatch.setattr(faults, "watcher", stop)
    with pytest.raises(Stop):
        ds.maintain(policy=policy, compact=False)
    monkeypatch.setattr(faults, "watcher", None)
    assert ds.metadata().version_numbers == [2, 3]
    stored = len(left_behind(ds))
    ds.maintain(policy=policy, compact=False)
    # On Delta nothing tells such files from those of a run that is about to name them: they go by their age.
    assert len(left_behind(ds)) == (stored if lake.format == "delta" else 0)
    grown_old(folder(lake, ds))
    ds.maintain(policy=policy, compact=False)
    assert left_behind(ds) == []
    for version, first_request in ((2, 200), (3, 300)):
        same_rows(ds.logs(version), make_log([1], first_request).frame)


def decayed(spark: SparkSession, lake: Settings) -> tuple[Dataset, DataFrame]:
    """Three appends into one month, two buckets; and the rows."""
    ds, rows = made(spark, lake, date_grain="month", buckets=2), log(spark, [1, 2]).frame
    for number in (3, 4):
        raw = log(spark, [number], 100 * number)
        ds.write(raw, gate=False)
        rows = rows.unionByName(raw.frame)
    return ds, rows


@pytest.mark.slow
def test_compaction_restores_the_order_and_changes_no_row(spark: SparkSession, lake: Settings) -> None:
    ds, expected = decayed(spark, lake)
    ds.features.add("length", {"n": "size(hist)"}, gate=False)
    steps = {"expire": False, "orphans": False}
    planned = {g.table: g for g in ds.maintain(dry_run=True, **steps).compaction}
    assert {t: g.decayed_segments for t, g in planned.items()} == {"requests": 2, "impressions": 2, "fg_length": 0}
    assert (ds.metadata().current, planned["requests"].files_before) == (4, 6)
    # A table that a run is at work on is left alone, and the run goes on.
    some, more = Affected(users=[1]), Change(expressions={"y": "y + 10"})

    def stop(*_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ds.backfill(more, some, run_id="work", progress=stop, gate=False)
    first = {g.table: g for g in ds.maintain("m1", **steps).compaction}
    assert (first["requests"].files_after, first["requests"].overlapping_files_after) == (2, 0)
    assert first["impressions"].skipped == "a run is at work on the table"
    assert ds.backfill(more, some, run_id="work", gate=False).resumed_segments == 1
    expected = expected.withColumn("y", F.expr("if(user_id = 1, y + 10, y)"))
    requests = files(ds, "requests", 6)
    done = {g.table: g for g in ds.maintain("m2", **steps).compaction}
    assert (done["impressions"].files_after, done["impressions"].overlapping_files_after) == (2, 0)
    assert files(ds, "requests", 7) == requests
    for version in (6, 7):
        same_rows(ds.logs(version, features=()), expected)
    same_rows(ds.logs(1), log(spark, [1, 2]).frame)
    # Inside a segment the rows lie in the sort order again.
    for path in (
        p for p in (folder(lake, ds) / "impressions").rglob("*.parquet") if p.name in files(ds, "impressions", 7)
    ):
        keys = [tuple(r) for r in spark.read.parquet(str(path)).select("user_id", "request_id", "position").collect()]
        assert keys == sorted(keys)
    # What was computed from the rows still follows from them.
    assert ds.features.refresh("length").up_to_date
    assert ds.maintain("m2", **steps).version == 7
    assert left_behind(ds) == []

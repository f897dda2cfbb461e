"""Kept versions: they survive the format's own cleaning; expiry takes the others, and the files that only they name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import VersionNotFoundError
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.maintain.expire import Policy
from dedup_storage.tables import delta_files
from tests.contract.conftest import MakeLog
from tests.spark.helpers import same_rows

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

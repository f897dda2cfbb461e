"""Real processes, killed with SIGKILL while a feature group is added, refreshed, promoted."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.integration.processes import kill
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset, same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def log(spark: SparkSession, day: int, first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows([day], first_request=first_request)), flat_schema())


@pytest.mark.parametrize(
    ("action", "point", "decided"),
    [
        ("add", "features:staged-anchor", False),
        ("add", "publish:after-claim", True),
        ("add", "publish:after-pick-fg_age", True),
        ("refresh", "features:staged", False),
        ("refresh", "publish:after-tag-fg_age", True),
        ("promote", "features:folded", False),
        ("promote", "publish:after-pick-fg_age", True),
    ],
)
def test_kill_9_at_every_step(
    spark: SparkSession, settings: Settings, name: str, action: str, point: str, decided: bool
) -> None:
    raw = log(spark, 1)
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    if action != "add":
        ds.features.add("age", {"length": "size(hist)"}, run_id="add", gate=False)
        ds.write(log(spark, 2, 100), run_id="second", gate=False)
    if action == "promote":
        ds.features.refresh("age", run_id="refresh", gate=False)
    before, versions = multiset(ds.logs()), [v.run_id for v in ds.versions()]
    kill(settings, "feature_process", "--dataset", name, "--action", action, point=point)
    assert [v.run_id for v in ds.versions()] == versions
    assert multiset(ds.logs()) == before

    if action == "add":
        done = ds.features.add("age", {"length": "size(hist)"}, run_id="add", gate=False)
    elif action == "refresh":
        done = ds.features.refresh("age", run_id="refresh", gate=False)
    else:
        done = ds.features.promote("age", run_id="promote")
    assert done.already_published == decided
    assert [v.run_id for v in ds.versions()] == [*versions, action]
    same_rows(ds.logs(), with_length(ds.logs(features=())))
    assert [v for v in ds.metadata().tables if v.startswith("fg_")] == ["fg_age"]


def with_length(rows: DataFrame) -> DataFrame:
    return rows.withColumn("length", F.size("hist"))

"""Bucket and as-of joins on two public logs and a generated one, against the plain joins."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.joins import How, asof_join, bucket_join
from dedup_storage.dataset.joins.tables import table_frame
from dedup_storage.demo.complete_journey import log_schema, write_log
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import fingerprint
from dedup_storage.synth import SynthParams
from tests.integration.test_ebnerd import SCHEMA, source
from tests.spark.join_tables import exchanges, plain_join

__all__ = ["source"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]
# Text ids, a few users with half of the rows, labels that are null.
HOT = {
    "users": 60, "requests_per_user": 3, "requests_distribution": "geometric", "hot_users": 0.05, "hot_factor": 20,
    "string_ids": True, "late_labels": 0.2, "days": 5, "candidates_distribution": "geometric",
}  # fmt: skip


def digest(df: DataFrame) -> tuple[object, ...]:
    """Number of rows, and the sum of their hashes, whatever their order."""
    hashed = df.select(fingerprint(df.schema.fields).cast("decimal(38, 0)").alias("h"))
    return tuple(only_row(hashed.agg(F.count(F.lit(1)), F.sum("h"))))


@pytest.fixture(scope="session")
def datasets(
    spark: SparkSession, settings: Settings, source: tuple[str, object], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Dataset]:
    """All logs, by day, by month and undated, with different bucket counts."""
    raw = RawLog.read(spark, source[0], schema=SCHEMA)
    ebnerd = Dataset.create(spark, settings, "joins_ebnerd", SCHEMA, raw)
    ebnerd.write(raw, gate=False)
    place = tmp_path_factory.mktemp("journey")
    write_log(place, share=0.01, max_length=64)
    schema = log_schema(64)
    raw = RawLog.read(spark, str(place), schema=schema)
    journey = Dataset.create(spark, settings, "joins_journey", schema, raw, date_grain="month", buckets=4)
    journey.write(raw, gate=False)
    params = SynthParams.from_dict(HOT)
    raw = RawLog.read(spark, generate(spark, params, str(tmp_path_factory.mktemp("generated"))).tables["log"],
                      schema=params.log_schema())  # fmt: skip
    generated = Dataset.create(spark, settings, "joins_generated", raw.schema, raw, date_grain="none", buckets=5)
    generated.write(raw, gate=False)
    return {"ebnerd": ebnerd, "journey": journey, "generated": generated}


@pytest.mark.parametrize("log", ["ebnerd", "journey", "generated"])
def test_bucket_joins(datasets: dict[str, Dataset], log: str) -> None:
    ds = datasets[log]
    assert exchanges(ds.logs()) == 0
    requests, impressions = table_frame(ds.handle, "requests"), table_frame(ds.handle, "impressions")
    date = str(ds.spec.event_date_column)
    on = (*ds.spec.request_key, date)
    some = requests.where(F.pmod(F.xxhash64(*ds.spec.request_key), F.lit(3)) != 0)
    for how in How:
        result = bucket_join(impressions, some, how=how)
        assert exchanges(result) == 0
        expected = digest(plain_join(impressions, some, on, how))
        assert expected[0] != 0
        assert digest(result) == expected
        assert digest(bucket_join(impressions.drop(date), some.drop(date), how=how)) == digest(
            plain_join(impressions.drop(date), some.drop(date), ds.spec.request_key, how)
        )


@pytest.mark.parametrize("log", ["ebnerd", "journey", "generated"])
def test_asof_joins(datasets: dict[str, Dataset], log: str) -> None:
    """The user's previous request, found as a feature row, is the one that a window over the requests gives."""
    ds = datasets[log]
    requests = table_frame(ds.handle, "requests")
    user, time = ds.schema.user, str(ds.schema.event_time)
    key = ds.spec.request_key[1]
    rows = requests.select(user, F.col(time).alias("at"), F.col(key).alias("previous"))
    result = asof_join(
        requests, rows, left_on=time, right_on="at", by=user, allow_exact_matches=False, ties="previous"
    ).select(*ds.spec.request_key, "previous")
    earlier = (F.col(f"r.{user}") == F.col(f"f.{user}")) & (F.col("at") < F.col(time))
    pairs = requests.alias("r").join(rows.alias("f"), earlier, "left")
    latest = pairs.groupBy(*(F.col(f"r.{k}").alias(k) for k in ds.spec.request_key)).agg(
        F.max(F.struct("at", "previous")).getField("previous").alias("previous")
    )
    expected = digest(latest)
    assert expected[0] == requests.count()
    assert digest(result) == expected

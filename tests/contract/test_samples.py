"""Named samples: the same users, strata, counts and weights on every format, in Spark, in the reader and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.samples import store
from dedup_storage.errors import ConfigError, StorageError, UsageError
from dedup_storage.lake.engine.status import counted_reads
from dedup_storage.lake.upkeep import Policy
from dedup_storage.reader import DedupDataset
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.named import named_users
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.sampling.hashing import limit, user_points
from dedup_storage.sources.raw import RawLog
from tests.contract.test_convert import StoppedError
from tests.contract.test_maintain import grown_old
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

USERS, SEED = 16, 3
STRATA = [{"name": "country", "column": "country"}]
# Shares of the strata; the dataset's users are DK where odd.
FRACTIONS = {"country=DK": 0.5, "country=SE": 0.25}


def log(spark: SparkSession, days: list[int], first_request: int = 0, users: int = USERS) -> RawLog:
    return RawLog.from_frame(
        frame(spark, flat_rows(days, users=users, first_request=first_request)), flat_schema(buckets=6)
    )


@pytest.fixture
def ds(spark: SparkSession, lake: Settings) -> Dataset:
    def build(name: str) -> Dataset:
        raw = log(spark, [1, 2])
        created = Dataset.create(spark, lake, name, raw.schema, raw)
        created.write(raw, gate=False)
        return created

    return restored(spark, lake, "to sample", build)


def wanted(users: int = USERS) -> dict[int, float]:
    """User -> weight, by the plain form: a user is in when its point lies below its stratum's share."""
    points = user_points(np.arange(users), SEED)
    shares = {u: FRACTIONS["country=DK" if u % 2 else "country=SE"] for u in range(users)}
    return {u: 1 / share for u, share in shares.items() if points[u] < limit(share)}


def stop_at(point: str) -> Callable[[str], None]:
    """In place of the fault points: stops at one."""

    def reached(there: str) -> None:
        if there == point:
            raise StoppedError

    return reached


def read_weights(dataset: DedupDataset) -> Counter[tuple[int, float]]:
    """Requests of each user and weight that the reader delivers."""
    found: Counter[tuple[int, float]] = Counter()
    for batch in dataset:
        found.update(zip(batch["user_id"].values.tolist(), batch["request_weight"].values.tolist(), strict=True))
    return found


@pytest.mark.slow
def test_stored_strata_are_refreshed_kept_and_dropped(
    spark: SparkSession, lake: Settings, ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ds.samples.make("some", fractions=FRACTIONS, strata=STRATA, seed=SEED)
    users = wanted()
    assert {s.stratum: (s.users, s.sampled) for s in made.strata} == {
        f"country={c}": (USERS // 2, sum(u % 2 == odd for u in users)) for c, odd in (("DK", 1), ("SE", 0))
    }
    same_rows(ds.logs(sample="some").drop("impression_weight"), ds.logs().filter(F.col("user_id").isin(*users)))
    weights = ds.requests(sample="some").select("user_id", "request_weight").collect()
    assert Counter(map(tuple, weights)) == dict.fromkeys(users.items(), 2)
    assert read_weights(DedupDataset(ds.name, lake, sample="some")) == dict.fromkeys(users.items(), 2)
    assert ds.samples.make("some", fractions=FRACTIONS, strata=STRATA, seed=SEED).unchanged
    with pytest.raises(UsageError, match="another definition"):
        ds.samples.make("some", fraction=0.5)
    report = ds.samples.report("some", verify=True)
    assert {m.metric: m.truth for m in report.metrics} == {
        "label rate": pytest.approx(ds.logs().agg(F.avg("y")).collect()[0][0]),
        "requests per user": 2.0,
        "impressions per request": 3.0,
        "sequence length": pytest.approx(ds.requests().agg(F.avg(F.size("hist"))).collect()[0][0]),
    }

    # New users come in by the same rule; those known keep their place. A run that stops on the way changes nothing.
    ds.write(log(spark, [3], 1000, USERS + 8), gate=False)
    for point in ("sample:users-stored", "sample:before-record"):
        with monkeypatch.context() as patch:
            patch.setattr(store, "reached", stop_at(point))
            with pytest.raises(StoppedError):
                ds.samples.refresh("some")
    assert read_weights(DedupDataset(ds.name, lake, sample="some")) == dict.fromkeys(users.items(), 3)
    ds.samples.refresh("some")
    grown = wanted(USERS + 8)
    assert {(r["user_id"], r["user_weight"]) for r in ds.samples.users("some").collect()} == set(grown.items())
    found = read_weights(DedupDataset(ds.name, lake, sample="some"))
    assert found == {(u, w): 3 if u < USERS else 1 for u, w in grown.items()}
    # Maintenance takes the users of the record that was replaced, and no others.
    place = Path(lake.warehouse_uri) / ds.name / "sm_some"
    grown_old(place)
    ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False)
    assert read_weights(DedupDataset(ds.name, lake, sample="some")) == found
    ds.samples.drop("some")
    assert ds.samples() == []
    assert not list(place.rglob("*.parquet"))
    with pytest.raises(ConfigError, match="no sample some"):
        DedupDataset(ds.name, lake, sample="some")


@pytest.mark.long
def test_samples_by_hash_and_by_buckets_store_no_users(lake: Settings, ds: Dataset) -> None:
    ds.samples.make("half", fraction=0.5, seed=SEED)
    users = {u for u in range(USERS) if user_points(np.arange(USERS), SEED)[u] < limit(0.5)}
    assert read_weights(DedupDataset(ds.name, lake, sample="half")) == {(u, 2.0): 2 for u in users}
    made = ds.samples.make("bucket", buckets=2, seed=SEED)
    chosen = set(ds.samples.describe("bucket")["chosen_buckets"])
    bucket = ds.tables.bucket(ds.spec)
    expected = ds.logs().filter(bucket.isin(*chosen))
    same_rows(ds.logs(sample="bucket").drop("impression_weight"), expected)
    inside = {r[0] for r in expected.select("user_id").distinct().collect()}
    assert made.users == len(inside)
    assert read_weights(DedupDataset(ds.name, lake, sample="bucket")) == {(u, 3.0): 2 for u in inside}
    plan = ds.samples.plan("bucket")
    assert plan.pruned_by == ("buckets",)
    assert 0 < plan.bytes < plan.all_bytes
    # Spark does not open the other files either.
    with counted_reads(ds.spark) as few:
        ds.requests(sample="bucket").select("user_id", "hist").collect()
    with counted_reads(ds.spark) as many:
        ds.requests().select("user_id", "hist").collect()
    assert 0 < few.bytes < many.bytes
    assert plan.all_bytes == sum(t.bytes for t in ds.samples.plan("half").tables)
    assert ds.samples.plan("half").note
    assert [s.name for s in ds.samples()] == ["bucket", "half"]


def test_a_report_measures_a_samples_users(lake: Settings, ds: Dataset) -> None:
    ds.samples.make("two", buckets=2, seed=SEED)
    files, opened = dataset_files(lake, ds.name), list[int]()
    totals = {t.name: read_totals(t) for t in files.tables}
    found = draw_dataset(files, totals, named=named_users(lake, ds.name, "two"), on_file=opened.append)
    users = {r["user_id"] for r in ds.samples.users("two").collect()}
    assert set(found.requests["user_id"].to_pylist()) == users
    assert found.num_impressions == ds.logs(sample="two").count() == 6 * len(users)
    assert 0 < opened[-1] < sum(len(t.files) for t in files.tables)


@pytest.mark.long
def test_lost_users_are_told(lake: Settings, ds: Dataset) -> None:
    ds.samples.make("some", fractions=FRACTIONS, strata=STRATA, seed=SEED)
    sample = ds.samples.describe("some")
    ds.tables.untag(ds.name, sample["table"], sample["tag"])
    with pytest.raises(StorageError, match="users of the sample some are gone"):
        DedupDataset(ds.name, lake, sample="some")
    with pytest.raises(StorageError, match="are gone"):
        ds.samples.users("some")

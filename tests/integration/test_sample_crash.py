"""Real processes, killed with SIGKILL while a named sample is stored, refreshed, dropped."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.integration.processes import kill
from tests.integration.sample_process import SPEC
from tests.spark.helpers import flat_rows, flat_schema, frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

USERS = 12


def log(spark: SparkSession, day: int, first_request: int, users: int) -> RawLog:
    rows = flat_rows([day], users=users, first_request=first_request)
    return RawLog.from_frame(frame(spark, rows), flat_schema())


def chosen(ds: Dataset, name: str = "half") -> set[tuple[int, str, float]]:
    return {(r["user_id"], r["stratum"], r["user_weight"]) for r in ds.samples.users(name).collect()}


@pytest.mark.parametrize(
    ("action", "point"),
    [
        ("make", "sample:users-stored"),
        ("make", "sample:before-record"),
        ("refresh", "sample:users-stored"),
        ("refresh", "sample:before-record"),
        ("drop", "sample:record-dropped"),
    ],
)
def test_kill_9_at_every_step(spark: SparkSession, settings: Settings, name: str, action: str, point: str) -> None:
    raw = log(spark, 1, 0, USERS)
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    before: set[tuple[int, str, float]] = set()
    if action != "make":
        ds.samples.make("half", SPEC)
        before = chosen(ds)
        ds.write(log(spark, 2, 1000, USERS + 8), gate=False)
    kill(settings, "sample_process", "--dataset", name, "--action", action, point=point)

    names = [sample.name for sample in ds.samples()]
    # A sample is there whole, as it was, or not at all.
    assert names == (["half"] if action == "refresh" else [])
    if action == "refresh":
        assert chosen(ds) == before
        refreshed = ds.samples.refresh("half")
        assert refreshed.version == 2
        assert {u for u, _, _ in chosen(ds)} > {u for u, _, _ in before}
    else:
        ds.samples.make("half", SPEC)
    # The same as one that nothing interrupted, users and weights.
    ds.samples.make("again", SPEC)
    assert chosen(ds) == chosen(ds, "again")
    assert chosen(ds)
    ds.samples.drop("half")
    ds.samples.drop("again")
    assert ds.samples() == []

"""Real processes, killed with SIGKILL while a named sample is stored, refreshed, dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.faults import VARIABLE
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.raw import RawLog
from tests.integration.sample_process import SPEC
from tests.spark.helpers import flat_rows, flat_schema, frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
USERS = 12


def kill(settings: Settings, dataset: str, action: str, point: str) -> None:
    """Run an action in a process that dies at a point."""
    environ = {
        **os.environ,
        "DEDUP_STORAGE_WAREHOUSE": settings.warehouse,
        "DEDUP_STORAGE_SPARK__MASTER": "local[1]",
        "DEDUP_STORAGE_SPARK__CONF": "{spark.sql.shuffle.partitions: '1', spark.ui.enabled: 'false', "
        "spark.driver.memory: 1g, spark.ui.showConsoleProgress: 'false'}",
        VARIABLE: point,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.integration.sample_process", "--dataset", dataset, "--action", action]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, (done.stdout + done.stderr)[-2000:]


def log(spark: SparkSession, day: int, first_request: int, users: int) -> RawLog:
    rows = flat_rows([day], users=users, first_request=first_request)
    return RawLog.from_frame(frame(spark, rows), flat_schema())


def chosen(ds: Dataset, name: str = "half") -> set[tuple[int, str, float]]:
    return {(r["user_id"], r["stratum"], r["user_weight"]) for r in ds.sample_users(name).collect()}


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
        ds.sample("half", SPEC)
        before = chosen(ds)
        ds.write(log(spark, 2, 1000, USERS + 8), gate=False)
    kill(settings, name, action, point)

    names = [sample.name for sample in ds.samples()]
    # A sample is there whole, as it was, or not at all.
    assert names == (["half"] if action == "refresh" else [])
    if action == "refresh":
        assert chosen(ds) == before
        refreshed = ds.refresh_sample("half")
        assert refreshed.version == 2
        assert {u for u, _, _ in chosen(ds)} > {u for u, _, _ in before}
    else:
        ds.sample("half", SPEC)
    # The same as one that nothing interrupted, users and weights.
    ds.sample("again", SPEC)
    assert chosen(ds) == chosen(ds, "again")
    assert chosen(ds)
    ds.drop_sample("half")
    ds.drop_sample("again")
    assert ds.samples() == []

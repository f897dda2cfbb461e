"""Real processes, killed with SIGKILL at every step of a write, its publication and a conversion; many at once.

The same on Iceberg for writes: ``tests/integration/test_crash.py``.
"""

from __future__ import annotations

import signal

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.layout import Layout
from dedup_storage.spark.dataset import Dataset
from tests.contract.conftest import MakeLog
from tests.contract.test_convert import OTHER
from tests.integration.test_crash import AFTER_DECISION, BEFORE_DECISION, first_day, start
from tests.spark.helpers import flat_rows, frame, same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POINTS = [*BEFORE_DECISION, *(p for p in AFTER_DECISION if p != "publish:after-tag-impressions")]


@pytest.fixture
def delta(settings: Settings) -> Settings:
    return settings.model_copy(update={"format": "delta"})


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize("point", [POINTS[0], *POINTS[2:]])
def test_kill_9_at_every_step_on_delta(
    spark: SparkSession, delta: Settings, name: str, make_log: MakeLog, point: str, mode: str
) -> None:
    if mode == "replace" and point in BEFORE_DECISION[:-1]:
        pytest.skip("before the decision a replacement has staged files as an append has")
    ds, first = first_day(spark, delta, name)
    day = 1 if mode == "replace" else 2
    process = start(delta, "--dataset", name, "--run-id", "second", "--mode", mode, "--day", str(day), fault=point)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, output[-2000:]

    same_rows(ds.logs(1), first.frame)
    if point != AFTER_DECISION[-1]:
        assert [v.run_id for v in ds.versions()] == ["first"]
        same_rows(ds.logs(), first.frame)
    second = make_log([day], 100)
    summary = ds.write(second, run_id="second", mode=mode, gate=False)
    assert summary.version == 2
    assert summary.already_published == (point in AFTER_DECISION)
    same_rows(ds.logs(), second.frame if mode == "replace" else first.frame.unionByName(second.frame))
    assert [v.run_id for v in ds.versions()] == ["first", "second"]


def test_three_processes_of_four_appends_each_on_delta(spark: SparkSession, delta: Settings, name: str) -> None:
    ds, first = first_day(spark, delta, name)
    jobs = [
        start(delta, "--dataset", name, "--run-id", f"w{i}", "--first-request", str(1000 * (i + 1)), "--appends", "4")
        for i in range(3)
    ]
    for process in jobs:
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0, output[-3000:]
    expected = first.frame
    for i in range(3):
        for j in range(4):
            expected = expected.unionByName(frame(spark, flat_rows([2], first_request=1000 * (i + 1) + 10 * j)))
    same_rows(ds.logs(), expected)
    assert [v.version for v in ds.versions()] == list(range(1, 14))
    assert {v.run_id for v in ds.versions()} == {"first", *(f"w{i}-{j}" for i in range(3) for j in range(4))}


def test_kill_9_in_a_conversion(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> None:
    raw = make_log([1, 2, 3])
    ds = Dataset.create(spark, lake, name, raw.schema, raw, layout=Layout.FLAT)
    ds.write(raw, gate=False)
    other = OTHER[lake.format]
    process = start(lake, name, f"{name}_b", other, fault="convert:part-1", module="tests.contract.convert_process")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, output[-2000:]
    done = ds.convert(f"{name}_b", format=other, layout=Layout.SPLIT, run_id="turn")
    assert (done.already_done, done.requests, done.impressions, len(done.parts)) == (2, 15, 45, 3)
    turned = Dataset.open(spark, lake.model_copy(update={"format": other}), f"{name}_b")
    same_rows(turned.logs(), raw.frame)

"""Real processes, killed with SIGKILL at every step of a write and its publication; and many writing at once."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.integration.processes import kill, start
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BEFORE_DECISION = [
    "write:staged-impressions",
    "write:staged-requests",
    "write:staged",
    "write:audited",
    "publish:before-claim",
]
AFTER_DECISION = [
    "publish:after-claim",
    "publish:after-pick-impressions",
    "publish:after-tag-impressions",
    "publish:after-pick-requests",
    "publish:after-tag-requests",
]


def first_day(spark: SparkSession, settings: Settings, name: str) -> tuple[Dataset, RawLog]:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    return ds, raw


# A replacement differs from an append in what it stages; most steps of their publication are the same code.
REPLACING = {"write:staged-requests", "publish:before-claim", "publish:after-claim", "publish:after-tag-requests"}
STEPS = [
    pytest.param(point, mode, marks=[pytest.mark.exhaustive] if mode == "replace" and point not in REPLACING else [])
    for mode in ("append", "replace")
    for point in BEFORE_DECISION + AFTER_DECISION
]


@pytest.mark.parametrize(("point", "mode"), STEPS)
def test_kill_9_at_every_step(spark: SparkSession, settings: Settings, name: str, point: str, mode: str) -> None:
    ds, first = first_day(spark, settings, name)
    day = 1 if mode == "replace" else 2
    arguments = ("--dataset", name, "--run-id", "second", "--mode", mode, "--day", str(day))
    kill(settings, "writer", *arguments, point=point)

    same_rows(ds.logs(1), first.frame)
    if point != AFTER_DECISION[-1]:
        assert [v.run_id for v in ds.versions()] == ["first"]
        same_rows(ds.logs(), first.frame)

    second = RawLog.from_frame(frame(spark, flat_rows([day], first_request=100)), flat_schema())
    summary = ds.write(second, run_id="second", mode=mode, gate=False)
    assert summary.version == 2
    assert summary.already_published == (point in AFTER_DECISION)
    expected = second.frame if mode == "replace" else first.frame.unionByName(second.frame)
    same_rows(ds.logs(), expected)
    assert [v.run_id for v in ds.versions()] == ["first", "second"]


@pytest.mark.parametrize(
    ("table_format", "processes", "appends"),
    [("iceberg", 5, 10), pytest.param("delta", 3, 3, marks=pytest.mark.exhaustive)],
)
def test_many_processes_of_many_appends_each(
    spark: SparkSession, settings: Settings, name: str, table_format: str, processes: int, appends: int
) -> None:
    settings = settings.model_copy(update={"format": table_format})
    ds, first = first_day(spark, settings, name)
    given = [("--run-id", f"w{i}", "--first-request", str(1000 * (i + 1))) for i in range(processes)]
    jobs = [start(settings, "writer", "--dataset", name, *each, "--appends", str(appends)) for each in given]
    for process in jobs:
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0, output[-3000:]
    expected = first.frame
    for i in range(processes):
        for j in range(appends):
            expected = expected.unionByName(frame(spark, flat_rows([2], first_request=1000 * (i + 1) + 10 * j)))
    same_rows(ds.logs(), expected)
    runs = [v.run_id for v in ds.versions()]
    assert sorted(runs) == sorted(["first", *(f"w{i}-{j}" for i in range(processes) for j in range(appends))])
    assert [v.version for v in ds.versions()] == list(range(1, processes * appends + 2))

"""Commits whose catalog does not answer, and expiry by another tool, in the middle of a run on Iceberg."""

from __future__ import annotations

from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.errors import UnknownCommitError
from dedup_storage.lake.engine.iceberg import IcebergTable
from dedup_storage.lake.iceberg import branch
from dedup_storage.lake.iceberg.format import IcebergFormat
from dedup_storage.lake.iceberg.publish import Publisher
from tests.spark.backfilling import left_behind, log, make, with_y
from tests.spark.helpers import same_rows

pytestmark = pytest.mark.crash

CHANGE, WHO = Change(expressions={"y": "y + 10"}), Affected(where="user_id < 6")


def unanswered(spark: SparkSession) -> Py4JJavaError:
    """What Iceberg raises where a catalog answers a commit with 503."""
    jvm: Any = spark._jvm
    cause = jvm.java.lang.RuntimeException("Server error: 503 Service Unavailable")
    return Py4JJavaError("", jvm.org.apache.iceberg.exceptions.CommitStateUnknownException(cause))


class Silent:
    """A method whose n-th call commits or does not, and says that nobody knows."""

    def __init__(self, spark: SparkSession, method: Any, call: int, *, commits: bool) -> None:
        self.spark, self.method, self.call, self.commits, self.calls = spark, method, call, commits, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls != self.call:
            return self.method(*given, **named)
        if self.commits:
            self.method(*given, **named)
        raise unanswered(self.spark)

    def of(self) -> Any:
        """As a method of a class."""
        return lambda *given, **named: self(*given, **named)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("strategy", [Strategy.OVERWRITE, pytest.param(Strategy.MERGE_ON_READ, marks=pytest.mark.slow)])
def test_a_part_of_unknown_state_is_looked_up(
    spark: SparkSession, settings: Settings, commits: bool, strategy: Strategy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ds = make(spark, settings)
    owner, method = (IcebergTable, "exchange") if strategy is Strategy.OVERWRITE else (branch, "merge_into")
    silent = Silent(spark, getattr(owner, method), 3, commits=commits)
    monkeypatch.setattr(owner, method, silent.of())
    resumed = 0
    if not commits:
        with pytest.raises(UnknownCommitError, match=r"did not answer.*503 Service Unavailable.*parts are kept"):
            ds.backfill(CHANGE, WHO, run_id="b", strategy=strategy, part_segments=1, gate=False)
        resumed = 2
    summary = ds.backfill(CHANGE, WHO, run_id="b", strategy=strategy, part_segments=1, gate=False)
    assert (summary.version, summary.resumed_segments) == (2, resumed)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id < 6", "y + 10"))
    assert left_behind(ds) == []


def test_writes_of_unknown_state_are_looked_up(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging and the claim go on where the commit is there; where it is not, nothing is published."""
    ds = make(spark, settings)
    more = log(spark, [3], 500)
    for owner, method in ((IcebergFormat, "_commit"), (Publisher, "_claim")):
        monkeypatch.setattr(owner, method, Silent(spark, getattr(owner, method), 1, commits=True).of())
    assert ds.write(more, run_id="more", gate=False).version == 2
    monkeypatch.setattr(IcebergFormat, "_commit", Silent(spark, IcebergFormat._commit, 2, commits=False).of())
    with pytest.raises(UnknownCommitError):
        ds.write(log(spark, [4], 900), run_id="late", gate=False)
    assert ds.metadata().current == 2
    same_rows(ds.logs(), log(spark, [1, 2]).frame.unionByName(more.frame))
    assert left_behind(ds) == []


@pytest.mark.parametrize("strategy", [Strategy.OVERWRITE, pytest.param(Strategy.MERGE_ON_READ, marks=pytest.mark.slow)])
def test_expiry_by_another_tool_takes_no_part(spark: SparkSession, settings: Settings, strategy: Strategy) -> None:
    ds, seen = make(spark, settings), []

    def expire(point: str) -> None:
        seen.append(point)
        if point == "backfill:part" and seen.count(point) in (1, 3):
            spark.sql(
                f"CALL {settings.catalog.name}.system.expire_snapshots(table => '{ds.name}.impressions', "
                "older_than => TIMESTAMP '2100-01-01', retain_last => 1)"
            ).collect()

    faults.watcher = expire
    try:
        summary = ds.backfill(CHANGE, WHO, run_id="b", strategy=strategy, part_segments=1, gate=False)
    finally:
        faults.watcher = None
    assert seen.count("backfill:part") > 3
    assert summary.version == 2
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id < 6", "y + 10"))
    same_rows(ds.logs(1), log(spark, [1, 2]).frame)
    assert left_behind(ds) == []

"""Storage that fails in the middle of a run: its finished parts stay, and it goes on under the same run id."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import SparkSession

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.upkeep import compact
from dedup_storage.errors import ConflictError, LostRacesError, StorageError, UnreadableFileError
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.staging import staging
from tests.contract.upkeep import left_behind, log, made
from tests.spark.backfilling import with_y
from tests.spark.helpers import same_rows

pytestmark = pytest.mark.crash


@pytest.fixture
def watch() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Sets what is called at each point of a job."""

    def set_watcher(watcher: Callable[[str], None]) -> None:
        faults.watcher = watcher

    yield set_watcher
    faults.watcher = None


def nth(point: str, number: int, error: Exception) -> tuple[Callable[[str], None], list[str]]:
    """Raises an error when a point is reached for the n-th time; and the list of what was reached."""
    seen: list[str] = []

    def watcher(reached: str) -> None:
        seen.append(reached)
        if reached == point and seen.count(point) == number:
            raise error

    return watcher, seen


@pytest.mark.parametrize("error", [StorageError("the disk is full"), UnreadableFileError("a file is away")])
def test_a_backfill_keeps_its_parts_through_trouble(
    spark: SparkSession, lake: Settings, watch: Callable[..., None], error: Exception
) -> None:
    ds, change, who = made(spark, lake), Change(expressions={"y": "y + 10"}), Affected(where="user_id < 6")
    watch(nth("backfill:part", 3, error)[0])
    with pytest.raises(type(error), match=r"The finished parts are kept: the run b goes on"):
        ds.backfill(change, who, run_id="b", strategy=Strategy.OVERWRITE, part_segments=1, gate=False)
    watch(lambda point: None)
    summary = ds.backfill(change, who, run_id="b", strategy=Strategy.OVERWRITE, part_segments=1, gate=False)
    assert (summary.resumed_segments, summary.version) == (3, 2)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id < 6", "y + 10"))
    assert left_behind(ds) == []


@pytest.mark.slow
@pytest.mark.parametrize("error", [LostRacesError("others came first"), ConflictError("another run was faster")])
def test_only_a_true_conflict_drops_the_parts(
    spark: SparkSession, lake: Settings, watch: Callable[..., None], error: ConflictError
) -> None:
    ds = made(spark, lake)
    change, who = Change(expressions={"y": "y + 10"}), Affected(users=[1, 2])
    watch(nth("backfill:audited", 1, error)[0])
    with pytest.raises(type(error)):
        ds.backfill(change, who, run_id="b", strategy=Strategy.OVERWRITE, gate=False)
    kept = isinstance(error, LostRacesError)
    assert bool(ds.tables.branches(ds.name, "impressions")) is kept
    watch(lambda point: None)
    assert (ds.backfill(change, who, run_id="b", gate=False).resumed_segments > 0) is kept
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id in (1, 2)", "y + 10"))


def test_a_compaction_keeps_its_parts_through_trouble(
    spark: SparkSession, lake: Settings, watch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = made(spark, lake)
    # A second file in some segments of a day.
    ds.write(log(spark, [1], 500), gate=False)
    before = ds.logs().collect()
    monkeypatch.setattr(compact, "MOST_SEGMENTS", 1)
    watcher, seen = nth("maintain:part", 2, StorageError("the disk is full"))
    watch(watcher)
    with pytest.raises(StorageError, match=r"the disk is full.*the run m goes on"):
        ds.maintain(run_id="m", expire=False, orphans=False)
    assert ds.metadata().current == 2
    watcher, again = nth("", 0, StorageError(""))
    watch(watcher)
    summary = ds.maintain(run_id="m", expire=False, orphans=False)
    parts = sum(gain.decayed_segments for gain in summary.compaction)
    assert (seen.count("maintain:part"), again.count("maintain:part")) == (2, parts - 2)
    assert (summary.version, [gain.skipped for gain in summary.compaction]) == (3, [None, None])
    assert sorted(ds.logs().collect()) == sorted(before)
    assert not any(ds.tables.branches(ds.name, table) for table in ds.metadata().tables)


def test_staged_data_that_another_took_is_told_by_table_and_run(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)
    tables, table = ds.tables, ds.spec.tables[1]
    rows = ds.handle.cut().rows(table.name).select(*table.columns)

    def taken(run: Run) -> None:
        with staging(tables, ds.spec, run) as listed:
            staged = tables.stage(ds.spec, table, rows, run)
            listed.append(staged)
            assert tables.staged_rows(ds.spec, staged, run).count() == rows.count()
            tables.discard(ds.spec, run)
            tables.staged_rows(ds.spec, staged, run).count()

    with pytest.raises(StorageError, match=r"the staged data of table impressions of run lost is gone: .* same run id"):
        taken(Run(run_id="lost", job="write", attempt="lost/1", base=1))

    def failed(run: Run) -> None:
        with staging(tables, ds.spec, run) as listed:
            listed.append(tables.stage(ds.spec, table, rows, run))
            raise ZeroDivisionError

    # An error of another kind, while the data is there, stays what it is, and takes the data away.
    with pytest.raises(ZeroDivisionError):
        failed(Run(run_id="other", job="write", attempt="other/1", base=1))
    assert left_behind(ds) == []

"""Versions on Iceberg: unfinished publications, conflicts, expiry; what both formats do is in ``tests/contract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.write.columns import fitted
from dedup_storage.dataset.write.writer import Mode, Writer
from dedup_storage.errors import ConflictError, DedupStorageError, ForeignCommitError
from dedup_storage.lake.iceberg.metadata import tags
from dedup_storage.layout import claim_tag, version_tag
from dedup_storage.sources.raw import RawLog
from tests.contract.conftest import written
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset, same_rows


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows(days, first_request=first_request)), flat_schema())


def writer_of(ds: Dataset, raw: RawLog, **options: Any) -> Writer:
    """The writer of one log, on the dataset as it is now."""
    meta = ds.metadata()
    return Writer(ds.handle, meta, fitted(raw, ds.handle, meta), **options)


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    # The dataset of the tests of both formats.
    return restored(spark, settings, "a day", lambda name: written(spark, settings, name, log(spark, [1])))


@pytest.mark.long
def test_an_unfinished_publication_is_finished_by_the_next_run(spark: SparkSession, ds: Dataset) -> None:
    """A run that decided its version and died: the version appears whole, before the next one."""
    raw = log(spark, [2], 100)
    writer = writer_of(ds, raw, run_id="died", gate=False)
    meta = ds.metadata()
    from dedup_storage.dataset.write.collapse import Collapse

    collapse = Collapse(ds.handle, writer.raw, 10)
    keys = collapse.keys()
    run = writer._run(meta, keys)
    assert writer._stage(collapse, keys, run)[1]
    publisher = ds.tables._publisher
    anchor = publisher.lake.catalog.load_table((ds.name, "requests"))
    staged = publisher.staging.find_staged(anchor, run.attempt)
    publisher.tag(ds.name, "requests", claim_tag(2), staged.snapshot_id)
    assert ds.metadata().pending == 2
    same_rows(ds.logs(), log(spark, [1]).frame)

    ds.write(log(spark, [3], 200), run_id="next", gate=False)
    assert [v.run_id for v in ds.versions()] == ["day-1", "died", "next"]
    same_rows(ds.logs(2), log(spark, [1]).frame.unionByName(raw.frame))
    assert ds.write(raw, run_id="died", gate=False).version == 2


def test_replacements_of_different_days_both_succeed(spark: SparkSession, ds: Dataset) -> None:
    ds.write(log(spark, [2], 100), gate=False)

    def replace(number: int) -> int:
        raw = log(spark, [number], 1000 * number)
        return ds.write(raw, run_id=f"replace-{number}", mode="replace", gate=False).version

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(replace, [1, 2])) == [3, 4]
    same_rows(ds.logs(), log(spark, [1], 1000).frame.unionByName(log(spark, [2], 2000).frame))


@pytest.mark.long
def test_replacements_of_the_same_day_conflict_by_name(spark: SparkSession, ds: Dataset) -> None:
    """The slower one ends with a ConflictError, leaves nothing, and succeeds when run again."""
    slow = writer_of(ds, log(spark, [1], 500), run_id="slow", mode=Mode.REPLACE, gate=False)
    original = slow._stage

    def overtaken(*args: object, **kwargs: object) -> object:
        staged = original(*args, **kwargs)
        ds.write(log(spark, [1], 700), run_id="fast", mode="replace", gate=False)
        return staged

    slow._stage = overtaken  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match=r"version 2 .* changed event dates that this run replaces"):
        slow.write()
    same_rows(ds.logs(), log(spark, [1], 700).frame)
    ds.write(log(spark, [1], 500), run_id="slow", mode="replace", gate=False)
    same_rows(ds.logs(), log(spark, [1], 500).frame)


@pytest.mark.long
def test_the_same_requests_by_two_runs_at_once_conflict(spark: SparkSession, ds: Dataset) -> None:
    slow = writer_of(ds, log(spark, [2], 500), run_id="slow", gate=False)
    original = slow._stage

    def overtaken(*args: object, **kwargs: object) -> object:
        staged = original(*args, **kwargs)
        ds.write(log(spark, [2], 500), run_id="fast", gate=False)
        return staged

    slow._stage = overtaken  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="wrote some of the same requests"):
        slow.write()
    assert ds.logs().count() == 30


def test_a_run_id_at_work_twice_is_published_once(spark: SparkSession, ds: Dataset) -> None:
    def write(_: int) -> int:
        return ds.write(log(spark, [2], 500), run_id="twin", gate=False).version

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, range(2))) == [2, 2]
    assert ds.logs().count() == 30


@pytest.mark.long
def test_a_commit_from_elsewhere_is_refused_by_name(spark: SparkSession, ds: Dataset) -> None:
    table = f"{ds.settings.catalog.name}.{ds.name}.impressions"
    spark.sql(f"DELETE FROM {table} WHERE user_id = 1")
    same_rows(ds.logs(), log(spark, [1]).frame)
    with pytest.raises(ForeignCommitError, match="impressions was changed outside"):
        ds.write(log(spark, [2], 100), gate=False)
    ds.rollback(1)
    ds.write(log(spark, [2], 100), gate=False)
    assert ds.logs().count() == 30


def test_nothing_staged_remains_of_a_refused_run(spark: SparkSession, ds: Dataset) -> None:
    before = {name: len(t.metadata.snapshots) for name, t in ds.metadata().tables.items()}
    with pytest.raises(DedupStorageError):
        ds.write(log(spark, [1]), gate=False)
    rows = flat_rows([2], first_request=900)
    rows[0] = (*rows[0][:3], "NO", *rows[0][4:])
    with pytest.raises(DedupStorageError):
        ds.write(RawLog.from_frame(frame(spark, rows), flat_schema()), gate=False)
    assert {name: len(t.metadata.snapshots) for name, t in ds.metadata().tables.items()} == before


def test_a_kept_version_survives_snapshot_expiry(spark: SparkSession, ds: Dataset) -> None:
    ds.write(log(spark, [1], 300), mode="replace", gate=False)
    for table in ("requests", "impressions"):
        spark.sql(
            f"CALL {ds.settings.catalog.name}.system.expire_snapshots(table => '{ds.name}.{table}', "
            "older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1)"
        )
        assert version_tag(1) in tags(ds.metadata().tables[table])
    assert multiset(ds.logs(1)) == multiset(log(spark, [1]).frame)
    same_rows(ds.logs(), log(spark, [1], 300).frame)


@pytest.mark.long
def test_a_replaced_day_does_not_lose_what_came_into_its_month(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    """A day in a monthly segment carries over the other days as they were when the run began."""
    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2])), flat_schema(date_grain="month"))
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)

    def month(days: list[int], first_request: int) -> RawLog:
        rows = flat_rows(days, first_request=first_request)
        return RawLog.from_frame(frame(spark, rows), flat_schema(date_grain="month"))

    slow = writer_of(ds, month([1], 500), run_id="slow", mode=Mode.REPLACE, gate=False)
    original = slow._stage

    def overtaken(*args: object, **kwargs: object) -> object:
        staged = original(*args, **kwargs)
        ds.write(month([2], 700), run_id="fast", mode="replace", gate=False)
        return staged

    slow._stage = overtaken  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match=r"version 2 .* changed event dates"):
        slow.write()
    ds.write(month([1], 500), run_id="slow", mode="replace", gate=False)
    same_rows(ds.logs(), month([1], 500).frame.unionByName(month([2], 700).frame))

"""Late labels: any order of arrival gives what a rebuild from all rows gives; unknown keys are set aside."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.labels import LateLabels, merge
from dedup_storage.errors import ConflictError, SchemaError, UnknownColumnError, UsageError
from tests.spark.backfilling import make
from tests.spark.helpers import day, flat_rows, frame, same_rows

TYPES = "user_id bigint, request_id bigint, item bigint, y int, at timestamp"


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    return make(spark, settings)


def late(number: int, seed: int = 1, users: int = 12) -> list[tuple[Any, ...]]:
    """Labels of known impressions, repeated and out of order, a few of them unknown."""
    chance = random.Random(seed)
    known = [(r[0], r[1], r[5]) for r in flat_rows([1, 2], users=users)]
    rows = []
    for i in range(number):
        key = chance.choice(known) if chance.random() < 0.9 else (900 + i, i, 1)
        rows.append((*key, chance.randint(0, 9), day(10) + dt.timedelta(hours=chance.randint(0, 20))))
    return rows


def rebuilt(spark: SparkSession, rows: list[tuple[Any, ...]], users: int = 12) -> Any:
    """The whole log again, each label the newest of all rows (of equal times the greatest)."""
    newest: dict[Any, tuple[Any, int]] = {}
    for *key, label, at in rows:
        newest[tuple(key)] = max(newest.get(tuple(key), (at, label)), (at, label))
    log = []
    for row in flat_rows([1, 2], users=users):
        found = newest.get((row[0], row[1], row[5]))
        log.append((*row[:-1], found[1] if found else row[-1]))
    return frame(spark, log)


@pytest.mark.long
def test_any_order_of_arrival_equals_a_rebuild(spark: SparkSession, ds: Dataset) -> None:
    rows = late(60)
    before = ds.metadata().snapshots(1)["requests"]
    parts = [rows[40:], rows[:20], rows[20:40] + rows[45:50]]
    total = {"input_rows": 0, "unknown_rows": 0}
    for number, part in enumerate(parts):
        summary = ds.merge_labels(frame(spark, part, TYPES), "y", "at", run_id=f"l{number}", gate=False)
        assert summary.input_rows == len(part)
        for name in total:
            total[name] += getattr(summary, name)
        assert summary.backfill.sequence_bytes_written == 0
    same_rows(ds.logs(), rebuilt(spark, rows))
    meta = ds.metadata()
    assert (
        meta.tables["requests"].snapshot_by_id(before).summary["total-data-files"]
        == meta.tables["requests"].snapshot_by_id(meta.snapshots(4)["requests"]).summary["total-data-files"]
    )
    aside = spark.read.table(f"{ds.settings.catalog.name}.{ds.name}.labels_unknown")
    assert aside.count() == total["unknown_rows"] > 0
    # The same run again, and the same rows by another run, change nothing.
    assert ds.merge_labels(frame(spark, parts[0], TYPES), "y", "at", run_id="l0").backfill.already_published
    again = ds.merge_labels(frame(spark, rows[40:], TYPES), "y", "at", run_id="again", gate=False)
    assert again.merged_rows == 0
    same_rows(ds.logs(), rebuilt(spark, rows))


def test_nothing_known_publishes_the_rows_set_aside_alone(spark: SparkSession, ds: Dataset) -> None:
    rows = [(900, 1, 1, 1, day(10)), (901, 2, 1, 0, day(10))]
    summary = ds.merge_labels(frame(spark, rows, TYPES), "y", "at", run_id="l", gate=False)
    assert (summary.unknown_rows, summary.merged_rows, summary.backfill.version) == (2, 0, 2)
    same_rows(ds.logs(), ds.logs(1))
    assert ds.merge_labels(frame(spark, rows, TYPES), "y", "at", run_id="l").backfill.already_published


@pytest.mark.long
def test_a_newer_label_that_comes_in_between_wins(
    spark: SparkSession, ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run publishes after this one has found out what wins; its own answer then counts for nothing."""
    key = next((*row[:2], row[5]) for row in flat_rows([1], users=1))
    older, newer = (frame(spark, [(*key, *late)], TYPES) for late in ((1, day(11)), (0, day(12))))
    plain = merge.sort_out

    def overtaken(cut: Cut, late: LateLabels) -> Any:
        found = plain(cut, late)
        monkeypatch.setattr(merge, "sort_out", plain)
        ds.merge_labels(newer, "y", "at", run_id="newer", gate=False)
        return found

    monkeypatch.setattr(merge, "sort_out", overtaken)
    with pytest.raises(ConflictError, match=r"version 2 of .* changed segments"):
        ds.merge_labels(older, "y", "at", run_id="older", gate=False)

    def stored() -> list[int]:
        found = ds.impressions().filter((F.col("request_id") == key[1]) & (F.col("item") == key[2]))
        return [row["y"] for row in found.collect()]

    assert stored() == [0]
    again = ds.merge_labels(older, "y", "at", run_id="older", gate=False)
    assert (again.merged_rows, again.stale_rows, again.backfill.version) == (0, 1, 2)
    assert stored() == [0]


@pytest.mark.long
def test_times_without_a_zone_are_utc_in_every_session(spark: SparkSession, ds: Dataset) -> None:
    """Midnight of the 12th in New York is five hours later than UTC's, on whose clock a label of 3 o'clock is newer."""
    session = spark.newSession()
    session.conf.set("spark.sql.session.timeZone", "America/New_York")
    key = next((*row[:2], row[5]) for row in flat_rows([1], users=1))
    midnight = frame(session, [(*key, 7)], TYPES.partition(", at")[0]).withColumn("at", F.expr("date'2024-01-12'"))
    Dataset.open(session, ds.settings, ds.name).merge_labels(midnight, "y", "at", gate=False)
    summary = ds.merge_labels(frame(spark, [(*key, 8, day(12, 3))], TYPES), "y", "at", gate=False)
    assert (summary.merged_rows, summary.stale_rows) == (1, 0)


def test_rows_that_cannot_be_used(spark: SparkSession, ds: Dataset) -> None:
    rows = frame(spark, late(3), TYPES)
    with pytest.raises(UsageError, match="country is no label"):
        ds.merge_labels(rows.withColumnRenamed("y", "country"), "country", "at")
    with pytest.raises(SchemaError, match="lack the column when"):
        ds.merge_labels(rows, "y", "when")
    with pytest.raises(UnknownColumnError, match="which impression"):
        ds.merge_labels(rows.drop("item"), "y", "at")
    nothing = frame(spark, [(1, 1, 31, 1, None)], TYPES)
    with pytest.raises(UsageError, match="1 late label has no key or no time"):
        ds.merge_labels(nothing, "y", "at")
    assert [v.version for v in ds.versions()] == [1]

"""Maintenance beside others: told before it is done, done once, and in nobody's way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Backfill, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Maintenance, Policy, compact, restore
from dedup_storage.lake.iceberg import branch, expire, upkeep
from dedup_storage.lake.iceberg.metadata import tags
from dedup_storage.lake.upkeep import DAY_MS
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

NOW = Policy(keep_versions=1, keep_days=0)
MORE = Change(expressions={"y": "y + 10"})


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    """Two versions; the second hides rows of user 1."""

    def build(name: str) -> Dataset:
        raw = RawLog.from_frame(frame(spark, flat_rows([1, 2], users=8)), flat_schema(buckets=2))
        created = Dataset.create(spark, settings, name, raw.schema, raw)
        created.write(raw, run_id="first", gate=False)
        created.backfill(MORE, Affected(users=[1]), run_id="b", strategy=Strategy.MERGE_ON_READ, gate=False)
        return created

    return restored(spark, settings, "hidden rows", build)


def expected(spark: SparkSession, changes: dict[int, int]) -> Any:
    """The log with so much added to users' labels."""
    added = F.coalesce(F.create_map(*(F.lit(v) for pair in changes.items() for v in pair))[F.col("user_id")], F.lit(0))
    return frame(spark, flat_rows([1, 2], users=8)).withColumn("y", (F.col("y") + added).cast("int"))


def state(ds: Dataset) -> dict[str, Any]:
    """Everything that a change of a table would change."""
    meta = ds.metadata()
    return {n: (t.metadata_location, sorted(tags(t).items())) for n, t in meta.tables.items()}


@pytest.mark.long
def test_a_dry_run_tells_and_changes_nothing(spark: SparkSession, ds: Dataset) -> None:
    before = state(ds)
    told = ds.maintain("m", dry_run=True, policy=NOW)
    # The version of the compaction counts among the newest, though it is not made.
    assert (told.dry_run, told.version, told.expired_versions, told.kept_versions) == (True, 2, (1, 2), ())
    assert {g.table: g.decayed_segments for g in told.compaction} == {"requests": 0, "impressions": 2}
    assert state(ds) == before
    done = ds.maintain("m", policy=NOW)
    assert (done.version, done.expired_versions, done.kept_versions) == (3, (1, 2), (3,))
    assert {g.table: g.hidden_rows_before for g in told.compaction} == {
        g.table: g.hidden_rows_before for g in done.compaction
    }
    same_rows(ds.logs(), expected(spark, {1: 10}))


@pytest.mark.long
def test_the_same_run_twice_is_once(spark: SparkSession, ds: Dataset) -> None:
    assert ds.maintain("m", policy=NOW).version == 3
    before = state(ds)
    again = ds.maintain("m", policy=NOW)
    assert (again.version, again.expired_versions, again.abandoned_branches) == (3, (), ())
    assert state(ds) == before


def test_a_run_that_has_just_begun_is_not_given_up(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its first part a branch names a version's snapshot, which here is eight days old."""
    began = time.time_ns() + 8 * DAY_MS * 1_000_000
    monkeypatch.setattr(branch, "time", SimpleNamespace(time_ns=lambda: began))
    run = ds.tables.branch(ds.name, "impressions", "w")
    run.open(ds.metadata().snapshots(2)["impressions"])
    found = []
    for days in (8.1, 16):
        now = time.time() + days * 86_400
        monkeypatch.setattr(upkeep, "time", SimpleNamespace(time=lambda now=now: now))
        found.append(ds.tables.upkeep(ds.spec, Policy(keep_versions=2)).outdated().branches)
    assert found == [(), (("impressions", run.name),)]
    assert [r.since_ms for r in ds.publication.status().runs] == [began // 1_000_000]
    run.drop()
    assert not [key for key in ds.metadata().properties("impressions") if "begun" in key]


@pytest.mark.long
def test_a_running_reader_reads_on(spark: SparkSession, settings: Settings, ds: Dataset) -> None:
    """An epoch begun before the compaction ends with the rows it began with, in the files it planned."""
    ds.pin(2, "reading")
    batches: Iterator[Any] = iter(DedupDataset(ds.name, settings, batch_size=4, prefetch=0, threads=1))
    rows = [rows_of(next(batches))]
    done = ds.maintain("m", policy=NOW)
    assert (done.version, done.expired_versions) == (3, (1,))
    assert next(g for g in done.compaction if g.table == "impressions").hidden_rows_after == 0
    rows += [rows_of(batch) for batch in batches]
    found = sorted(row for part in rows for row in part)
    assert found == sorted((r.user_id, r.item, r.y) for r in expected(spark, {1: 10}).collect())


def rows_of(batch: Any) -> list[tuple[int, int, int]]:
    columns = (batch.user_ids("impression"), batch["item"].values, batch["y"].values)
    return list(zip(*(c.tolist() for c in columns), strict=True))


class Stop(Exception):
    pass


@pytest.mark.long
def test_a_stopped_backfill_keeps_its_table(spark: SparkSession, ds: Dataset) -> None:
    """The table a run is at work on is left alone, whatever the policy, and the run goes on where it was."""

    def stop(*_: int) -> None:
        raise Stop

    given: dict[str, Any] = {"run_id": "slow", "part_segments": 1, "gate": False, "strategy": Strategy.MERGE_ON_READ}
    with pytest.raises(Stop):
        ds.backfill(MORE, Affected(users=[2]), progress=stop, **given)
    done = ds.maintain("m", policy=NOW)
    assert {g.table: g.skipped for g in done.compaction}["impressions"] == "a run is at work on the table"
    assert (done.version, done.expired_versions) == (2, (1,))
    summary = ds.backfill(MORE, Affected(users=[2]), **given)
    assert (summary.version, summary.resumed_segments) == (3, 1)
    same_rows(ds.logs(), expected(spark, {1: 10, 2: 10}))


@pytest.mark.long
def test_a_backfill_that_meets_a_compaction_begins_anew(
    spark: SparkSession, ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction that looked before the backfill opened its branch, and published after the backfill had read."""
    slow = Backfill(ds.handle, MORE, Affected(users=[2]), run_id="slow", gate=False)
    audit, met = slow._audit_rows, []

    def meet(*given: Any) -> None:
        audit(*given)
        if not met:
            with monkeypatch.context() as patch:
                patch.setattr(restore, "working_branches", lambda *_: [])
                met.append(ds.maintain("m", expire=False, orphans=False).version)

    slow._audit_rows = meet  # type: ignore[method-assign]
    assert slow.run().version == 4
    assert met == [3]
    same_rows(ds.logs(), expected(spark, {1: 10, 2: 10}))


@pytest.mark.long
def test_a_compaction_that_meets_a_backfill_gives_way(
    spark: SparkSession, ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite = compact.Compactor._rewrite

    def meet(self: Any, *given: Any) -> None:
        rewrite(self, *given)
        ds.backfill(MORE, Affected(users=[2]), run_id="fast", gate=False)

    monkeypatch.setattr(compact.Compactor, "_rewrite", meet)
    done = Maintenance(ds.handle, run_id="m", expire=False, orphans=False).run()
    skipped = {g.table: g.skipped for g in done.compaction}
    assert skipped == {"requests": None, "impressions": "another run changed the segments meanwhile"}
    assert done.version == 3
    same_rows(ds.logs(), expected(spark, {1: 10, 2: 10}))
    assert not [t for table in ds.metadata().tables.values() for t in tags(table) if t.startswith("run-")]


@pytest.mark.slow
def test_maintenance_and_backfills_at_once(spark: SparkSession, ds: Dataset) -> None:
    """Three rounds in threads: every backfill is published, and maintenance loses no row."""
    changes = {1: 10}
    for turn in range(3):
        user = turn + 2

        def backfill(user: int = user) -> int:
            return ds.backfill(MORE, Affected(users=[user]), strategy=Strategy.MERGE_ON_READ, gate=False).version

        with ThreadPoolExecutor(2) as pool:
            kept, filled = pool.submit(ds.maintain, f"m{turn}"), pool.submit(backfill)
            assert filled.result() > 2
            kept.result()
        changes[user] = 10
        same_rows(ds.logs(), expected(spark, changes))


@pytest.mark.long
@pytest.mark.parametrize("few_files", [10_000, 0], ids=["here", "by Spark"])
def test_a_snapshot_that_is_named_meanwhile_stays(
    spark: SparkSession, ds: Dataset, monkeypatch: pytest.MonkeyPatch, few_files: int
) -> None:
    """Somebody names one of those that are to go after they were looked for: the others go, and their files."""
    monkeypatch.setattr(expire, "_FEW_FILES", few_files)
    place = f"{ds.settings.catalog.name}.{ds.name}.impressions"
    first = tags(ds.metadata().tables["impressions"])["v1"]
    for name in tags(ds.metadata().tables["impressions"]):
        if name not in ("v2", "main"):
            spark.sql(f"ALTER TABLE {place} DROP TAG `{name}`")
    table = ds.metadata().tables["impressions"]
    rows, current = ds.logs(2), tags(table)["v2"]
    folder = Path(table.location().removeprefix("file:")) / "metadata"
    before = {file.name for file in folder.glob("*.avro")}
    expire.Expiry(spark, ds.tables, ds.settings, ds.spec).remove_snapshots(table, [current, first])
    table = ds.metadata().tables["impressions"]
    assert [s.snapshot_id for s in table.metadata.snapshots] == [current]
    (kept,) = table.metadata.snapshots
    needed = {kept.manifest_list, *(m.manifest_path for m in kept.manifests(table.io))}
    assert {place.rpartition("/")[2] for place in needed} == {file.name for file in folder.glob("*.avro")} < before
    same_rows(rows, expected(spark, {1: 10}))

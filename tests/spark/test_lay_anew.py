"""Lists of many runs are laid anew by ``maintain``: the same lists of fewer runs, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Limits, Policy, fragments
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import ICEBERG_DAILY, frame, halves
from tests.spark.odd_lists import TYPES, bits, late_rows, odd_schema

Watch = Callable[[str, Callable[[], object]], None]
LISTS = ["seen", "paid", "words", "twice"]
SOME, ANY = Limits(runs_share=0.3), Limits(unreferenced_share=0)
BOTH = Limits(runs_share=0.3, unreferenced_share=0)
RUNS: dict[str, Any] = {
    "runs": True,
    "limits": SOME,
    "compact": False,
    "events": False,
    "expire": False,
    "orphans": False,
}


@pytest.fixture(params=["iceberg", "delta"])
def lake(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"format": request.param})


def log(spark: SparkSession, days: list[int], **options: Any) -> RawLog:
    return RawLog.from_frame(frame(spark, late_rows(days, **options), TYPES), odd_schema())


def fragmented(spark: SparkSession, lake: Settings) -> tuple[Dataset, RawLog]:
    """Two days and, after them, the one before; features of events and of requests: four versions. One at a time."""

    def build(name: str) -> Dataset:
        first = log(spark, [2, 3])
        ds = Dataset.create(spark, lake, name, first.schema, first, layout="user", epoch_grain="none")
        ds.write(first, gate=False)
        ds.write(log(spark, [1]), gate=False)
        ds.features.add("prices", {"twice": "seen * 2"}, grain="event", sequence="g", missing="null", gate=False)
        ds.features.add("sizes", {"size": "size(seen)"}, gate=False)
        return ds

    return restored(spark, lake, "lists of many runs", build), log(spark, [1, 2, 3])


def runs_of(ds: Dataset, column: str) -> dict[Any, list[tuple[int, int]] | None]:
    rows = ds.handle.cut().stored("requests").select("u", "r", column).collect()
    return {(u, r): None if runs is None else [tuple(run) for run in runs] for u, r, runs in rows}


def shown(ds: Dataset, version: int) -> dict[Any, str]:
    rows = ds.requests(version).select("u", "r", *LISTS).collect()
    return {(row["u"], row["r"]): repr([row[c] for c in LISTS]) for row in rows}


def delivered(ds: Dataset, version: int) -> dict[Any, str]:
    found = {}
    for batch in DedupDataset(ds.name, ds.settings, columns=LISTS, batch_size=20, version=version):
        lists = [batch[c].decode() for c in LISTS]
        keys = zip(batch["u"].decode(), batch["r"].decode(), strict=True)
        found |= {key: repr([own[row] for own in lists]) for row, key in enumerate(keys)}
    return found


def sound(ds: Dataset) -> bool:
    return all(check.passed for check in ds.check().checks if ".lists." in check.name)


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("iceberg"), indirect=["lake"])
def test_lists_are_the_same_of_fewer_runs(spark: SparkSession, lake: Settings, whole: bool) -> None:
    ds, days = fragmented(spark, lake)
    logged, before = bits(days.frame), {g: runs_of(ds, f"{g}_runs") for g in ("g", "words")}
    kept = shown(ds, 4)
    rows = {table: ds.handle.cut().stored(table).count() for table in ("events_g", "events_words", "fe0_prices")}

    planned = ds.maintain(dry_run=True, **RUNS)
    assert [v.version for v in ds.versions()] == [1, 2, 3, 4]
    done = ds.maintain("lay", **RUNS)
    assert [v.run_id for v in ds.versions()][4:] == ["lay-runs"]
    assert done.version == 5
    for one, asked in zip(done.runs, planned.runs, strict=True):
        assert one.model_copy(update={"event_bytes": 0}) == asked.model_copy(update={"event_bytes": 0})
        assert one.event_bytes > 0 < asked.event_bytes
        after = runs_of(ds, f"{one.group}_runs")
        there = before[one.group]
        assert {key for key, runs in after.items() if runs is None} == {k for k, runs in there.items() if runs is None}
        assert one.lists == sum(bool(runs) for runs in there.values())
        assert one.runs_before == sum(len(runs or []) for runs in there.values())
        assert one.runs_after == sum(len(runs or []) for runs in after.values()) < 0.7 * one.runs_before
        changed = {key for key, runs in after.items() if runs != there[key]}
        assert one.requests == len(changed) > 0 < one.users == len({user for user, _ in changed}) < 6
        assert ds.handle.cut().stored(f"events_{one.group}").count() == rows[f"events_{one.group}"] + one.events
    assert ds.handle.cut().stored("fe0_prices").count() == rows["fe0_prices"] + done.runs[0].events

    # Whatever is kept reads as before, in Spark and in the reader; features are what they were.
    assert bits(ds.logs(features=())) == bits(ds.logs(4, features=())) == logged
    assert shown(ds, 5) == shown(ds, 4) == delivered(ds, 5) == delivered(ds, 4) == kept
    assert sound(ds)
    assert ds.features.refresh("prices", gate=False).up_to_date
    assert ds.features.refresh("sizes", gate=False).up_to_date

    # The same run again does nothing; another finds nothing to gain.
    again = ds.maintain("lay", **RUNS)
    assert (again.version, again.runs) == (5, ())
    again = ds.maintain(**RUNS)
    assert (again.version, sum(one.requests for one in again.runs)) == (5, 0)
    assert [one.runs_before for one in again.runs] == [one.runs_after for one in done.runs]
    if not whole:
        return

    # Later days go on from the copies; what nothing refers to goes once the versions before do.
    four = log(spark, [4])
    ds.write(four, gate=False)
    ds.features.refresh("prices", gate=False)
    logged += bits(four.frame)
    assert bits(ds.logs(features=())) == logged
    after = shown(ds, 7)
    assert after == delivered(ds, 7)
    dropped = ds.maintain("drop", limits=ANY, policy=Policy(keep_versions=1, keep_days=0), orphans=False)
    gains = {gain.table: gain.unreferenced_rows_before - gain.unreferenced_rows_after for gain in dropped.compaction}
    assert gains["events_g"] == gains["fe0_prices"] > 0 < gains["events_words"]
    assert shown(ds, dropped.version) == delivered(ds, dropped.version) == after
    assert bits(ds.logs(features=())) == logged
    assert sound(ds)

    # Erased users are gone from the copies too.
    ds.forget_users(["user 0"])
    assert bits(ds.logs(features=())) == bits(log(spark, [1, 2, 3, 4]).frame.filter("u <> 'user 0'"))
    assert sound(ds)


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("delta"), indirect=["lake"])
def test_what_came_before_can_be_brought_back(spark: SparkSession, lake: Settings, whole: bool) -> None:
    ds, days = fragmented(spark, lake)
    before, kept = runs_of(ds, "g_runs"), shown(ds, 4)
    assert ds.maintain("lay", **RUNS).version == 5
    # A frame by the positions of before has no row of what lists are made of now: they would be null, in silence.
    older, newer = (
        ds.handle.cut(version).stored("events_g").selectExpr("u", "position", "seen", "seen * 3 AS thrice")
        for version in (4, 5)
    )
    given: dict[str, Any] = {"grain": "event", "sequence": "g", "missing": "null", "gate": False, "dry_run": True}
    for chosen in ("true", "seen = 77"):
        with pytest.raises(
            UsageError, match=r"positions of before version 5, which laid lists of .* anew: of \d of \d users? with"
        ):
            ds.features.add("thrice", older.filter(chosen).drop("seen"), **given)
        ds.features.add("thrice", newer.filter(chosen).drop("seen"), **given)
    with pytest.raises(UsageError, match="positions of before version 5"):
        ds.features.refresh("prices", older.selectExpr("u", "position", "thrice AS twice"), full=True, gate=False)
    ds.rollback(4)
    ds.features.add("thrice", older.drop("seen"), **given)
    assert runs_of(ds, "g_runs") == before
    ds.write(log(spark, [4]), gate=False)
    assert bits(ds.logs(features=())) == bits(days.frame) + bits(log(spark, [4]).frame)
    assert shown(ds, 5) == kept
    assert sound(ds)
    if not whole:
        return

    # All steps at once: what the copies were made of goes with the versions that name it.
    ds.features.refresh("prices", gate=False)
    logged, kept = bits(ds.logs(features=())), shown(ds, 8)
    done = ds.maintain("all", limits=BOTH, policy=Policy(keep_versions=1, keep_days=0), runs=True, orphans=False)
    assert [v.run_id for v in ds.versions()] == ["all"]
    assert (done.compacted, done.kept_versions) == (10, (10,))
    events = {gain.table: gain.unreferenced_rows_before for gain in done.compaction if gain.table.startswith("events_")}
    assert all(events[f"events_{one.group}"] >= one.events > 0 for one in done.runs)
    assert bits(ds.logs(features=())) == logged
    assert shown(ds, 10) == delivered(ds, 10) == kept
    assert sound(ds)


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("iceberg"), indirect=["lake"])
def test_events_that_come_meanwhile(spark: SparkSession, lake: Settings, at: Watch, whole: bool) -> None:
    """They have the positions that copies were to have: all is looked at again. Features read before are refused."""
    ds, days = fragmented(spark, lake)
    four, other = log(spark, [4]), Dataset.open(spark, lake, ds.name)

    def between() -> None:
        other.write(four, run_id="between", gate=False)
        other.features.refresh("prices", gate=False)

    at("maintain:anew-proved", between)
    done = ds.maintain("lay", **RUNS)
    assert [v.run_id for v in ds.versions()][4] == "between"
    assert [v.run_id for v in ds.versions()][-1] == "lay-runs"
    assert sum(one.requests for one in done.runs) > 0
    logged = bits(days.frame) + bits(four.frame)
    assert bits(ds.logs(features=())) == logged
    assert shown(ds, done.version) == delivered(ds, done.version)
    assert sound(ds)
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []

    # A feature that is dropped meanwhile stays dropped.
    ds.rollback(4)
    at("maintain:anew-proved", lambda: other.features.drop("prices", run_id="gone"))
    done = ds.maintain("without", **RUNS)
    assert [v.run_id for v in ds.versions()][-2:] == ["gone", "without-runs"]
    assert "fe0_prices" not in ds.handle.cut().snapshots
    assert bits(ds.logs(features=())) == bits(days.frame)
    # Its run id stands for what was asked, not for its name.
    with pytest.raises(UsageError, match="without-runs"):
        ds.maintain("without", **{**RUNS, "limits": Limits(runs_share=0.4)})
    if not whole:
        return

    # Of a feature that is computed meanwhile copies would have no row.
    ds.rollback(4)
    at("features:audited", lambda: other.maintain("late", **RUNS))
    with pytest.raises(ConflictError, match="laid anew meanwhile"):
        ds.features.add("more", {"thrice": "seen * 3"}, grain="event", sequence="g", missing="null", gate=False)
    assert [v.run_id for v in ds.versions()][-1] == "late-runs"
    assert bits(ds.logs(features=())) == bits(days.frame)


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("delta"), indirect=["lake"])
def test_a_write_that_meets_lists_laid_anew(spark: SparkSession, lake: Settings, at: Watch, whole: bool) -> None:
    """It is laid again, on the lists as they are then; nothing is laid where the same requests were rewritten first."""
    ds, days = fragmented(spark, lake)
    four, other = log(spark, [4]), Dataset.open(spark, lake, ds.name)
    at("write:staged", lambda: other.maintain("lay", **RUNS))
    ds.write(four, run_id="late", gate=False)
    assert [v.run_id for v in ds.versions()][-2:] == ["lay-runs", "late"]
    assert bits(ds.logs(features=())) == bits(days.frame) + bits(four.frame)
    assert sound(ds)
    if not whole:
        return
    older = Change(expressions={"age": "transform(age, a -> a + 1)"})
    # Another run that rewrites the same requests first: nothing is laid.
    ds.rollback(4)
    at("maintain:anew-proved", lambda: other.backfill(older, run_id="between", gate=False))
    done = ds.maintain("second", **RUNS)
    assert {one.skipped for one in done.runs} == {"another run changed the same segments of requests meanwhile"}
    assert all(one.runs_after == one.runs_before for one in done.runs)
    assert [v.run_id for v in ds.versions()][-1] == "between"
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_what_is_left_alone(spark: SparkSession, lake: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = log(spark, [1, 2])
    ds = Dataset.create(spark, lake, name, first.schema, first, layout="user", epoch_grain="none")
    ds.write(first, gate=False)
    ds.features.add("prices", {"twice": "seen * 2"}, grain="event", sequence="g", missing="null", gate=False)
    ds.write(log(spark, [3]), gate=False)
    # Events without a row of a feature are each user's last ones: copies of others may not stand between them.
    of_group = {one.group: one for one in ds.maintain(dry_run=True, **RUNS).runs}
    assert of_group["g"].skipped == "fe0_prices has no row of some events: refresh the features that it holds"
    assert (of_group["words"].skipped, of_group["words"].users > 0) == (None, True)
    # Where so many runs are to go, none does; of many users some are looked at first.
    for share in (0.95, 1.0):
        found = ds.maintain(dry_run=True, **{**RUNS, "limits": Limits(runs_share=share)}).runs
        assert [one.runs_after for one in found] == [one.runs_before for one in found]
    monkeypatch.setattr(fragments, "_DRAWN", 2)
    drawn = {one.group: one for one in ds.maintain(dry_run=True, **RUNS).runs}
    assert drawn["words"].users in {0, of_group["words"].users}
    ds.features.refresh("prices", gate=False)
    # A frame that brought rows twice, and no gate that looked at it: a plain refresh would not take them away.
    right = ds.handle.cut().stored("events_g").selectExpr("u", "position", "seen * 3 AS thrice")
    options: dict[str, Any] = {"grain": "event", "sequence": "g", "missing": "null", "gate": False}
    ds.features.add("often", right.union(right.filter("position = 0")), **options)
    of_group = {one.group: one for one in ds.maintain(dry_run=True, **RUNS).runs}
    told = of_group["g"].skipped
    assert told is not None
    assert "fe0_often has" in told
    assert "some are there twice" in told
    failed = {c.name: c.observed for c in ds.check().checks if c.name.startswith("features.") and not c.passed}
    assert failed == {"features.often.duplicate_keys": 6}
    ds.features.refresh("often", right, gate=False, full=True)
    assert {one.skipped for one in ds.maintain(dry_run=True, **RUNS).runs} == {None}
    # A run that died at work on the requests.
    ds.tables.branch(name, "requests", "dead").open(ds.metadata().snapshots(3)["requests"])
    version = ds.metadata().current
    done = ds.maintain(**RUNS)
    of_group = {one.group: one for one in done.runs}
    assert of_group["g"].skipped == "a run is at work on requests, on events or on features of them"
    assert done.version == version

"""Events that no kept version refers to are dropped by ``maintain``: whatever is kept reads as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Limits, Policy, compact
from dedup_storage.dataset.upkeep.unreferenced import Referenced, all_referenced, telling_versions
from dedup_storage.dedup.hashing import hash_column
from dedup_storage.reader import DedupDataset
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import DELTA_DAILY, ICEBERG_DAILY, frame, halves
from tests.spark.odd_lists import TYPES, bits, odd_rows, odd_schema

Watch = Callable[[str, Callable[[], object]], None]
Places = dict[str, set[int]]
ANY, TWO = Limits(unreferenced_share=0), Policy(keep_versions=2, keep_days=0)
LISTS = ["seen", "paid", "words"]


@pytest.fixture(params=["iceberg", "delta"])
def lake(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"format": request.param})


def log(spark: SparkSession, days: list[int], **options: Any) -> RawLog:
    return RawLog.from_frame(frame(spark, odd_rows(days, **options), TYPES), odd_schema())


def replaced(spark: SparkSession, lake: Settings) -> tuple[Dataset, DataFrame]:
    """Three days, features of their events, and the last two days replaced: three versions. And what is logged then.

    One at a time.
    """
    other = log(spark, [2, 3], seed=9, first=5000)

    def build(name: str) -> Dataset:
        first = log(spark, [1, 2, 3])
        grain = "month" if lake.format == "iceberg" else "none"
        ds = Dataset.create(spark, lake, name, first.schema, first, layout="user", epoch_grain=grain)
        ds.write(first, gate=False)
        ds.features.add("prices", {"twice": "seen * 2"}, grain="event", sequence="g", missing="null", gate=False)
        ds.write(other, mode="replace", gate=False)
        return ds

    return restored(spark, lake, "days of users replaced", build), log(spark, [1]).frame.unionByName(other.frame)


def named(ds: Dataset, runs: str) -> Places:
    """The positions that requests of kept versions name, user by user: the plain slow form."""
    found: Places = {}
    for version in ds.versions():
        for row in ds.handle.cut(version.version).stored("requests").select("u", runs).collect():
            for run in row[runs] or []:
                found.setdefault(row["u"], set()).update(range(run["start"], run["start"] + run["length"]))
    return found


def stored(ds: Dataset, table: str) -> Places:
    found: Places = {}
    rows = ds.handle.cut().stored(table).select("u", "position").collect()
    for row in rows:
        found.setdefault(row["u"], set()).add(row["position"])
    assert len(rows) == sum(map(len, found.values()))
    return found


def left(before: Places, referenced: Places) -> Places:
    """What stays: what is referred to, and each user's last event."""
    return {u: places & (referenced.get(u, set()) | {max(places)}) for u, places in before.items()}


def delivered(ds: Dataset, version: int, columns: list[str]) -> dict[Any, list[Any]]:
    found = {}
    for batch in DedupDataset(ds.name, ds.settings, columns=columns, batch_size=20, version=version):
        lists = [batch[c].decode() for c in columns]
        keys = zip(batch["u"].decode(), batch["r"].decode(), strict=True)
        found |= {key: repr([own[row] for own in lists]) for row, key in enumerate(keys)}
    return found


def shown(ds: Dataset, version: int, columns: list[str]) -> dict[Any, list[Any]]:
    rows = ds.requests(version).select("u", "r", *columns).collect()
    return {(row["u"], row["r"]): repr([row[c] for c in columns]) for row in rows}


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("iceberg"), indirect=["lake"])
def test_events_are_left_that_kept_versions_refer_to(spark: SparkSession, lake: Settings, whole: bool) -> None:
    ds, expected = replaced(spark, lake)
    groups = {"events_g": "g_runs", "events_words": "words_runs"}
    before = {table: stored(ds, table) for table in groups}
    features = stored(ds, "fe0_prices")

    # Version 1 is kept, and refers to all that there is.
    assert ds.maintain(limits=ANY, compact=False, orphans=False).compacted is None
    assert {table: stored(ds, table) for table in groups} == before

    # It goes with this run, so its events do.
    planned = ds.maintain(limits=ANY, policy=TWO, compact=False, dry_run=True)
    gone = {g.table: g.unreferenced_rows_before for g in planned.compaction}
    assert planned.expired_versions == (1, 2)
    assert {table: stored(ds, table) for table in groups} == before
    kept = shown(ds, 3, LISTS)
    done = ds.maintain("drop", limits=ANY, policy=TWO, compact=False)
    assert (done.compacted, done.expired_versions, done.kept_versions) == (4, (1, 2), (3, 4))
    for table, runs in groups.items():
        wanted = left(before[table], named(ds, runs))
        assert stored(ds, table) == wanted
        dropped = sum(map(len, before[table].values())) - sum(map(len, wanted.values()))
        assert gone[table] == dropped > 0
        gain = next(g for g in done.compaction if g.table == table)
        assert (gain.unreferenced_rows_before, gain.unreferenced_rows_after) == (dropped, 0)
        assert gain.bytes_after < gain.bytes_before
    there = stored(ds, "events_g")
    assert stored(ds, "fe0_prices") == {u: places & there[u] for u, places in features.items()}

    # Both versions read as before, in Spark and in the reader; so does the report.
    for version in (3, 4):
        assert bits(ds.logs(version, features=())) == bits(expected)
        assert shown(ds, version, LISTS) == delivered(ds, version, LISTS) == kept
    files = dataset_files(ds.settings, ds.name)
    drawn = draw_dataset(files, {t.name: read_totals(t) for t in files.tables}).requests
    logged = ds.requests().select("u", "r", *LISTS).sort("u", "r").toArrow()
    assert all((hash_column(drawn[c], bits=True) == hash_column(logged[c], bits=True)).all() for c in LISTS)
    checks = {c.name: c.passed for c in ds.check().checks}
    assert checks["dataset.lists.g"]
    assert checks["dataset.lists.words"]

    # The same run again does nothing; another finds nothing.
    assert ds.maintain("drop", limits=ANY, policy=TWO, compact=False).already_published
    assert ds.maintain(limits=ANY, policy=TWO, compact=False).compacted is None
    if not whole:
        return

    # Later days go on from what is left, and take no position that was one's already; features do.
    ends = {table: {u: max(places) for u, places in users.items()} for table, users in before.items()}
    three = log(spark, [3], seed=9, first=9000)
    ds.write(three, gate=False)
    whole = expected.unionByName(three.frame)
    assert bits(ds.logs(features=())) == bits(whole)
    assert shown(ds, 5, LISTS) == delivered(ds, 5, LISTS)
    for table in groups:
        new = {u: places - before[table].get(u, set()) for u, places in stored(ds, table).items()}
        assert all(place > ends[table].get(u, -1) for u, places in new.items() for place in places)
    ds.features.refresh("prices", gate=False)
    doubled = shown(ds, 6, ["twice"])
    runs = ds.handle.cut().stored("requests").filter("g_runs IS NOT NULL").select("u", "r").collect()
    seen = {(row["u"], row["r"]): row["seen"] for row in ds.requests().select("u", "r", "seen").collect()}
    for key in ((row["u"], row["r"]) for row in runs):
        assert doubled[key] == repr([[None if v is None else 2 * v for v in seen[key]]])
    assert doubled == delivered(ds, 6, ["twice"])
    assert all(c.passed for c in ds.check().checks if ".lists." in c.name)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_requests_that_come_meanwhile_keep_their_events(
    spark: SparkSession, lake: Settings, at: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replaced days come back while their events are taken out: it is looked again which are referred to."""
    ds, expected = replaced(spark, lake)
    more, swap, rewritten = log(spark, [3], seed=9, first=9000), compact.swap_rows, []
    ds.write(more, gate=False)
    expected = expected.unionByName(more.frame)

    def swapped(*given: Any) -> None:
        rewritten.append(given[5].table)
        swap(*given)

    monkeypatch.setattr(compact, "swap_rows", swapped)
    again, other = log(spark, [2], first=7000), Dataset.open(spark, lake, ds.name)
    before = stored(ds, "events_g")
    at("maintain:rewritten", lambda: other.write(again, run_id="between", gate=False))
    done = ds.maintain("drop", limits=ANY, policy=Policy(keep_versions=1, keep_days=0))
    assert [v.run_id for v in ds.versions()][-1] == "drop"
    assert bits(ds.logs(features=())) == bits(expected.unionByName(again.frame))
    assert done.kept_versions == (6,)
    # Of all tables those of events alone were begun anew.
    counts = Counter(rewritten)
    assert {table: counts[table] for table in ("requests", "impressions", "events_g")} == {
        "requests": 1, "impressions": 1, "events_g": 2,
    }  # fmt: skip
    for table in ("requests", "impressions"):
        gain = next(g for g in done.compaction if g.table == table)
        assert gain.overlapping_files_before > 0
        assert not gain.skipped
    both = {u: before[u] | places for u, places in stored(ds, "events_g").items()}
    assert stored(ds, "events_g") == left(both, named(ds, "g_runs"))
    assert all(c.passed for c in ds.check().checks if ".lists." in c.name)
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []


@pytest.mark.long
@pytest.mark.parametrize("lake", DELTA_DAILY, indirect=True)
def test_a_write_that_meets_dropped_events_is_laid_again(spark: SparkSession, lake: Settings, at: Watch) -> None:
    """Its requests stood in events that are gone by the time it publishes."""
    ds, expected = replaced(spark, lake)
    again, other = log(spark, [2], first=7000), Dataset.open(spark, lake, ds.name)
    policy = Policy(keep_versions=1, keep_days=0)
    at("write:staged", lambda: other.maintain("drop", limits=ANY, policy=policy, orphans=False))
    ds.write(again, run_id="late", gate=False)
    assert [v.run_id for v in ds.versions()] == ["drop", "late"]
    assert bits(ds.logs(features=())) == bits(expected.unionByName(again.frame))
    assert all(c.passed for c in ds.check().checks if ".lists." in c.name)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_what_a_pinned_version_needs_stays_and_what_is_below_the_limit(
    spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, expected = replaced(spark, lake)
    ds.pin(1, "paper")
    before, first = stored(ds, "events_g"), bits(ds.logs(1))
    policy = Policy(keep_versions=1, keep_days=0)
    done = ds.maintain(limits=ANY, policy=policy, compact=False)
    assert (done.compacted, done.kept_versions) == (None, (1, 3))
    assert bits(ds.logs(1)) == first
    ds.unpin("paper")
    # Fewer events than this share of all are not worth a rewrite.
    assert ds.maintain(limits=Limits(unreferenced_share=0.99), policy=policy, compact=False).compacted is None
    assert stored(ds, "events_g") == before
    # A run that died at work on the events: they stay, and so do their features, which a later log may ask for.
    features, words = stored(ds, "fe0_prices"), stored(ds, "events_words")
    ds.tables.branch(ds.name, "events_g", "dead").open(ds.metadata().snapshots(3)["events_g"])
    looked, look = [], Referenced.unreferenced
    monkeypatch.setattr(Referenced, "unreferenced", lambda self, table: looked.append(table) or look(self, table))
    done = ds.maintain(limits=ANY, policy=policy, compact=False)
    assert looked == ["events_words"]
    gains = {g.table: g for g in done.compaction}
    assert gains["events_g"].skipped == "a run is at work on the table"
    assert (stored(ds, "events_g"), stored(ds, "fe0_prices")) == (before, features)
    assert stored(ds, "events_words") == left(words, named(ds, "words_runs")) != words
    assert bits(ds.logs(features=())) == bits(expected)


def test_versions_that_tell_what_all_refer_to() -> None:
    """Only where requests may have gone must an older version be read as well."""

    facts: dict[int, dict[str, str]] = {
        1: {"mode": "append"}, 2: {"mode": "append"}, 3: {"mode": "replace"}, 5: {"mode": "maintain"},
        6: {"tables": "fe0_a,impressions"}, 7: {"mode": "backfill", "segments": "requests=*"}, 8: {},
    }  # fmt: skip
    spec = SimpleNamespace(anchor=SimpleNamespace(name="requests"))
    meta: Any = SimpleNamespace(abandoned={4: True}, current=8, spec=spec, claim=facts.__getitem__)
    assert telling_versions(meta, [1, 2, 3, 5, 6]) == [2, 6, 8]
    assert telling_versions(meta, [3, 5]) == [5, 8]
    assert telling_versions(meta, [8]) == [8]
    # Before the first version there was nothing to take away; what one did of which nothing is known, may have.
    for current, expected in ((1, True), (2, True), (3, False), (8, False)):
        meta.current = current
        assert all_referenced(meta) is expected
    facts[3] = facts[8] = {"mode": "append"}
    facts[7] = facts[1] = {}
    assert not all_referenced(meta)
    facts[7] = {"mode": "backfill", "segments": "impressions=*"}
    assert all_referenced(meta)

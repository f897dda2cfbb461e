"""Publications on a REST catalog: all tables by one commit where it offers that, and what else may happen to them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError, StorageError
from dedup_storage.lake.engine.iceberg import load_table
from dedup_storage.lake.iceberg.admin import open_admin
from dedup_storage.lake.iceberg.commit import TableChange, commit_change
from dedup_storage.lake.iceberg.metadata import Lake, tags
from dedup_storage.lake.iceberg.one_commit import ONE_COMMIT, OneCommit
from dedup_storage.lake.iceberg.publish import Publisher
from dedup_storage.lake.iceberg.scratch import drop_left
from dedup_storage.lake.session import get_spark
from tests.rest_catalog import RestCatalog
from tests.spark.backfilling import build, log
from tests.spark.conftest import Serve
from tests.spark.helpers import multiset

pytestmark = pytest.mark.crash

# Of an append to two tables, and of its publication alone; docs/operations.md shows them.
ROUND_TRIPS = {
    False: {
        "write": {"config": 1, "load": 38, "commit": 7, "list": 5},
        "publication": {"load": 17, "commit": 3, "list": 4},
    },
    True: {
        "write": {"config": 1, "load": 36, "commit": 5, "transaction": 1, "list": 5},
        "publication": {"load": 15, "commit": 1, "transaction": 1, "list": 4},
    },
}
TOGETHER = "publish:before-one-commit"
At = Callable[[str, Callable[[], object]], None]


class Killed(BaseException):
    """What a run that is killed does not come back from."""


def kill() -> None:
    raise Killed


def served(serve: Serve, name: str, **flaws: Any) -> tuple[RestCatalog, Dataset]:
    """A catalog, and a dataset with version 1 in it."""
    server, lake = serve(**flaws)
    return server, build(get_spark(lake), lake, name)


def write(ds: Dataset, number: int, **more: Any) -> int:
    """Write a day with requests of its own; the run's id names it."""
    raw = log(ds.spark, [number], 100 * number)
    return ds.write(raw, run_id=f"day-{number}", gate=False, **more).version


def holds(ds: Dataset, days: list[int]) -> None:
    """Each of the days is there once, beside the two of ``build``, and all of the version is as it was published."""
    expected = multiset(log(ds.spark, [1, 2]).frame)
    for number in days:
        expected += multiset(log(ds.spark, [number], 100 * number).frame)
    assert multiset(ds.logs()) == expected
    assert ds.check().passed
    assert ds.publication.status().runs == ()


def mains(server: RestCatalog, name: str) -> list[tuple[int | None, ...]]:
    """What main has been in all tables, in order: what another engine could see."""
    seen = [tuple(state[name, table] for table in ("requests", "impressions")) for state in server.mains]
    return [state for state, former in zip(seen[1:], seen, strict=False) if state != former]


@pytest.mark.parametrize("transactions", [False, True])
def test_round_trips_and_what_other_engines_see(
    spark: SparkSession, serve: Serve, name: str, monkeypatch: pytest.MonkeyPatch, transactions: bool
) -> None:
    server, ds = served(serve, name, transactions=transactions)
    publish, published = Publisher.publish, Counter[str]()

    def counted(*given: Any, **named: Any) -> int:
        before = server.asked.copy()
        version = publish(*given, **named)
        published.update(server.asked - before)
        return version

    monkeypatch.setattr(Publisher, "publish", counted)
    before = server.asked.copy()
    server.mains.clear()
    assert write(ds, 3) == 2
    assert {"write": dict(server.asked - before), "publication": dict(published)} == ROUND_TRIPS[transactions]
    holds(ds, [3])
    ds.rollback(1)
    holds(ds, [])
    whole = [tuple(ds.metadata().snapshots(v)[t] for t in ("requests", "impressions")) for v in (2, 3)]
    if transactions:
        assert mains(server, name) == whole
    else:
        # Table after table: main of each is a version's, and for a moment not the same one's.
        assert [state for state in mains(server, name) if state in whole] == whole
        assert len(mains(server, name)) == 2 * len(whole)


@pytest.mark.parametrize("transactions", [False, True])
def test_another_number_of_buckets_comes_with_the_rows_that_lie_in_it(
    spark: SparkSession, serve: Serve, name: str, at: At, transactions: bool
) -> None:
    server, ds = served(serve, name, transactions=transactions)

    def buckets() -> dict[str, str]:
        """Table -> the buckets that its default partitions have on the server."""
        found = {}
        for (_, table), metadata in server.tables.items():
            (own,) = (s for s in metadata["partition-specs"] if s["spec-id"] == metadata["default-spec-id"])
            found[table] = own["fields"][-1]["transform"]
        return found

    before = dict.fromkeys(("requests", "impressions"), f"bucket[{ds.spec.buckets}]")
    assert buckets() == before
    at("publish:after-claim", kill)
    with pytest.raises(Killed):
        ds.rebucket(7, "to-7")
    # Beside the default ones so far, where nothing is written.
    assert buckets() == before
    assert ds.rebucket(7, "to-7").version == 2
    assert buckets() == dict.fromkeys(before, "bucket[7]")
    holds(ds, [])
    assert write(ds, 3) == 3
    holds(ds, [3])


def test_whatever_becomes_of_the_commit_the_version_is_there_once(
    spark: SparkSession, serve: Serve, name: str, at: At, caplog: pytest.LogCaptureFixture
) -> None:
    server, ds = served(serve, name, transactions=True)
    # Killed before it, and completed by the next run; killed after it, and found.
    for number, point in ((3, TOGETHER), (4, "publish:after-tag-requests")):
        at(point, kill)
        with pytest.raises(Killed):
            write(ds, number)
        assert [v.version for v in ds.versions()] == list(range(1, 2 if point == TOGETHER else 4))
        assert write(ds, number) == number - 1

    # The catalog made it and did not say so; did not make it and said as little.
    for number, flaw in ((5, "unanswered"), (6, "overloaded")):
        at(TOGETHER, lambda flaw=flaw: setattr(server, flaw, 1))  # type: ignore[misc]
        assert write(ds, number) == number - 1

    # It refuses what it offers: table after table from then on, and it is not asked again.
    server.refuses_transactions = True
    asked = server.asked["transaction"]
    with caplog.at_level(logging.WARNING):
        assert (write(ds, 7), write(ds, 8)) == (6, 7)
    assert server.asked["transaction"] == asked + 1
    assert [r.message for r in caplog.records if "refused one: Malformed request: one table at a time" in r.message]
    assert OneCommit(ds.spark, ds.settings, Lake(ds.settings)).trial(name) == "declined"
    holds(ds, [3, 4, 5, 6, 7, 8])
    assert [v.version for v in ds.versions()] == list(range(1, 8))


def test_a_catalog_that_loses_a_part_of_such_a_commit_is_found_out(
    spark: SparkSession, serve: Serve, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As Iceberg's own server does: a soak found a version on it that lacked a table."""
    with caplog.at_level(logging.WARNING):
        server, ds = served(serve, name, transactions=True, lossy=True)
    assert [r.message for r in caplog.records if "lost a part of one that it said it had made" in r.message]
    assert server.asked["transaction"] == 1
    assert write(ds, 3) == 2
    assert server.asked["transaction"] == 1
    # As the doctor tries it: two tables go together there, and two changes of one do not.
    assert OneCommit(ds.spark, ds.settings, Lake(ds.settings)).trial(name) == "lossy"
    assert {table for _, table in server.tables} == {"requests", "impressions"}
    holds(ds, [3])


def test_a_trial_that_tells_nothing_stands_in_no_way_and_is_made_again(
    spark: SparkSession, serve: Serve, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, ds = served(serve, name, transactions=True)
    properties = server.tables[name, "requests"]["properties"]
    (noted,) = [key for key in properties if key.startswith(ONE_COMMIT)]
    # What was found of another catalog, before the tables were registered in this one, says nothing of it.
    properties[f"{ONE_COMMIT}another"] = properties.pop(noted)

    def tried() -> str | None:
        """As another process does; gives what is noted then."""
        lake = Lake(ds.settings)
        found = OneCommit(ds.spark, ds.settings, lake).usable(lake.load(name))
        note: str | None = server.tables[name, "requests"]["properties"].get(noted)
        assert found == (note == "whole")
        return note

    server.refuses_tables = True
    with caplog.at_level(logging.WARNING):
        assert write(ds, 3) == 2
        holds(ds, [3])
        server.refuses_tables, server.transaction_error = False, (500, "InternalServerError")
        assert tried() is None
        assert len([r for r in caplog.records if "cannot be tried: " in r.message]) == 2
        # It cannot be taken away again: passed over until somebody may.
        server.transaction_error, server.keeps_tables, server.lossy = None, True, True
        assert tried() == "lossy"
    (left,) = {table for _, table in server.tables} - {"requests", "impressions"}
    assert [r for r in caplog.records if left in r.message and "cannot be dropped" in r.message]
    assert ds.metadata().tables.keys() == {"requests", "impressions"}
    server.keeps_tables = False
    server.tables[name, f"{left}_old"] = {**server.tables[name, left], "last-updated-ms": 0}
    server.places[name, f"{left}_old"] = server.places[name, left]
    drop_left(ds.spark, ds.settings, Lake(ds.settings).catalog, name, before_ms=1)
    assert {table for _, table in server.tables} == {"requests", "impressions", left}
    open_admin(ds.settings).drop(name, force=True)
    assert (server.tables, server.namespaces) == ({}, {})


@pytest.mark.parametrize("lost", ["impressions", "requests"])
def test_what_a_trusted_catalog_loses_is_brought_in_at_once(
    spark: SparkSession, serve: Serve, name: str, at: At, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    server, ds = served(serve, name, transactions=True)
    at(TOGETHER, lambda: setattr(server, "loses", lost))
    with caplog.at_level(logging.WARNING):
        assert write(ds, 3) == 2
    assert [r.message for r in caplog.records if f"it had made ({lost})" in r.message]
    assert ds.metadata().snapshots(2).keys() == {"requests", "impressions"}
    asked = server.asked["transaction"]
    assert write(Dataset.open(ds.spark, ds.settings, name), 4) == 3
    assert server.asked["transaction"] == asked
    holds(ds, [3, 4])


def test_a_number_that_is_stale_is_a_lost_race_and_an_unclear_answer_ends_in_table_after_table(
    spark: SparkSession, serve: Serve, name: str, at: At, caplog: pytest.LogCaptureFixture
) -> None:
    server, ds = served(serve, name, transactions=True, stale=(400, "BadRequestException"))
    asked = server.asked["transaction"]

    def stage(tables: list[str]) -> None:
        server.before_commit = None
        load_table(ds.spark, f"{ds.settings.catalog.name}.{name}.impressions").mark({"somebody": "else"})

    def come_first() -> None:
        """Another run publishes, so that what this one staged is picked as a new snapshot; then one stages too."""
        assert write(Dataset.open(ds.spark, ds.settings, name), 4) == 2
        at(TOGETHER, lambda: setattr(server, "before_commit", stage))

    at("publish:before-claim", come_first)
    with caplog.at_level(logging.WARNING):
        assert write(ds, 3) == 3
    assert server.asked["transaction"] == asked + 3
    assert not [r.message for r in caplog.records if "several tables" in r.message]
    server.transaction_error = (400, "IllegalArgumentException")
    assert write(ds, 5) == 4
    holds(ds, [3, 4, 5])


@pytest.mark.parametrize("transactions", [False, True])
def test_a_replacement_that_fits_no_longer_is_refused_by_name(
    spark: SparkSession, serve: Serve, name: str, at: At, transactions: bool
) -> None:
    """Another tool commits between the look at the tables and the commit."""
    _, ds = served(serve, name, transactions=transactions)
    table = f"{ds.settings.catalog.name}.{name}.impressions"
    at("publish:after-claim", lambda: ds.spark.table(table).limit(1).writeTo(table).append())
    with pytest.raises(ConflictError, match=r"version 2 .* staged in impressions cannot be brought in.*abandoned"):
        write(ds, 2, mode="replace")
    assert [v.version for v in ds.versions()] == [1]
    assert ds.publication.status().pending is None


@pytest.mark.parametrize("transactions", [False, True])
def test_a_version_that_is_given_up_meanwhile_is_not_completed(
    spark: SparkSession, serve: Serve, name: str, at: At, transactions: bool
) -> None:
    """A REST catalog compares only references that a commit sets: of the two commits one is refused all the same."""
    server, ds = served(serve, name, transactions=transactions)

    def give_up(tables: list[str]) -> None:
        if "requests" in tables:
            server.before_commit = None
            ds.publication.abandon(2)

    def arrange() -> None:
        server.before_commit = give_up

    at(TOGETHER if transactions else "publish:after-pick-impressions", arrange)
    with pytest.raises(ConflictError, match=r"version 2 .* was abandoned"):
        write(ds, 3)
    assert [v.version for v in ds.versions()] == [1]
    holds(ds, [])
    assert write(ds, 3) == 3
    holds(ds, [3])


def test_a_version_that_is_pinned_while_it_expires_stays(spark: SparkSession, serve: Serve, name: str, at: At) -> None:
    server, ds = served(serve, name)
    write(ds, 3)

    def pin(tables: list[str]) -> None:
        server.before_commit = None
        ds.pin(1, "kept")

    at("maintain:remembered", lambda: setattr(server, "before_commit", pin))
    ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False)
    assert [(v.version, v.pins) for v in ds.versions()] == [(1, ("kept",)), (2, ())]
    assert multiset(ds.logs(1)) == multiset(log(spark, [1, 2]).frame)


def test_a_claim_looks_at_what_came_just_before_it(spark: SparkSession, serve: Serve, name: str, at: At) -> None:
    """Between its look and its commit: another run decides the version and gives it up; then the run is given up."""
    server, ds = served(serve, name)

    def before_claim(action: Callable[[], object]) -> None:
        def once(tables: list[str]) -> None:
            server.before_commit = None
            action()

        def arrange() -> None:
            server.before_commit = once

        at("publish:before-claim", arrange)

    def decide_and_give_up() -> None:
        catalog = Lake(ds.settings).catalog
        anchor = catalog.load_table((name, "requests"))
        commit_change(catalog, anchor, TableChange(tags={"claim-v2": tags(anchor)["v1"]}))
        ds.publication.abandon(2)

    before_claim(decide_and_give_up)
    assert write(ds, 3) == 3
    assert "claim-v2" not in tags(ds.metadata().anchor)
    assert [v.version for v in ds.versions()] == [1, 3]
    before_claim(lambda: ds.publication.abandon_run("day-4"))
    with pytest.raises(StorageError, match="day-4"):
        write(ds, 4)
    assert ds.publication.status().pending is None
    holds(ds, [3])

"""Versions: published together, read as of, rolled back, pinned, by many writers at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyspark.sql import SparkSession

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError, ForeignCommitError, VersionNotFoundError
from tests.contract.conftest import MakeLog
from tests.spark.helpers import same_rows


@pytest.fixture(params=["iceberg", "delta"])
def table_format(request: pytest.FixtureRequest) -> str:
    """Both formats in the default suite: no other one shows this on Iceberg."""
    return str(request.param)


def test_every_version_stays_readable(two_days: Dataset, make_log: MakeLog) -> None:
    ds = two_days
    ds.write(make_log([1], 200), run_id="day-1-again", mode="replace", gate=False)
    first, second, third = make_log([1]).frame, make_log([2], 100).frame, make_log([1], 200).frame
    same_rows(ds.logs(1), first)
    same_rows(ds.logs(2), first.unionByName(second))
    same_rows(ds.logs(), second.unionByName(third))
    found = ds.versions()
    assert [(v.version, v.run_id, v.job, v.parent) for v in found] == [
        (1, "day-1", "write", 0),
        (2, "day-2", "write", 1),
        (3, "day-1-again", "write", 2),
    ]
    assert [v.rows for v in found] == [{"requests": n, "impressions": 3 * n} for n in (5, 10, 10)]
    assert all(v.created_ms > 0 for v in found)


@pytest.mark.long
def test_rollback_is_a_new_version_and_later_writes_build_on_it(two_days: Dataset, make_log: MakeLog) -> None:
    ds = two_days
    info = ds.rollback(1, run_id="undo")
    assert (info.version, info.job, info.parent) == (3, "rollback", 1)
    same_rows(ds.logs(), make_log([1]).frame)
    same_rows(ds.logs(2), make_log([1]).frame.unionByName(make_log([2], 100).frame))
    # The undone run is no part of today's content, so it may be done again; its id is not spent.
    assert not ds.write(make_log([2], 100), run_id="day-2", gate=False).already_published
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([2], 100).frame))
    assert ds.rollback(1, run_id="undo").version == 3
    assert ds.rollback(1, run_id="undo-again").version == 5


def test_a_version_that_does_not_exist(standing: Dataset) -> None:
    with pytest.raises(VersionNotFoundError, match="no version 7; expected 1 to 1"):
        standing.logs(7)
    with pytest.raises(VersionNotFoundError):
        standing.rollback(7)


def test_a_pin_names_the_version_for_good(standing: Dataset) -> None:
    ds = standing
    pinned = ds.pin(1, "paper")
    assert pinned["version"] == 1
    assert set(pinned["snapshots"]) == {"requests", "impressions"}
    assert ds.versions()[0].pins == ("paper",)
    assert ds.pin(1, "paper") == pinned
    ds.unpin("paper")
    assert ds.versions()[0].pins == ()
    with pytest.raises(VersionNotFoundError, match="pinned as paper"):
        ds.unpin("paper")


@pytest.mark.slow
def test_parallel_appends_all_succeed(ds: Dataset, make_log: MakeLog) -> None:
    def append(i: int) -> int:
        return ds.write(make_log([1 + i % 3], 1000 + 10 * i), run_id=f"run-{i}", gate=False).version

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(append, range(8)))
    assert sorted(versions) == list(range(2, 10))
    expected = make_log([1]).frame
    for i in range(8):
        expected = expected.unionByName(make_log([1 + i % 3], 1000 + 10 * i).frame)
    same_rows(ds.logs(), expected)


@pytest.mark.long
def test_two_replacements_of_one_day_cannot_both_win(
    spark: SparkSession, ds: Dataset, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second began before the first was published, and touches what it replaced."""
    from dedup_storage.dataset.write import writer as module

    def published_meanwhile(point: str) -> None:
        if point == "write:staged":
            monkeypatch.setattr(module, "reached", lambda _: None)
            ds.write(make_log([1], 300), run_id="faster", mode="replace", gate=False)

    monkeypatch.setattr(module, "reached", published_meanwhile)
    with pytest.raises(ConflictError, match="changed event dates"):
        ds.write(make_log([1], 400), run_id="slower", mode="replace", gate=False)
    same_rows(ds.logs(), make_log([1], 300).frame)
    assert [v.run_id for v in ds.versions()] == ["day-1", "faster"]


@pytest.mark.slow
def test_a_commit_from_elsewhere_is_noticed(
    spark: SparkSession, lake: Settings, ds: Dataset, make_log: MakeLog
) -> None:
    if lake.format == "delta":
        spark.sql(f"DELETE FROM delta.`{lake.warehouse_uri}/{ds.name}/requests` WHERE request_id = 0")
    else:
        spark.sql(f"DELETE FROM {lake.catalog.name}.{ds.name}.requests WHERE request_id = 0")
    same_rows(ds.logs(), make_log([1]).frame)
    with pytest.raises(ForeignCommitError, match="changed outside the toolkit"):
        ds.write(make_log([2], 100), gate=False)
    ds.rollback(1)
    ds.write(make_log([2], 100), gate=False)
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([2], 100).frame))


@pytest.mark.crash
def test_a_version_is_brought_back_while_maintenance_expires_it(
    ds: Dataset, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback is whole before the version expires, or refused after it; its rows stay when it is no newest one."""
    ds.write(make_log([1], 100), mode="replace", gate=False)
    policy = Policy(keep_versions=1, keep_days=0)

    def once(point: str, action: Callable[[], object]) -> None:
        def watch(reached: str) -> None:
            if reached == point:
                monkeypatch.setattr(faults, "watcher", None)
                action()

        monkeypatch.setattr(faults, "watcher", watch)

    def bring_back() -> None:
        ds.rollback(1)
        ds.write(make_log([1], 200), mode="replace", gate=False)

    once("maintain:remembered", bring_back)
    assert ds.maintain(policy=policy, compact=False).expired_versions == (1,)
    assert [v.version for v in ds.versions()] == [2, 3, 4]
    same_rows(ds.logs(3), make_log([1]).frame)
    same_rows(ds.logs(), make_log([1], 200).frame)
    once("publish:before-claim", lambda: ds.maintain(policy=policy, compact=False))
    if ds.tables.name == "delta":
        with pytest.raises(VersionNotFoundError, match=r"version 2 .* expired while it was brought back"):
            ds.rollback(2)
        expected = make_log([1], 200).frame
    else:
        # A rollback holds what it brings back from the start.
        ds.rollback(2)
        expected = make_log([1], 100).frame
    ds.write(make_log([2], 300), gate=False)
    same_rows(ds.logs(), expected.unionByName(make_log([2], 300).frame))


@pytest.mark.long
def test_a_pin_while_maintenance_expires_its_version(two_days: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = two_days
    before, policy = ds.logs(1).collect(), Policy(keep_versions=1, keep_days=0)
    done: list[str] = []

    def pin(point: str) -> None:
        if point == "maintain:remembered" and not done:
            done.append(point)
            assert ds.pin(1, "golden")["version"] == 1

    monkeypatch.setattr(faults, "watcher", pin)
    summary = ds.maintain(policy=policy, compact=False)
    assert (done, summary.expired_versions) == (["maintain:remembered"], ())
    assert [(v.version, v.pins) for v in ds.versions()] == [(1, ("golden",)), (2, ())]
    assert sorted(ds.logs(1).collect()) == sorted(before)
    ds.unpin("golden")

    def expire(point: str) -> None:
        if point in ("pin:tagged", "pin:looked") and len(done) == 1:
            done.append(point)
            if ds.tables.name == "delta":
                ds.maintain(policy=policy, compact=False)
            else:
                # What expiry does first, had it looked before the anchor was tagged.
                ds.tables.untag(ds.name, ds.spec.anchor.name, "v1")

    monkeypatch.setattr(faults, "watcher", expire)
    with pytest.raises(VersionNotFoundError, match=r"version 1 .* expired while it was pinned"):
        ds.pin(1, "golden")
    monkeypatch.setattr(faults, "watcher", None)
    assert (len(done), [(v.version, v.pins) for v in ds.versions()]) == (2, [(2, ())])
    if ds.tables.name == "iceberg":
        # Left by releases that answered with a void pin: maintenance removes it, and what it held.
        held = ds.metadata().tables["requests"].metadata.refs["v2"].snapshot_id
        ds.tables.tag(ds.name, "requests", "pin-v1-golden", held)
        ds.maintain(policy=policy, compact=False)
        assert set(ds.metadata().tables["requests"].metadata.refs) == {"main", "v2", "claim-v2"}

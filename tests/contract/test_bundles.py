"""Feature groups in one table: read, refreshed, backfilled, dropped, erased and rolled back as if each had its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import UsageError
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import Grain
from tests.contract.conftest import MakeLog
from tests.spark.helpers import DELTA_DAILY, halves, multiset, same_rows

GROUPS = {
    "size": ("request", {"n": "size(hist)"}),
    "place": ("request", {"place": "upper(country)"}),
    "seen": ("impression", {"seen": "array_contains(hist, item)"}),
    "double": ("impression", {"twice": "item * 2"}),
}


def plain(ds: Dataset) -> DataFrame:
    """The log with the columns of all groups, computed without any."""
    made = {column: text for _, columns in GROUPS.values() for column, text in columns.items()}
    made = {name: made[name] for name in ("twice", "place", "seen", "n")}
    return ds.logs(features=()).withColumns({c: F.expr(text) for c, text in made.items()})


def delivered(ds: Dataset, columns: tuple[str, ...] = ("twice", "place", "seen", "n")) -> Counter[Any]:
    """What the reader gives, as rows of the log."""
    found: Counter[Any] = Counter()
    for batch in DedupDataset(ds.name, ds.settings, columns=["item", *columns], batch_size=4):
        decoded = {c: batch[c].decode() for c in ("user_id", "request_id", "item", *columns)}
        of_request = [batch.grains[c] is Grain.REQUEST for c in decoded]
        for row, owner in enumerate(batch.inverse_indices.tolist()):
            places = (owner if wide else row for wide in of_request)
            found[tuple(values[place] for values, place in zip(decoded.values(), places, strict=True))] += 1
    return found


def rows_of(frame: DataFrame, columns: tuple[str, ...] = ("twice", "place", "seen", "n")) -> Counter[Any]:
    return Counter(tuple(row) for row in frame.select("user_id", "request_id", "item", *columns).collect())


def joins(frame: DataFrame) -> int:
    return str(frame._jdf.queryExecution().analyzed().toString()).count("Join LeftOuter")


def with_groups(ds: Dataset) -> None:
    for name, (grain, columns) in GROUPS.items():
        ds.features.add(name, columns, grain=grain, gate=False)


@pytest.mark.long
@pytest.mark.parametrize(("table_format", "whole"), halves("iceberg"), indirect=["table_format"])
def test_bundled_groups_are_read_and_kept_as_before(
    lake: Settings, ds: Dataset, make_log: MakeLog, whole: bool
) -> None:
    with_groups(ds)
    ds.features.add("next", {"next": "n + 1"}, uses=["size"], gate=False)
    before, alone = multiset(ds.logs()), ds.metadata().current
    own = ds.metadata().snapshots(alone)
    # Three groups beside a list are joined to the keys, and these to the rows.
    assert (joins(ds.requests()), joins(ds.impressions())) == (4, 2)

    plan = ds.features.plan_bundle("wide", ["size", "place"])
    assert (plan.rows, plan.joins, plan.joins_after, plan.columns) == (5, 2, 1, ("place", "n"))
    made = ds.features.bundle("wide", ["size", "place"], run_id="wide")
    assert (made.groups, made.rows, made.table) == (("place", "size"), 5, "fb_wide")
    assert ds.features.bundle("wide", ["size", "place"], run_id="wide").already_published
    ds.features.bundle("narrow", ["seen", "double"])
    assert multiset(ds.logs()) == multiset(ds.logs(alone)) == before
    assert (joins(ds.requests()), joins(ds.impressions())) == (2, 1)
    assert delivered(ds) == rows_of(plain(ds))
    after = ds.metadata().snapshots(ds.metadata().current)
    assert after["impressions"] == own["impressions"]
    assert all(ds.features.refresh(name, gate=False).up_to_date for name in (*GROUPS, "next"))
    assert {group.bundled for group in ds.features().values()} == {"fb_wide", "fb_narrow", None}

    # A new day has no values until each group is refreshed, whatever the others in its table do.
    ds.write(make_log([2], 100), gate=False)
    ds.features.refresh("size", gate=False)
    assert ds.logs().filter("n IS NULL").count() == 0
    assert ds.logs().filter("place IS NULL").count() == ds.logs().filter("seen IS NULL").count() == 15
    ds.write(make_log([1], 200), mode="replace", gate=False)
    for name in (*GROUPS, "next"):
        ds.features.refresh(name, gate=False)
    same_rows(ds.logs(features=list(GROUPS)), plain(ds))
    assert delivered(ds) == rows_of(plain(ds))
    for table, number in (("fb_wide", 10), ("fb_narrow", 30), ("fg_size", 0)):
        # Keys that are gone from the log leave no row.
        assert ds.metadata().rows(ds.metadata().current)[table] == number, table
    verdict = ds.check()
    assert verdict.passed
    if not whole:
        return

    # A backfill writes the shared table, and tells those groups alone that read the column.
    for name in ("size", "next"):
        assert ds.features.refresh(name, gate=False).up_to_date
    ds.features.add("other", {"other": "concat(place, '!')"}, uses=["place"], gate=False)
    ds.backfill(Change(expressions={"n": "n + 10"}), Affected(users=[1]), gate=False)
    changed = plain(ds).withColumn("n", F.expr("if(user_id = 1, n + 10, n)"))
    same_rows(ds.logs(features=list(GROUPS)), changed)
    assert ds.features.refresh("other", gate=False).up_to_date
    assert not ds.features.refresh("next", gate=False).up_to_date
    assert ds.requests().filter("next <> n + 1").count() == 0


@pytest.mark.slow
def test_bundled_groups_leave_together_or_one_by_one(ds: Dataset, make_log: MakeLog) -> None:
    with_groups(ds)
    before, alone = multiset(ds.logs()), ds.metadata().current
    for wrong in (["size"], ["size", "seen"], []):
        with pytest.raises(UsageError):
            ds.features.bundle("wide", wrong)
    ds.features.bundle("wide", ["size", "place"])
    with pytest.raises(UsageError, match="share a table already"):
        ds.features.plan_bundle("again", ["place", "size"])
    bundled = ds.metadata().current
    ds.features.rename("size", "length")
    ds.features.drop("place")
    assert "place" not in ds.logs().columns
    assert "place" not in next(iter(DedupDataset(ds.name, ds.settings)))
    assert delivered(ds, ("n",)) == rows_of(plain(ds), ("n",))
    ds.write(make_log([2], 100), gate=False)
    ds.features.refresh("length", gate=False)
    assert rows_of(ds.logs(), ("n",)) == rows_of(plain(ds), ("n",))
    with pytest.raises(UsageError, match="place"):
        ds.backfill(Change(expressions={"place": "'x'"}), Affected(users=[1]), gate=False)
    # A column of the same name in another group, and both in one table again.
    ds.features.add("area", {"place": "length(country)"}, gate=False)
    steps = {"compact": False, "expire": False, "orphans": False, "bundle_from": 2}
    assert [p.groups for p in ds.maintain(dry_run=True, **steps).bundles] == [("area", "length"), ("double", "seen")]
    assert len(ds.maintain("tidy", **steps).bundles) == 2
    assert ds.maintain("tidy", **steps).bundles == ()
    assert {g.bundled for g in ds.features().values()} == {"fb_requests", "fb_impressions"}
    assert "fb_wide" not in ds.metadata().snapshots(ds.metadata().current)
    wanted = plain(ds).withColumn("place", F.expr("length(country)"))
    assert rows_of(ds.logs(), ("n", "place")) == rows_of(wanted, ("n", "place"))
    ds.features.promote("length")
    assert rows_of(ds.logs(), ("n", "place")) == delivered(ds, ("n", "place")) == rows_of(wanted, ("n", "place"))
    ds.features.drop("area")
    now = ds.metadata().snapshots(ds.metadata().current)
    assert [table for table in now if table.startswith("fb_")] == ["fb_impressions"]
    # Versions of before are as they were, and so is what is made of them.
    assert multiset(ds.logs(bundled)) == multiset(ds.logs(alone)) == before
    ds.rollback(alone)
    assert multiset(ds.logs()) == before
    ds.rollback(bundled)
    assert multiset(ds.logs()) == before


@pytest.mark.long
@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_users_are_erased_from_bundles(ds: Dataset) -> None:
    for name in ("size", "place"):
        ds.features.add(name, GROUPS[name][1], gate=False)
    alone = ds.metadata().current
    ds.features.bundle("wide", ["size", "place"])
    wanted = rows_of(plain(ds).filter("user_id <> 1"), ("n", "place"))
    ds.forget_users([1])
    for version in (alone, None):
        assert rows_of(ds.logs(version), ("n", "place")) == wanted
    assert delivered(ds, ("n", "place")) == wanted

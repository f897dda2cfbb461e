"""What erasures, expiry and stopped runs leave behind stands in nobody's way, and is given up as it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import DatasetExistsError, UsageError, VersionNotFoundError
from dedup_storage.lake.catalogs import open_admin
from dedup_storage.lake.runs import Run, new_attempt
from dedup_storage.lake.upkeep import Policy
from dedup_storage.sources.raw import RawLog
from tests.contract.conftest import MakeLog
from tests.contract.test_publication import Killed, kill
from tests.spark.helpers import DELTA_DAILY, FLAT_TYPES, ICEBERG_DAILY, RARELY, day, flat_schema, frame, same_rows

pytestmark = pytest.mark.crash

At = Callable[[str, Callable[[], object]], None]
NEWEST = Policy(keep_versions=1, keep_days=0)
LENGTH = {"length": "size(hist)"}


@pytest.fixture(params=["iceberg", "delta"])
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stored(ds: Dataset, table: str) -> list[Path]:
    """Data files in a table's folder."""
    folder = Path(ds.settings.warehouse_uri) / ds.name / table
    return [p for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts]


def with_length(ds: Dataset) -> DataFrame:
    return ds.logs(features=()).selectExpr("*", "size(hist) AS length")


def test_what_a_stopped_creation_left_is_not_taken_over(
    spark: SparkSession, lake: Settings, name: str, make_log: MakeLog, at: At
) -> None:
    raw = make_log([1])
    wider = RawLog.from_frame(raw.frame.withColumn("price", F.lit(1.5)), raw.schema)
    at("create:impressions", kill)
    with pytest.raises(Killed):
        Dataset.create(spark, lake, name, raw.schema, raw, buckets=2)
    ds = Dataset.create(spark, lake, name, wider.schema, wider)
    ds.write(wider, gate=False)
    same_rows(ds.logs(), wider.frame)
    meta = ds.metadata()
    files = [ds.tables.files(meta, table, snapshot) for table, snapshot in meta.snapshots(1).items()]
    buckets = [{row["bucket"] for row in found.select("bucket").collect()} for found in files]
    assert buckets[0] == buckets[1] > {0, 1} & buckets[0]
    # With rows, somebody may need it.
    if lake.format == "iceberg":
        spark.sql(f"DROP TABLE {lake.catalog.name}.{name}.requests")
    else:
        rmtree(Path(lake.warehouse_uri) / name / "requests")
    with pytest.raises(DatasetExistsError, match=r"there is no dataset .* a table impressions of one, with rows"):
        Dataset.create(spark, lake, name, raw.schema, raw)
    assert list((Path(lake.warehouse_uri) / name).rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_version_is_whole_after_an_erasure(two_days: Dataset) -> None:
    ds = two_days
    ds.forget_users([0])
    meta = ds.metadata()
    assert {version: ds.tables.damages(meta, version) for version in meta.version_numbers} == {1: [], 2: [], 3: []}
    assert ds.check(1).passed


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_dropped_group_is_added_again_when_its_versions_expired(ds: Dataset, make_log: MakeLog, at: At) -> None:
    ds.features.add("a", LENGTH, gate=False)
    ds.features.drop("a")
    ds.write(make_log([2], 100), gate=False)
    # Stopped before it comes to the group's table: another one is taken.
    at("maintain:unnamed", kill)
    with pytest.raises(Killed):
        ds.maintain(policy=NEWEST, compact=False)
    assert ds.features.add("a", LENGTH, gate=False).table == "fg_a_2"
    same_rows(ds.logs(), with_length(ds))
    assert stored(ds, "fg_a")
    ds.features.drop("a")
    ds.maintain(policy=NEWEST, compact=False)
    assert stored(ds, "fg_a") == stored(ds, "fg_a_2") == []
    assert ds.features.add("a", LENGTH, gate=False).table == "fg_a"
    same_rows(ds.logs(), with_length(ds))
    assert ds.features.refresh("a").up_to_date
    assert ds.tables.damages(ds.metadata(), ds.metadata().current) == []


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_group_of_an_abandoned_version_is_added_after_an_erasure(ds: Dataset, at: At) -> None:
    at("publish:after-pick-fg_a", kill)
    with pytest.raises(Killed):
        ds.features.add("a", LENGTH, gate=False)
    ds.publication.abandon(2)
    assert ds.forget_users([0]).clean
    assert ds.features.add("a", LENGTH, gate=False).table == "fg_a"
    same_rows(ds.logs(), with_length(ds))


def test_ids_that_begin_alike(spark: SparkSession, lake: Settings, name: str) -> None:
    """Metadata keeps their beginnings: files of neighbours do not overlap, and what is taken out tells of nobody."""
    ids = [f"customer-2024-0000-0000-0000-0000-{n:04}" for n in range(6)]

    def log(first: int, users: list[str]) -> RawLog:
        rows = [(u, first + n, day(1), "DK", [1], c, 0) for n, u in enumerate(users) for c in (0, 1)]
        types = FLAT_TYPES.replace("user_id bigint", "user_id string")
        return RawLog.from_frame(frame(spark, rows, types), flat_schema(date_grain="month", buckets=1))

    raw = log(0, ids[:3])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    for part in (raw, log(100, ids[3:])):
        ds.write(part, gate=False)
    told = ds.maintain(dry_run=True, expire=False, orphans=False).compaction
    assert {(g.files_before, g.overlapping_files_before, g.decayed_segments) for g in told} == {(2, 0, 0)}
    receipt = ds.forget_users([ids[1]], "gone")
    change, some = Change(expressions={"y": "5"}), Affected(users=[ids[2]])
    ds.backfill(change, some, strategy=Strategy.COPY_ON_WRITE, gate=False)
    assert ds.verify_erasure(receipt, [ids[1]]).clean


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_rows_set_aside_by_a_version_that_was_rolled_back(spark: SparkSession, ds: Dataset) -> None:
    """The table keeps them for that version; the next one that sets rows aside has its own alone."""
    unknown = [(1, 700 + n, n, 1, day(9)) for n in range(4)]
    late = frame(spark, unknown, "user_id bigint, request_id bigint, item bigint, y int, at timestamp")
    ds.merge_labels(late, "y", "at", run_id="first", gate=False)
    ds.rollback(1)
    ds.merge_labels(late.limit(3), "y", "at", run_id="second", gate=False)
    ds.rollback(2)
    ds.merge_labels(late.limit(2), "y", "at", run_id="third", gate=False)
    assert [v.rows.get("labels_unknown") for v in ds.versions()] == [None, 4, None, 3, 4, 6]
    meta = ds.metadata()
    assert [
        ds.tables.read(ds.name, "labels_unknown", meta.snapshots(v)["labels_unknown"]).count() for v in (2, 4, 6)
    ] == [4, 3, 6]
    assert [damage for version in (2, 4, 5, 6) for damage in ds.tables.damages(meta, version)] == []


@pytest.mark.parametrize(
    ("table_format", "point"),
    [
        ("iceberg", "backfill:part"),
        ("delta", "backfill:part-staged"),
        pytest.param("iceberg", "backfill:part-staged", marks=RARELY),
        pytest.param("delta", "backfill:part", marks=RARELY),
    ],
    indirect=["table_format"],
)
def test_parts_of_a_stopped_run_are_given_up_as_they_are_called(ds: Dataset, at: At, point: str) -> None:
    at(point, kill)
    with pytest.raises(Killed):
        ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1, 2]), run_id="b", gate=False)
    named = [run.run_id for run in ds.publication.status().runs]
    assert named
    # A branch without a part does not say whose it is.
    assert point == "backfill:part-staged" or set(named) == {"b"}
    for run_id in named:
        ds.publication.abandon_run(run_id)
    assert ds.publication.status().runs == ()
    assert ds.publication.abandon_run("b") == ()
    assert ds.forget_users([0]).clean


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_what_a_stopped_write_staged_goes_with_maintenance(ds: Dataset, make_log: MakeLog, at: At) -> None:
    # As a process that is killed leaves it: no handler takes anything back.
    run = Run(run_id="w", job="write", attempt=new_attempt("w"), base=1)
    for table in ds.spec.tables:
        rows = ds.tables.read(ds.name, table.name, ds.metadata().snapshots(1)[table.name])
        ds.tables.stage(ds.spec, table, rows, run)
    with pytest.raises(UsageError, match=r"were stopped there: w .rows in impressions, requests"):
        ds.forget_users([0])
    steps = {"compact": False, "orphans": False}
    assert ds.maintain(**steps).abandoned_branches == ()
    given_up = ds.maintain(policy=Policy(abandoned_days=0), **steps).abandoned_branches
    assert sorted(name.partition(".")[0] for name in given_up) == ["impressions", "requests"]
    assert ds.publication.status().runs == ()
    # One that was killed just after its version was published leaves a description, which tells of users too.
    at("publish:after-tag-requests", kill)
    with pytest.raises(Killed):
        ds.write(make_log([3], 200), run_id="x", gate=False)
    assert ds.forget_users([0]).clean
    assert list((Path(ds.settings.warehouse_uri) / ds.name).rglob("_staged/*/*.json")) == []
    same_rows(ds.logs(), make_log([1]).frame.union(make_log([3], 200).frame).filter("user_id <> 0"))


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_pin_keeps_its_own_version_alone(ds: Dataset, at: At) -> None:
    """Versions share the snapshots of tables that they leave alone, and a pin may be stopped half way."""
    ds.features.add("a", LENGTH, gate=False)
    for value in (7, 8):
        ds.backfill(Change(expressions={"y": str(value)}), Affected(users=[1]), gate=False)
    ds.pin(3, "paper")
    if ds.settings.format == "iceberg":
        at("pin:impressions", kill)
        with pytest.raises(Killed):
            open_admin(ds.settings).pin(ds.name, 2, "half")
    planned = ds.maintain(policy=NEWEST, compact=False, dry_run=True)
    done = ds.maintain(policy=NEWEST, compact=False)
    assert (planned.expired_versions, done.expired_versions, done.kept_versions) == ((1, 2), (1, 2), (3, 4))
    assert ds.logs(3).filter("y = 7").count() == 3
    ds.unpin("paper")
    assert ds.maintain(policy=NEWEST, compact=False).kept_versions == (4,)


@pytest.mark.parametrize("table_format", ["iceberg"], indirect=True)
def test_a_rollback_to_a_version_that_expires_meanwhile(two_days: Dataset, make_log: MakeLog, at: At) -> None:
    ds = two_days
    # Once it is held, expiry leaves it alone.
    at("publish:before-claim", lambda: ds.maintain(policy=NEWEST, compact=False))
    ds.rollback(1)
    same_rows(ds.logs(), make_log([1]).frame)
    assert [v.version for v in ds.versions()] == [1, 2, 3]
    # The first step of an expiry, and the whole of it.
    anchor = ds.spec.anchor.name
    snapshot_id = ds.metadata().snapshots(2)[anchor]
    for expire in (lambda: ds.tables.untag(ds.name, anchor, "v2"), lambda: ds.maintain(policy=NEWEST, compact=False)):
        at("rollback:looked", expire)
        with pytest.raises(VersionNotFoundError, match=r"version 2 of .* expired while it was brought back"):
            ds.rollback(2)
        assert ds.publication.status().runs == ()
        if ds.metadata().version_numbers == [1, 3]:
            ds.tables.tag(ds.name, anchor, "v2", snapshot_id)
    assert [v.version for v in ds.versions()] == [3]
    same_rows(ds.logs(), make_log([1]).frame)

"""Publication beside other tools, kills and erasures: a version is whole or it is not, and there is a way out.

A run is stopped at a point by the watcher of the fault points; what another process would do happens there, in between.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError, StorageError, StuckPublicationError, UsageError
from tests.contract.conftest import MakeLog
from tests.spark.helpers import DELTA_DAILY, ICEBERG_DAILY, RARELY, day, frame, halves, same_rows

pytestmark = pytest.mark.crash


class Killed(BaseException):
    """What a run that is killed does not come back from."""


@pytest.fixture(params=["iceberg", "delta"])
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kill() -> None:
    raise Killed


def expire(ds: Dataset, table: str) -> None:
    """Another tool expires snapshots of a table, or on Delta removes files that its log does not name."""
    spark, settings = ds.spark, ds.settings
    if settings.format == "iceberg":
        spark.sql(
            f"CALL {settings.catalog.name}.system.expire_snapshots(table => '{ds.name}.{table}', "
            "older_than => TIMESTAMP '2037-01-01', retain_last => 1)"
        )
    else:
        table_of = DeltaTable(f"{settings.warehouse_uri}/{ds.name}/{table}")
        table_of.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)


def compact(ds: Dataset, table: str) -> None:
    """Another tool joins the files of a table."""
    spark, settings = ds.spark, ds.settings
    if settings.format == "iceberg":
        spark.sql(
            f"CALL {settings.catalog.name}.system.rewrite_data_files(table => '{ds.name}.{table}', "
            "options => map('rewrite-all', 'true'))"
        )
    else:
        spark.sql(f"OPTIMIZE delta.`{settings.warehouse_uri}/{ds.name}/{table}`")


@pytest.mark.parametrize(
    ("table_format", "mode", "point"),
    [
        ("iceberg", "append", "write:staged-requests"),
        ("iceberg", "replace", "write:staged"),
        ("iceberg", "append", "publish:before-claim"),
        ("delta", "append", "write:staged-requests"),
        pytest.param("delta", "replace", "write:staged", marks=RARELY),
        ("delta", "append", "publish:before-claim"),
    ],
    indirect=["table_format"],
)
def test_an_expiry_by_another_tool_loses_no_row(
    ds: Dataset, make_log: MakeLog, at: Callable[..., None], point: str, mode: str
) -> None:
    """On Iceberg what is staged is held; Delta's VACUUM removes it, and the run says so."""
    raw = make_log([1 if mode == "replace" else 2], 100)
    expected = raw.frame if mode == "replace" else make_log([1]).frame.unionByName(raw.frame)
    at(point, lambda: [expire(ds, table) for table in ("requests", "impressions")])
    if ds.settings.format == "iceberg":
        ds.write(raw, run_id="beside", mode=mode, gate=False)
    else:
        with pytest.raises((StorageError, ConflictError), match=r"not as (it was )?written|is gone"):
            ds.write(raw, run_id="beside", mode=mode, gate=False)
        assert [v.version for v in ds.versions()] == [1]
        ds.write(raw, run_id="beside", mode=mode, gate=False)
    same_rows(ds.logs(), expected)
    assert ds.check().passed
    assert ds.publication.status().runs == ()


@pytest.mark.parametrize(
    ("table_format", "killed"),
    [
        ("iceberg", False),
        ("delta", True),
        pytest.param("iceberg", True, marks=RARELY),
        pytest.param("delta", False, marks=RARELY),
    ],
    indirect=["table_format"],
)
def test_a_replacement_meets_a_compaction_after_it_was_prepared(
    two_days: Dataset, make_log: MakeLog, at: Callable[..., None], killed: bool
) -> None:
    ds = two_days
    raw = make_log([1], 200)
    if killed:
        at("publish:after-claim", kill)
        with pytest.raises(Killed):
            ds.write(raw, run_id="again", mode="replace", gate=False)
        compact(ds, "impressions")
        assert ds.versions()[-1].version == 2
        ds.write(make_log([3], 300), run_id="next", gate=False)
    else:
        at("publish:before-claim", lambda: compact(ds, "impressions"))
        ds.write(raw, run_id="again", mode="replace", gate=False)
        ds.write(make_log([3], 300), run_id="next", gate=False)
    assert [v.run_id for v in ds.versions()] == ["day-1", "day-2", "again", "next"]
    same_rows(ds.logs(3), raw.frame.unionByName(make_log([2], 100).frame))
    same_rows(ds.logs(), raw.frame.unionByName(make_log([2], 100).frame).unionByName(make_log([3], 300).frame))
    assert ds.check(3).passed


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_version_between_is_kept_where_a_compaction_is_taken_in(
    ds: Dataset, make_log: MakeLog, at: Callable[..., None]
) -> None:
    # Two files a bucket, so that a compaction has something to join.
    ds.write(make_log([1], 100), run_id="more", gate=False)
    compact(ds, "impressions")
    at("publish:before-claim", lambda: ds.write(make_log([3], 300), run_id="between", gate=False))
    ds.maintain(expire=False, orphans=False)
    expected = make_log([1]).frame.unionByName(make_log([1], 100).frame).unionByName(make_log([3], 300).frame)
    assert [v.run_id for v in ds.versions()][:3] == ["day-1", "more", "between"]
    same_rows(ds.logs(), expected)
    assert ds.check().passed


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_rollback_that_is_decided_keeps_its_version_from_expiry(
    two_days: Dataset, make_log: MakeLog, at: Callable[..., None]
) -> None:
    ds = two_days

    def stopped() -> None:
        at("publish:after-claim", kill)
        with pytest.raises(Killed):
            ds.rollback(1, run_id="back")

    at("maintain:remembered", stopped)
    assert ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False).expired_versions == ()
    ds.write(make_log([3], 300), run_id="next", gate=False)
    assert [(v.version, v.run_id) for v in ds.versions()] == [(1, "day-1"), (2, "day-2"), (3, "back"), (4, "next")]
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([3], 300).frame))
    assert ds.check().passed


@pytest.mark.slow
def test_a_rollback_whose_version_has_expired_is_given_up(
    spark: SparkSession, settings: Settings, name: str, make_log: MakeLog, at: Callable[..., None]
) -> None:
    """On Delta, as releases left it that did not keep the version."""
    raw = make_log([1])
    ds = Dataset.create(spark, settings.model_copy(update={"format": "delta"}), name, raw.schema, raw)
    ds.write(raw, gate=False)
    ds.write(make_log([2], 100), gate=False)
    at("publish:after-pick-impressions", kill)
    with pytest.raises(Killed):
        ds.rollback(1)
    DeltaTable(f"{ds.settings.warehouse_uri}/{name}/_versions").delete("event = 'published' AND version = 1")
    with pytest.raises(StuckPublicationError, match=r"brings back version 1, which has expired.*versions abandon 3"):
        ds.write(make_log([3], 300), gate=False)
    ds.publication.abandon(3)
    ds.write(make_log([3], 300), gate=False)
    expected = raw.frame.unionByName(make_log([2], 100).frame).unionByName(make_log([3], 300).frame)
    same_rows(ds.logs(), expected)


def stuck_backfill(ds: Dataset, at: Callable[..., None], run_id: str) -> None:
    """A decided version whose files another tool joined with others."""
    merge = Strategy.MERGE_ON_READ if ds.settings.format == "iceberg" else Strategy.COPY_ON_WRITE
    at("publish:after-claim", kill)
    with pytest.raises(Killed):
        ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1, 2]), run_id=run_id, strategy=merge, gate=False)
    compact(ds, "impressions")


@pytest.mark.parametrize(("table_format", "whole"), halves("iceberg"), indirect=["table_format"])
def test_a_version_that_can_never_be_completed_is_given_up(
    spark: SparkSession, ds: Dataset, make_log: MakeLog, at: Callable[..., None], whole: bool
) -> None:
    # Two files a bucket, so that a compaction has something to join.
    ds.write(make_log([1], 100), run_id="more", gate=False)
    before = ds.logs().localCheckpoint()
    stuck_backfill(ds, at, "b")
    for refused in (
        lambda: ds.write(make_log([3], 300), gate=False),
        lambda: ds.rollback(1),
        lambda: ds.maintain(),
        lambda: ds.forget_users([1]),
    ):
        with pytest.raises(StuckPublicationError, match=r"version 3 .* cannot be completed.*versions abandon 3"):
            refused()
    same_rows(ds.logs(), before)
    pending = ds.publication.status().pending
    assert pending is not None
    assert (pending.version, pending.run_id, pending.job) == (3, "b", "backfill")
    with pytest.raises(UsageError, match=r"version 2 .* is published"):
        ds.publication.abandon(2)
    with pytest.raises(UsageError, match=r"version 9 .* was never decided"):
        ds.publication.abandon(9)

    given_up = ds.publication.abandon(3)
    assert given_up.pending is None
    assert [(a.version, a.run_id, a.whole) for a in given_up.abandoned] == [(3, "b", True)]
    same_rows(ds.logs(), before)
    if not whole:
        return
    # The version's own files are joined with others now: the run takes that in as a version of its own, and goes on.
    # On Delta, undoing the abandoned version has brought them back.
    taken_in = [(4, "maintain", 2)] if ds.settings.format == "iceberg" else []
    done = ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1, 2]), run_id="b", gate=False)
    first = 4 + len(taken_in)
    assert done.version == first
    ds.write(make_log([3], 300), run_id="next", gate=False)
    later = [(v.version, v.job, v.parent) for v in ds.versions()[2:]]
    assert later == [*taken_in, (first, "backfill", first - 1 if taken_in else 2), (first + 1, "write", first)]
    for version, _, _ in taken_in:
        same_rows(ds.logs(version), before)
        assert ds.check(version).passed
    assert ds.logs().filter("y = 7").count() == 12
    assert ds.check().passed
    # What the abandoned run left there does not stand in a rollback's way, nor in an erasure's.
    ds.rollback(2)
    same_rows(ds.logs(), before)
    assert ds.forget_users([3]).clean


@pytest.mark.parametrize(
    "picked", [pytest.param("publish:after-claim", marks=RARELY), "publish:after-pick-impressions"]
)
def test_a_crash_while_a_version_is_given_up(
    ds: Dataset, make_log: MakeLog, at: Callable[..., None], picked: str
) -> None:
    """What was brought into a table is taken out by whoever comes next, and no helper completes the version."""
    raw = make_log([2], 100)
    at(picked, kill)
    with pytest.raises(Killed):
        ds.write(raw, run_id="lost", gate=False)
    late = ds.metadata()
    at("abandon:unclaimed", kill)
    with pytest.raises(Killed):
        ds.publication.abandon(2)
    # A helper that looked before the version was given up.
    ds.tables._publisher.complete(late, 2)
    assert [v.version for v in ds.versions()] == [1]
    ds.write(make_log([3], 300), run_id="next", gate=False)
    ds.tables._publisher.complete(late, 2)
    assert [(v.version, v.run_id) for v in ds.versions()] == [(1, "day-1"), (3, "next")]
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([3], 300).frame))
    assert [(a.version, a.whole) for a in ds.publication.status().abandoned] == [(2, True)]
    ds.write(raw, run_id="lost", gate=False)
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([3], 300).frame).unionByName(raw.frame))
    ds.rollback(1)
    same_rows(ds.logs(), make_log([1]).frame)
    assert ds.check().passed


def test_a_first_version_is_given_up(
    spark: SparkSession, lake: Settings, name: str, make_log: MakeLog, at: Callable[..., None]
) -> None:
    raw = make_log([1])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    at("publish:after-pick-impressions", kill)
    with pytest.raises(Killed):
        ds.write(raw, run_id="first", gate=False)
    ds.publication.abandon(1)
    assert ds.versions() == []
    ds.write(make_log([2]), run_id="second", gate=False)
    assert [(v.version, v.parent) for v in ds.versions()] == [(2, 0)]
    same_rows(ds.logs(), make_log([2]).frame)
    assert ds.check().passed


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_an_erasure_waits_for_what_runs_have_staged(
    spark: SparkSession, ds: Dataset, make_log: MakeLog, at: Callable[..., None]
) -> None:
    """Late labels of unknown impressions, and a write: neither loses a row to an erasure beside it."""
    said: list[str] = []

    def forget() -> None:
        with pytest.raises(UsageError, match=r"at work|are staged") as refused:
            ds.forget_users([1])
        said.append(str(refused.value))

    unknown = frame(
        spark,
        [(1, 700 + n, n, 1, day(9)) for n in range(4)],
        "user_id bigint, request_id bigint, item bigint, y int, at timestamp",
    )
    at("backfill:beside", forget)
    assert ds.merge_labels(unknown, "y", "at", run_id="labels", gate=False).unknown_rows == 4
    assert ds.versions()[-1].rows["labels_unknown"] == 4
    at("write:staged", forget)
    ds.write(make_log([2], 100), run_id="day-2", gate=False)
    same_rows(ds.logs(), make_log([1]).frame.unionByName(make_log([2], 100).frame))
    assert len(said) == 2
    done = ds.forget_users([1], "gdpr")
    assert {t.table: (t.rows_left, t.bounds_left) for t in done.tables} == dict.fromkeys(
        (t.table for t in done.tables), (0, 0)
    )


@pytest.mark.slow
def test_of_two_erasures_at_once_the_earlier_one_is_told_to_run_again(ds: Dataset, at: Callable[..., None]) -> None:
    before = ds.logs().filter("user_id not in (1, 3)").localCheckpoint()
    at("forget:written", lambda: ds.forget_users([3], "second"))
    with pytest.raises((ConflictError, StorageError), match="Run the job again"):
        ds.forget_users([1], "first")
    assert ds.publication.status().runs == ()
    done = ds.forget_users([1], "first")
    assert (done.clean, done.not_found) == (True, 0)
    same_rows(ds.logs(), before)
    assert ds.check().passed


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_an_erasure_that_another_one_takes_for_stopped_is_given_up(
    ds: Dataset, make_log: MakeLog, at: Callable[..., None]
) -> None:
    """What it staged is gone when it has decided its version: nobody is left with a version to complete."""
    before = ds.logs().filter("user_id != 1").localCheckpoint()

    def second() -> None:
        at("forget:written", kill)
        with pytest.raises(Killed):
            ds.forget_users([3], "second")

    at("publish:before-claim", second)
    with pytest.raises((ConflictError, StorageError), match="Run the job again"):
        ds.forget_users([1], "first")
    ds.write(make_log([2], 100), run_id="next", gate=False)
    assert ds.forget_users([1], "first").clean
    same_rows(ds.logs(), before.unionByName(make_log([2], 100).frame.filter("user_id != 1")))


def test_an_erasure_that_is_given_up_commits_nothing_after_it(
    spark: SparkSession, settings: Settings, name: str, make_log: MakeLog, at: Callable[..., None]
) -> None:
    """On Delta it makes one kept version after the other anew."""
    raw = make_log([1])
    ds = Dataset.create(spark, settings.model_copy(update={"format": "delta"}), name, raw.schema, raw)
    for number in range(3):
        ds.write(make_log([1 + number], 100 * number), gate=False)
    before = ds.logs().localCheckpoint()
    at("relay:made", lambda: ds.publication.abandon(4))
    with pytest.raises(ConflictError, match=r"version 4 .* was abandoned"):
        ds.forget_users([1], "gdpr")
    same_rows(ds.logs(), before)
    ds.write(make_log([4], 300), gate=False)
    same_rows(ds.logs(), before.unionByName(make_log([4], 300).frame))


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_nothing_of_a_write_that_is_given_up_stands_in_an_erasures_way(
    ds: Dataset, make_log: MakeLog, at: Callable[..., None]
) -> None:
    at("publish:after-pick-impressions", kill)
    with pytest.raises(Killed):
        ds.write(make_log([2], 100), run_id="lost", gate=False)
    ds.publication.abandon(2)
    assert ds.forget_users([1]).clean
    assert ds.publication.status().runs == ()


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_a_stopped_run_is_given_up_by_its_id(ds: Dataset, make_log: MakeLog, at: Callable[..., None]) -> None:

    writer_discard = ds.tables._publisher.discard
    ds.tables._publisher.discard = lambda *_: None
    at("write:staged", kill)
    with pytest.raises(Killed):
        ds.write(make_log([2], 100), run_id="stopped", gate=False)
    ds.tables._publisher.discard = writer_discard
    runs = ds.publication.status().runs
    assert [(r.run_id, r.tables, r.holds, r.rows) for r in runs] == [
        ("stopped", ("impressions", "requests"), "rows", 20)
    ]
    with pytest.raises(UsageError, match="stopped"):
        ds.forget_users([3])
    assert ds.publication.abandon_run("stopped") == ("impressions", "requests")
    assert ds.publication.status().runs == ()
    done = ds.forget_users([3], "gdpr")
    assert {t.table: (t.rows_left, t.bounds_left) for t in done.tables} == dict.fromkeys(
        (t.table for t in done.tables), (0, 0)
    )
    assert [v.run_id for v in ds.versions()] == ["day-1", "gdpr"]


def test_damage_is_told_by_kind(two_days: Dataset) -> None:
    ds = two_days
    assert ds.check(deep=True).passed
    files = [row["file_path"] for row in ds.inspect.files(1).filter("table = 'impressions'").collect()]
    place = files[0].removeprefix("file:")
    place = place if place.startswith("/") else f"{ds.settings.local_warehouse}/{ds.name}/impressions/{place}"
    # The last byte of a column: of the same length, and the footer as it was.
    chunk = pq.read_metadata(place).row_group(0).column(2)
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1
    written = Path(place).read_bytes()
    Path(place).write_bytes(written[:end] + bytes([written[end] ^ 1]) + written[end + 1 :])
    verdict = ds.check(1, deep=True)
    assert [c.name for c in verdict.failures] == ["version.pages"]
    assert place.rpartition("/")[2] in verdict.failures[0].expected
    assert "CRC" in verdict.failures[0].expected
    Path(place).write_bytes(written + b"more")
    for version in (1, 2):
        verdict = ds.check(version)
        assert [c.name for c in verdict.failures] == ["version.files"]
        assert "bytes instead of" in verdict.failures[0].expected
        assert place.rpartition("/")[2] in verdict.failures[0].expected

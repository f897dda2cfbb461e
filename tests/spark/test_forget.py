"""Erasure: the users are in no version, no table and no file, and everybody else is as before."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyiceberg.conversions import from_bytes
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep.forget_summary import content_digest
from dedup_storage.errors import InputError, UsageError
from dedup_storage.lake.stored_rows import StoredRows
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import day, flat_rows, flat_schema, frame, multiset, same_rows

KEPT = "user_id not in (1, 5)"


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows(days, users=12, first_request=first_request)), flat_schema())


def test_bounds_that_metadata_cut(spark: SparkSession, tmp_path: Path) -> None:
    """Cut, a bound tells of a user unless another one who is in the files begins in the same way."""
    place = str(tmp_path / "files")
    spark.createDataFrame([("customer-2024-0001",), ("short",)], "u string").write.parquet(place)
    told = ["customer-2024-00", "customer-2024-00\u007f", "customer-2025-00\U0010ffff", "exact", "customer-2025-0", "x"]
    seen = spark.createDataFrame([(text,) for text in told], "bound string")

    def bounds_of(*users: str) -> int:
        frame = spark.createDataFrame([(user,) for user in users], "u string")
        return StoredRows(spark, frame).count_bounds(seen, 16, place)

    assert bounds_of("customer-2024-0002") == 0
    assert bounds_of("customer-2025-0002") == 1
    assert bounds_of("customer-2024-0001", "exact", "customer-2025-0") == 4
    assert bounds_of("customer-2024-00", "shor", "customer-2025-00") == 1


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    """Four versions: written, backfilled by deletion vectors, late labels with an unknown one, appended."""
    return restored(spark, settings, "to erase from", lambda name: _four_versions(spark, settings, name))


def _four_versions(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    raw = log(spark, [1, 2])
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    change, some = Change(expressions={"y": "7"}), Affected(users=[1, 2])
    ds.backfill(change, some, run_id="b", strategy=Strategy.MERGE_ON_READ, gate=False)
    late = [(1, 1, 31, 3, day(9)), (2, 2, 12, 4, day(9)), (5, 777, 1, 1, day(9))]
    types = "user_id bigint, request_id bigint, item bigint, y int, at timestamp"
    ds.merge_labels(frame(spark, late, types), "y", "at", run_id="l", gate=False)
    ds.write(log(spark, [3], 500), run_id="third", gate=False)
    ds.pin(2, "paper")
    return ds


def manifests(ds: Dataset) -> set[str]:
    """Names of the manifests that snapshots name."""
    found = set()
    for table in ds.metadata().tables.values():
        for snapshot in table.metadata.snapshots:
            found |= {m.manifest_path.rpartition("/")[2] for m in snapshot.manifests(table.io)}
    return found


def bounds(ds: Dataset) -> tuple[set[int], set[str]]:
    """Least and greatest user ids that the snapshots' manifests tell of; names of the manifests on the disk."""
    told: set[int] = set()
    for table in ds.metadata().tables.values():
        field = table.schema().find_field("user_id")
        for snapshot in table.metadata.snapshots:
            for manifest in snapshot.manifests(table.io):
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                    for values in (entry.data_file.lower_bounds, entry.data_file.upper_bounds):
                        if values and field.field_id in values:
                            told.add(from_bytes(field.field_type, values[field.field_id]))
    root = Path(str(ds.settings.local_warehouse)) / ds.name
    return told, {p.name for p in root.rglob("*.avro") if not p.name.startswith("snap-")}


@pytest.mark.slow
def test_users_are_gone_from_every_version_and_file(spark: SparkSession, ds: Dataset) -> None:
    before = {n: ds.logs(n).filter(KEPT).localCheckpoint() for n in (1, 2, 3, 4)}
    planned = ds.forget_users([1, 5], dry_run=True)
    assert (planned.users, planned.version, planned.clean, planned.digest) == (2, 4, None, None)
    rows = {t.table: t.rows for t in planned.tables}
    assert rows == {"requests": 6, "impressions": 18, "label_times": 1, "labels_unknown": 1}
    assert ds.logs().filter(f"not ({KEPT})").count() == 18

    done = ds.forget_users([1, 5], "gdpr-1")
    assert (done.version, done.versions_rewritten, done.clean) == (5, (1, 2, 3, 4), True)
    assert done.digest == content_digest(done.model_dump(mode="json"))
    assert all((t.rows_left, t.bounds_left) == (0, 0) for t in done.tables)
    for number, expected in before.items():
        same_rows(ds.logs(number), expected)
    same_rows(ds.logs(), before[4])
    # The plainest scan there is: every Parquet file on the disk.
    for path in (Path(str(ds.settings.local_warehouse)) / ds.name).rglob("*.parquet"):
        assert not {1, 5} & set(pq.read_table(path, columns=["user_id"])["user_id"].to_pylist())
    # Nor does Iceberg's own bookkeeping keep them, as the least or the greatest id of a file that is gone.
    told, on_disk = bounds(ds)
    assert not {1, 5} & told
    assert {0, 11} <= told
    assert on_disk == manifests(ds)
    assert [v.run_id for v in ds.versions()] == ["first", "b", "l", "third", "gdpr-1"]
    assert ds.versions()[1].pins == ("paper",)
    # Run ids are still known, and the dataset works on.
    assert ds.write(log(spark, [3], 500), run_id="third").already_published
    again = ds.forget_users([5, 1, 1], "gdpr-1")
    assert again.already_done
    assert again.model_dump_json() == done.model_dump_json()
    ds.rollback(2)
    same_rows(ds.logs(), before[2])
    ds.write(log(spark, [4], 900), gate=False)
    same_rows(ds.logs(), before[2].unionByName(log(spark, [4], 900).frame))


@pytest.mark.slow
def test_a_user_in_a_sample(spark: SparkSession, ds: Dataset) -> None:
    """The stored users of a sample lose the erased one; the others keep their stratum and their weight."""
    ds.samples.make("some", size=8, allocation="equal", strata=[{"name": "country", "column": "country"}])
    stored = spark.read.table(f"{ds.settings.catalog.name}.{ds.name}.sm_some")
    before = multiset(stored.filter(KEPT))
    assert stored.filter(f"not ({KEPT})").count() == 2
    rows = multiset(ds.logs(sample="some").filter(KEPT))
    done = ds.forget_users([1, 5])
    assert done.clean is True
    assert {t.table: t.rows_left for t in done.tables}["sm_some"] == 0
    assert multiset(spark.read.table(f"{ds.settings.catalog.name}.{ds.name}.sm_some")) == before
    assert multiset(ds.logs(sample="some")) == rows
    for path in (Path(str(ds.settings.local_warehouse)) / ds.name / "sm_some").rglob("*.parquet"):
        assert not {1, 5} & set(pq.read_table(path, columns=["user_id"])["user_id"].to_pylist())


class Stop(Exception):
    pass


@pytest.mark.long
def test_what_is_refused(spark: SparkSession, ds: Dataset) -> None:
    with pytest.raises(UsageError, match="no user is given"):
        ds.forget_users([])
    with pytest.raises(InputError, match=r"some of the users given are no ids: .* 1 of 2: number 1") as refused:
        ds.forget_users(["secret-name", "5"])
    assert "secret-name" not in str(refused.value)

    def stop(*_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ds.backfill(Change(expressions={"y": "1"}), Affected(), run_id="slow", part_segments=1, progress=stop)
    with pytest.raises(UsageError, match="runs are at work"):
        ds.forget_users([1])
    assert ds.versions()[-1].version == 4


# As the erasure of test_upkeep_crash begins.
@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_user_beside_rows_that_a_backfill_hid(spark: SparkSession, settings: Settings, name: str) -> None:
    """Files of the user's segments keep the deletion vectors of other users, in the newest version and an older one."""
    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2], users=12)), flat_schema(date_grain="none"))
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    change, some = Change(expressions={"y": "y + 5"}), Affected(users=list(range(8)))
    ds.backfill(change, some, run_id="b", strategy=Strategy.MERGE_ON_READ, gate=False)
    before = {n: multiset(ds.logs(n).filter("user_id <> 10")) for n in (1, 2)}
    receipt = ds.forget_users([10])
    assert receipt.clean is True
    assert receipt.versions_rewritten == (1, 2)
    for number, expected in (before | {3: before[2]}).items():
        assert multiset(ds.logs(number)) == expected
    assert ds.forget_users([11]).clean is True


@pytest.mark.long
def test_names_that_other_tools_gave(spark: SparkSession, settings: Settings, name: str) -> None:
    """Another tool's branches and tags keep their rows but the user's, and stay branches and tags."""
    raw = log(spark, [1, 2])
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    table = f"{settings.catalog.name}.{name}.requests"
    spark.sql(f"ALTER TABLE {table} CREATE BRANCH older")
    spark.sql(f"ALTER TABLE {table} CREATE TAG first")
    ds.write(log(spark, [3], 500), run_id="second", gate=False)
    spark.sql(f"ALTER TABLE {table} CREATE BRANCH newest")
    # A branch that has rows of its own.
    spark.sql(f"ALTER TABLE {table} CREATE BRANCH own")
    own = spark.read.table(table).filter("user_id = 2 or user_id = 5")
    own.withColumn("request_id", own.request_id + 9_000).writeTo(f"{table}.branch_own").append()
    names = ("older", "first", "newest", "own")
    before = {n: multiset(spark.read.option("versionAsOf", n).table(table).filter("user_id <> 5")) for n in names}
    receipt = ds.forget_users([5])
    assert receipt.clean
    for given, rows in before.items():
        assert multiset(spark.read.option("versionAsOf", given).table(table)) == rows
    kinds = {n: ref.snapshot_ref_type for n, ref in ds.metadata().tables["requests"].metadata.refs.items()}
    assert {n: kinds[n] for n in names} == {"older": "branch", "first": "tag", "newest": "branch", "own": "branch"}
    assert ds.verify_erasure(receipt, [5]).clean
    assert ds.forget_users([2]).clean

"""Another number of user buckets in place: every row stays, both sides stay readable, what crosses over is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.convert import Rebucket
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.samples.store import SampleStore
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.dataset.upkeep.forget import Forgetting
from dedup_storage.errors import ConflictError, DedupStorageError, UsageError
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.delta import publish
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.iceberg.stage import Staging
from dedup_storage.lake.outdated import stale_cells
from dedup_storage.lake.segments import Segment
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.contract.test_publication import Killed, compact, kill
from tests.contract.test_reader import rows_of
from tests.contract.upkeep import log, made
from tests.integration.crash_jobs import LATE, LATE_TYPES
from tests.integration.test_reader_spark import read
from tests.spark.helpers import DELTA_DAILY, ICEBERG_DAILY, RARELY, halves, same_rows

pytestmark = pytest.mark.long
EXPIRING = Policy(keep_versions=1, keep_days=0)


@pytest.fixture(params=["iceberg", "delta"])
def table_format(request: pytest.FixtureRequest) -> str:
    """Both formats: no other suite shows this."""
    return str(request.param)


def in_segments(ds: Dataset, buckets: int, version: int | None = None) -> None:
    """Each table's rows are found by the segments of so many buckets, in files that lie there."""
    cut = ds.handle.cut(version)
    assert cut.spec.buckets == buckets
    for table, snapshot in cut.snapshots.items():
        if table in ("quarantine", "labels_unknown"):
            # They have no dates, and lie in segments of their own.
            continue
        spec, rows = cut.spec.partitioned(table), cut.stored(table, hidden=True)
        files = ds.tables.files(cut.meta, table, snapshot).filter("content = 0")
        segments = [Segment(row["date"], row["bucket"]) for row in files.select("date", "bucket").distinct().collect()]
        assert {segment.bucket for segment in segments} <= set(range(buckets))
        # Each row lies in a file of its own bucket, which is opened where its segment is asked for.
        own = rows.select(ds.tables.file(spec).alias("file_path"), ds.tables.bucket(spec).alias("own")).distinct()
        found = own.join(files, "file_path", "left").select("own", "bucket").collect()
        assert all(row["own"] == row["bucket"] for row in found)
        inside = rows.filter(F.expr(ds.tables.inside(spec, segments))) if segments else rows
        assert inside.count() == rows.count()


def groups_right(ds: Dataset) -> None:
    """Values of the groups that there are of these."""
    rows = ds.logs(features=[name for name in ("len", "place") if name in ds.features()])
    for column, text in (("len", "size(hist)"), ("place", "upper(country)")):
        assert column not in rows.columns or rows.filter(f"NOT ({column} <=> {text})").isEmpty()


def stale(ds: Dataset) -> dict[str, set[Cell]]:
    """What of each feature group is out of date."""
    meta = ds.metadata()
    return {name: stale_cells(meta, meta.spec, meta.current, group) for name, group in ds.features().items()}


def full(spark: SparkSession, lake: Settings) -> Dataset:
    """Two days, feature groups, one promoted, late labels with times and unknown ones, a stored sample, a backfill."""
    ds = made(spark, lake)
    ds.features.add("len", {"len": "size(hist)"}, gate=False)
    ds.features.add("place", {"place": "upper(country)"}, gate=False)
    ds.features.promote("place")
    ds.merge_labels(spark.createDataFrame(LATE, LATE_TYPES), "y", "at", run_id="late", gate=False)
    ds.samples.make("half", fraction=0.5, strata=[{"name": "country", "column": "country"}])
    ds.backfill(Change(expressions={"y": "y + 1"}), Affected(users=[3]), gate=False)
    return ds


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_rows_groups_samples_and_labels_stay(spark: SparkSession, lake: Settings) -> None:
    ds = full(spark, lake)
    before, numbers = ds.logs(features=["len"]).localCheckpoint(), [v.version for v in ds.versions()]
    sampled = ds.logs(sample="half").localCheckpoint()
    kept = {v: rows_of(ds, v) for v in numbers}
    aside = {n: v for n, v in ds.versions()[-1].rows.items() if n.startswith("label")}
    planned = ds.rebucket(7, "to-7", dry_run=True)
    assert (planned.version, planned.before, planned.buckets) == (numbers[-1], 4, 7)
    assert {t.table for t in planned.tables} == set(ds.versions()[-1].snapshots)
    assert [v.version for v in ds.versions()] == numbers

    done = ds.rebucket(7, "to-7")
    assert (done.version, done.before, done.buckets, done.kept_versions) == (numbers[-1] + 1, 4, 7, tuple(numbers))
    assert {t.table: t.rows for t in done.tables} == ds.versions()[-1].rows
    same_rows(ds.logs(features=["len"]), before)
    same_rows(ds.logs(sample="half"), sampled)
    groups_right(ds)
    in_segments(ds, 7)
    assert {n: v for n, v in ds.versions()[-1].rows.items() if n.startswith("label")} == aside
    assert read(DedupDataset(ds.name, lake)) == kept[numbers[-1]]
    for bucket in (0, 3):
        inside = ds.logs().filter(ds.tables.bucket(ds.spec) == bucket)
        found = read(DedupDataset(ds.name, lake, filters={"buckets": [bucket]}))
        assert len(found) == inside.count()
    # Versions of before are read by their own number, in Spark and without.
    for version in (1, numbers[-1]):
        assert rows_of(ds, version) == kept[version] == read(DedupDataset(ds.name, lake, version=version))
        in_segments(ds, 4, version)
    assert len(read(DedupDataset(ds.name, lake, sample="half"))) == ds.logs(sample="half").count()
    assert ds.check().passed
    assert ds.check(numbers[-1]).passed
    if lake.format == "iceberg":
        assert ds.join("impressions", "requests").count() == before.count()

    again = ds.rebucket(7, "to-7")
    assert again.already_published
    assert again.version == done.version
    assert ds.rebucket(7).unchanged
    assert len(ds.versions()) == len(numbers) + 1


@pytest.mark.parametrize(("table_format", "whole"), halves("iceberg"), indirect=["table_format"])
def test_what_is_done_afterwards(spark: SparkSession, lake: Settings, whole: bool) -> None:
    ds = full(spark, lake)
    rows = ds.logs(features=()).localCheckpoint()
    ds.rebucket(6)
    assert stale(ds) == {"len": set(), "place": set()}
    more = log(spark, [3], 500)
    ds.write(more, run_id="more", gate=False)
    for name in ("len", "place"):
        ds.features.refresh(name, gate=False)
    groups_right(ds)
    ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[1, 2]), gate=False)
    ds.samples.refresh("half")
    later = [(1, 1, 31, 9, LATE[0][-1].replace(day=10))]
    assert ds.merge_labels(spark.createDataFrame(later, LATE_TYPES), "y", "at", gate=False).merged_rows == 1
    ds.maintain(policy=EXPIRING)
    in_segments(ds, 6)
    assert stale(ds)["place"]
    ds.features.refresh("place", gate=False)
    groups_right(ds)
    wanted = rows.unionByName(more.frame).withColumn("country", F.expr("if(user_id in (1, 2), 'NO', country)"))
    same_rows(ds.logs(features=()).drop("y"), wanted.drop("y"))
    assert ds.check().passed
    if not whole:
        return
    # Only versions of the new number are kept by now.
    assert ds.forget_users([1, 3], "gdpr").clean
    same_rows(ds.logs(features=()).drop("y"), wanted.drop("y").filter("user_id not in (1, 3)"))
    assert ds.logs(sample="half").filter("user_id in (1, 3)").isEmpty()
    assert ds.check().passed
    ds.rebucket(2)
    in_segments(ds, 2)
    groups_right(ds)


@pytest.mark.parametrize(
    ("table_format", "layout", "grain"),
    [
        ("iceberg", "user", "day"),
        ("delta", "flat", "month"),
        *(
            pytest.param(*each, marks=RARELY)
            for each in (
                ("iceberg", "flat", "month"),
                ("iceberg", "split", "none"),
                ("delta", "user", "day"),
                ("delta", "split", "none"),
            )
        ),
    ],
    indirect=["table_format"],
)
def test_layouts_and_date_grains(spark: SparkSession, lake: Settings, layout: str, grain: str) -> None:
    ds = made(spark, lake, layout=Layout(layout), date_grain=grain)
    if ds.spec.events:
        ds.features.add("age", {"length": "2 * hist"}, grain="event", gate=False)
    before = ds.logs().localCheckpoint()
    former = ds.versions()[-1].version
    ds.rebucket(9)
    same_rows(ds.logs(), before)
    in_segments(ds, 9)
    in_segments(ds, 4, former)
    assert read(DedupDataset(ds.name, lake)) == rows_of(ds) == read(DedupDataset(ds.name, lake, version=former))
    more = log(spark, [3], 500)
    ds.write(more, run_id="more", gate=False)
    wanted = before.select(*more.frame.columns).unionByName(more.frame)
    same_rows(ds.logs(features=()), wanted)
    ds.rebucket(4)
    in_segments(ds, 4)
    same_rows(ds.logs(features=()), wanted)


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_group_that_is_out_of_date_stays_so(spark: SparkSession, lake: Settings) -> None:
    """The buckets in which it was are others now: it is so in all of them, on the same dates."""
    ds = made(spark, lake)
    ds.features.add("len", {"len": "size(hist)"}, gate=False)
    ds.features.add("dane", {"dane": "country = 'DK'"}, gate=False)
    ds.backfill(Change(expressions={"country": "'SE'"}), Affected(users=[1]), gate=False)
    before = stale(ds)
    assert not before["len"]
    assert {c.bucket for c in before["dane"]} != {None}
    ds.rebucket(7)
    assert stale(ds) == {"len": set(), "dane": {c.of_all_buckets for c in before["dane"]}}
    ds.features.refresh("dane", gate=False)
    assert ds.logs(features=["dane"]).filter("NOT (dane <=> (country = 'DK'))").isEmpty()
    assert not stale(ds)["dane"]


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_runs_of_before_are_refused(
    spark: SparkSession,
    lake: Settings,
    at: Callable[[str, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ds = made(spark, lake)
    other = Dataset.open(spark, lake, ds.name)
    more, further = log(spark, [3], 500), log(spark, [4], 700)
    # Appends, which no other rule refuses. They stage their rows just after it was looked for runs at work.
    monkeypatch.setattr(Rebucket, "_refuse_busy", lambda *_: None)
    at("write:staged", lambda: Dataset.open(spark, lake, ds.name).rebucket(6))
    with pytest.raises(ConflictError, match=f"of {ds.name} changed from 4 to 6 in version 2, after this run began"):
        ds.write(more, run_id="more", gate=False)
    opened = "changed from 4 to 6 in version 2, after it was opened"
    for act in (other.logs, lambda: other.write(more, gate=False), other.maintain, lambda: other.forget_users([1])):
        with pytest.raises(ConflictError, match=opened):
            act()
    ds = Dataset.open(spark, lake, ds.name)
    ds.write(more, run_id="more", gate=False)
    # One of its tables is of the number that the other is not of any more.
    at("write:staged-requests", lambda: Dataset.open(spark, lake, ds.name).rebucket(4))
    with pytest.raises(ConflictError, match="changed from 6 to 4 in version 4, after it was opened"):
        ds.write(further, run_id="further", gate=False)
    ds = Dataset.open(spark, lake, ds.name)
    same_rows(ds.logs(), log(spark, [1, 2]).frame.unionByName(more.frame))
    in_segments(ds, 4)
    assert ds.publication.status().runs == ()


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_what_is_refused_beforehand(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None]
) -> None:
    ds = made(spark, lake)
    ds.samples.make("some", buckets=2)
    with pytest.raises(UsageError, match=r"samples of whole user buckets.*: some;.*sample drop"):
        ds.rebucket(8)
    ds.samples.drop("some")
    at("write:staged-requests", kill)
    with pytest.raises(Killed):
        ds.write(log(spark, [3], 500), run_id="killed", gate=False)
    ds.publication.abandon_run("killed")
    at("backfill:part", kill)
    change, user = Change(expressions={"y": "7"}), Affected(users=[1])
    with pytest.raises(Killed):
        ds.backfill(change, user, run_id="stopped", gate=False)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"at work .*: stopped \(parts in impressions\)"):
            ds.rebucket(8, dry_run=dry_run)
    ds.backfill(change, user, run_id="stopped", gate=False)
    assert ds.rebucket(8).version == 3
    with pytest.raises(UsageError, match=r"changed from 4 to 8 in version 3, so that version 2.*--version 2"):
        ds.rollback(2)
    ds.pin(1, "paper")
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"2 earlier versions are kept.*paper \(version 1\).*maintain"):
            ds.forget_users([1], dry_run=dry_run)
    ds.unpin("paper")
    ds.maintain(policy=EXPIRING, compact=False)
    assert ds.forget_users([1]).clean
    # A sample of whole buckets of one number says nothing of a version of another.
    ds.samples.make("some", buckets=2)
    ds.samples.drop("some")
    assert ds.rebucket(4, "back").version == 5


@pytest.mark.slow
def test_conversions(
    spark: SparkSession,
    lake: Settings,
    at: Callable[[str, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is not finished refuses it; of one that began just afterwards the parts stay those of its version."""
    ds = made(spark, lake, date_grain="none")
    at("convert:part-1", kill)
    with pytest.raises(Killed):
        ds.convert(f"{ds.name}_b", run_id="turn")
    with pytest.raises(UsageError, match=r"conversion of .* is not finished: convert_\w+ \(version 1\).*unpin"):
        ds.rebucket(3)
    monkeypatch.setattr(Rebucket, "_refuse_busy", lambda *_: None)
    ds.rebucket(3)
    with pytest.raises(UsageError, match=r"pinned: convert_\w+.*expire, then erase: finish the conversion.*, dedup"):
        ds.forget_users([1])
    done = ds.convert(f"{ds.name}_b", run_id="turn")
    assert done.parts[-1].part == "bucket-3"
    assert (done.source_version, done.buckets, done.already_done) == (1, 4, 2)
    same_rows(Dataset.open(spark, lake, f"{ds.name}_b").logs(), ds.logs())
    assert not any(version.pins for version in ds.versions())


@pytest.mark.slow
def test_erasure_asks_for_no_more_than_what_is_in_its_way(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)
    ds.rebucket(3)
    ds.write(log(spark, [3], 500), run_id="more", gate=False)
    with pytest.raises(UsageError, match="--only expire --keep-versions 2 --keep-days 0"):
        ds.forget_users([1])
    ds.maintain(policy=EXPIRING.model_copy(update={"keep_versions": 2}), compact=False)
    assert [version.version for version in ds.versions()] == [2, 3]
    assert ds.forget_users([1]).clean


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_a_sample_that_was_being_refreshed(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None]
) -> None:
    """Its table has users of before, which the record names, and the buckets of today."""
    ds = made(spark, lake)
    ds.samples.make("half", fraction=0.5, strata=[{"name": "country", "column": "country"}])
    wanted = ds.logs(sample="half").localCheckpoint()
    ds.rebucket(7)
    at("sample:users-stored", kill)
    with pytest.raises(Killed):
        ds.samples.refresh("half")
    ds.maintain(policy=EXPIRING, compact=False)
    user = wanted.first()["user_id"]
    assert ds.forget_users([user]).clean
    same_rows(ds.logs(sample="half"), wanted.filter(F.col("user_id") != user))
    ds.samples.refresh("half")
    assert ds.logs(sample="half").filter(F.col("user_id") == user).isEmpty()


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_a_version_between(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None]
) -> None:
    ds = made(spark, lake)
    more = log(spark, [3], 500)
    at("rebucket:staged", lambda: Dataset.open(spark, lake, ds.name).write(more, run_id="more", gate=False))
    with pytest.raises(ConflictError, match="version 2"):
        ds.rebucket(8, "to-8")
    assert Dataset.open(spark, lake, ds.name).spec.buckets == 4
    ds.rebucket(8, "to-8")
    same_rows(ds.logs(), log(spark, [1, 2]).frame.unionByName(more.frame))
    in_segments(ds, 8)


@pytest.mark.parametrize(
    ("table_format", "looked"),
    [("iceberg", True), pytest.param("iceberg", False, marks=RARELY), ("delta", True)],
    indirect=["table_format"],
)
def test_a_write_while_it_is_half_complete(
    spark: SparkSession,
    lake: Settings,
    at: Callable[[str, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    looked: bool,
) -> None:
    """A table that has the new number already is not written in it: the version may be given up yet."""
    ds = made(spark, lake)
    before, more = ds.logs().localCheckpoint(), log(spark, [3], 500)
    monkeypatch.setattr(Rebucket, "_refuse_busy", lambda *_: None)
    if not looked:
        # As if the table had got it between the look and the write.
        monkeypatch.setattr(Staging, "_fit", lambda *_: None)

    def halfway() -> None:
        at("publish:after-pick-impressions", kill)
        with pytest.raises(Killed):
            Dataset.open(spark, lake, ds.name).rebucket(1)
        at("write:staged", lambda: Dataset.open(spark, lake, ds.name).publication.abandon(2))

    at("write:staged-requests", halfway)
    told = "changes from 4 to 1 in version 2, which is not complete" if looked else "lies in buckets of a version that"
    with pytest.raises(ConflictError, match=told):
        ds.write(more, run_id="more", gate=False)
    if looked:
        ds.publication.abandon(2)
    same_rows(ds.logs(), before)
    ds.write(more, run_id="more", gate=False)
    same_rows(ds.logs(), before.unionByName(more.frame))
    in_segments(ds, 4)


@pytest.mark.parametrize(
    ("table_format", "when"),
    [("iceberg", "claimed"), ("delta", "claimed"), pytest.param("delta", "looked", marks=RARELY), ("delta", "begun")],
    indirect=["table_format"],
)
def test_rows_that_another_tool_wrote_meanwhile(
    spark: SparkSession,
    lake: Settings,
    at: Callable[[str, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """However late: where all files go, there is nothing else that they would be in the way of."""
    ds = made(spark, lake)
    before = ds.logs().localCheckpoint()

    def foreign() -> None:
        cut = ds.handle.cut(1)
        rows = cut.stored("impressions").limit(1).localCheckpoint()
        if lake.format == "iceberg":
            rows.writeTo(f"{lake.catalog.name}.{ds.name}.impressions").append()
        else:
            rows.write.format("delta").mode("append").save(f"{lake.warehouse_uri}/{ds.name}/impressions")

    def before_call(owner: object, name: str) -> None:
        """Writes them when the table is next looked at in this way."""
        own = getattr(owner, name)

        def first(*given: Any) -> Any:
            if any("impressions" in str(getattr(each, "uri", "")) for each in given):
                monkeypatch.setattr(owner, name, own)
                foreign()
            return own(*given)

        monkeypatch.setattr(owner, name, first)

    acts = {
        "claimed": foreign,
        "looked": lambda: before_call(publish, "_taken_out"),
        "begun": lambda: before_call(TableLog, "_last_number"),
    }
    at("publish:after-claim", acts[when])
    with pytest.raises(ConflictError, match=r"impressions cannot be brought in, .*abandoned, nothing was published"):
        ds.rebucket(8)
    ds = Dataset.open(spark, lake, ds.name)
    same_rows(ds.logs(), before)
    in_segments(ds, 4)


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_nothing_is_published_by_what_is_refused(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None]
) -> None:
    """Not even what other tools joined, which is taken in before rows are read."""
    ds = made(spark, lake)
    ds.write(log(spark, [1], 500), gate=False)
    before = ds.logs().localCheckpoint()
    ds.samples.make("some", buckets=2)
    compact(ds, "impressions")
    with pytest.raises(UsageError, match="samples of whole user buckets"):
        ds.rebucket(8)
    assert [v.version for v in ds.versions()] == [1, 2]
    ds.samples.drop("some")
    assert ds.rebucket(8).version == 4
    same_rows(ds.logs(), before)
    in_segments(ds, 8)


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_an_erasure_that_began_before(spark: SparkSession, lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at of the dataset is of before: it looks again."""
    ds = made(spark, lake)
    other = Dataset.open(spark, lake, ds.name)
    busy = Forgetting._refuse_busy

    def rebucketed(self: Forgetting) -> None:
        monkeypatch.setattr(Forgetting, "_refuse_busy", busy)
        other.rebucket(8)

    monkeypatch.setattr(Forgetting, "_refuse_busy", rebucketed)
    with pytest.raises(DedupStorageError, match="changed from 4 to 8 in version 2"):
        ds.forget_users([1])
    ds = Dataset.open(spark, lake, ds.name)
    assert ds.logs().filter("user_id = 1").count()
    assert not ds.metadata().erasures


@pytest.mark.parametrize("table_format", ["delta"], indirect=True)
def test_records_of_samples_that_change_meanwhile(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None]
) -> None:
    ds = made(spark, lake, buckets=6)
    store = SampleStore(ds.handle)
    for name in ("first", "second"):
        ds.samples.make(name, size=2)
        # As former releases left it.
        store.save(store.load(name).model_copy(update={"of_buckets": None}))
    at("sample:before-record", lambda: ds.samples.drop("second"))
    ds.rebucket(5)
    ds = Dataset.open(spark, lake, ds.name)
    assert [(s.name, s.of_buckets) for s in SampleStore(ds.handle).list()] == [("first", 6)]


@pytest.mark.parametrize(
    ("table_format", "point"),
    [
        ("iceberg", "publish:after-claim"),
        ("iceberg", "publish:after-pick-impressions"),
        pytest.param("delta", "publish:after-claim", marks=RARELY),
        ("delta", "publish:after-pick-impressions"),
    ],
    indirect=["table_format"],
)
def test_given_up(
    spark: SparkSession, lake: Settings, at: Callable[[str, Callable[[], object]], None], point: str
) -> None:
    """The tables get back the buckets that they had, whatever was brought in already."""
    ds = made(spark, lake)
    before = ds.logs().localCheckpoint()
    at(point, kill)
    with pytest.raises(Killed):
        ds.rebucket(8, "to-8")
    ds = Dataset.open(spark, lake, ds.name)
    ds.publication.abandon(2)
    assert ds.spec.buckets == 4
    same_rows(ds.logs(), before)
    ds.write(log(spark, [3], 500), run_id="more", gate=False)
    in_segments(ds, 4)
    assert ds.rebucket(8, "to-8").version == 4
    same_rows(ds.logs(), before.unionByName(log(spark, [3], 500).frame))
    in_segments(ds, 8)


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_rows_set_aside(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake)

    def odd(day: int, first: int) -> RawLog:
        """A day with one request whose country changes inside it."""
        raw = log(spark, [day], first)
        changing = F.when(F.expr(f"request_id = {first} and item % 2 = 0"), "XX").otherwise(F.col("country"))
        return RawLog.from_frame(raw.frame.withColumn("country", changing), raw.schema)

    ds.write(odd(3, 500), run_id="odd", on_inconstant="quarantine", gate=False)
    before = ds.versions()[-1].rows
    assert before["quarantine"] == 3
    ds.rebucket(8)
    assert ds.versions()[-1].rows == before
    ds.write(odd(4, 700), run_id="again", on_inconstant="quarantine", gate=False)
    assert ds.versions()[-1].rows["quarantine"] == 6
    in_segments(ds, 8)


@pytest.mark.parametrize("table_format", DELTA_DAILY, indirect=True)
def test_a_name_of_before_is_used_again(spark: SparkSession, lake: Settings) -> None:
    """Its table was made for other buckets, and no version has it any more."""
    ds = made(spark, lake)
    ds.features.add("len", {"len": "size(hist)"}, gate=False)
    ds.features.drop("len")
    ds.maintain(policy=EXPIRING, compact=False)
    ds.rebucket(8)
    ds.features.add("len", {"len": "size(hist)"}, gate=False)
    groups_right(ds)
    in_segments(ds, 8)


@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_samples_of_either_side(spark: SparkSession, lake: Settings) -> None:
    ds = made(spark, lake, buckets=6)
    before = ds.logs().localCheckpoint()
    ds.samples.make("two", size=2)
    wanted = ds.logs(sample="two").localCheckpoint()
    ds.rebucket(5)
    for version in (None, 1):
        same_rows(ds.logs(version, sample="two"), wanted)
        assert len(read(DedupDataset(ds.name, lake, sample="two", version=version))) == wanted.count()
    # Made of a version of before, its buckets are that version's.
    ds.samples.make("old", size=3, version=1)
    ds.samples.make("whole", buckets=2, version=1)
    three = ds.logs(1, sample="old").localCheckpoint()
    same_rows(ds.logs(sample="old"), three)
    assert ds.logs(1, sample="whole").count() < before.count()
    for act in (lambda: ds.logs(sample="whole"), lambda: DedupDataset(ds.name, lake, sample="whole")):
        with pytest.raises(UsageError, match="takes whole user buckets of 6, and the version has 5"):
            act()

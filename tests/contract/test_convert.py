"""Conversion: to the other format and back, flat to split, killed and gone on with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage import connect
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.convert import run as module
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import DatasetExistsError, DuplicateRowsError, StateMismatchError, StorageError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import DateGrain
from dedup_storage.sources.raw import RawLog
from tests.contract.conftest import MakeLog
from tests.integration.test_reader_spark import read
from tests.spark.helpers import ICEBERG_DAILY, flat_rows, flat_schema, frame, multiset, same_rows

OTHER = {"iceberg": "delta", "delta": "iceberg"}


class StoppedError(Exception):
    """In place of a process's death."""


@pytest.mark.slow
def test_there_and_back_is_the_same(
    spark: SparkSession,
    lake: Settings,
    settings: Settings,
    name: str,
    make_log: MakeLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flat to the other format's split layout, stopped after a part and gone on with, then back to flat."""
    raw = make_log([1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw, layout=Layout.FLAT)
    ds.write(raw, gate=False)

    def stop(point: str) -> None:
        if point == "convert:part-0":
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(module, "reached", stop)
        with pytest.raises(StoppedError):
            ds.convert(f"{name}_b", format=OTHER[lake.format], layout=Layout.SPLIT, run_id="turn")
    other = settings.model_copy(update={"format": OTHER[lake.format]})
    assert Dataset.open(spark, other, f"{name}_b").metadata().current == 1
    # Written meanwhile; the run goes on with the version that it began with.
    ds.write(make_log([3], 500), gate=False)
    with pytest.raises(DatasetExistsError, match="not begun by this run"):
        ds.convert(f"{name}_b", format=OTHER[lake.format], layout=Layout.SPLIT, run_id="other")
    done = ds.convert(f"{name}_b", format=OTHER[lake.format], layout=Layout.SPLIT, run_id="turn")
    assert (done.source_version, done.version, done.already_done) == (1, 2, 1)
    assert (done.requests, done.impressions, len(done.parts)) == (10, 30, 2)
    assert (done.source_format, done.target_format) == (lake.format, OTHER[lake.format])
    assert done.hints[0].endswith(f"DEDUP_STORAGE_FORMAT={OTHER[lake.format]}")
    turned = Dataset.open(spark, other, f"{name}_b")
    same_rows(turned.logs(), raw.frame)
    assert read(DedupDataset(f"{name}_b", other)) == read(DedupDataset(name, lake, version=1))
    assert all(not v.pins for v in ds.versions())

    back = turned.convert(f"{name}_c", format=lake.format, layout=Layout.FLAT, run_id="back")
    assert {p.part: p for p in back.parts} == {p.part: p for p in done.parts}
    same_rows(Dataset.open(spark, lake, f"{name}_c").logs(), raw.frame)
    assert back.source_bytes == done.target_bytes > 0


def positions(ds: Dataset) -> Counter[Any]:
    return multiset(ds.impressions().select("user_id", "request_id", "position", "item", "y"))


@pytest.mark.long
def test_positions_stay(spark: SparkSession, lake: Settings, settings: Settings, name: str) -> None:
    """Those of a list, and those of rows that were changed after a position was assigned to them."""
    rows = frame(spark, flat_rows([1, 2])).withColumn("item", F.expr("if(item % 4 < 2, 'b', 'a')"))
    by_turns = F.sort_array(F.collect_list(F.struct(F.xxhash64("item", "y", "request_id").alias("h"), "item", "y")))
    listed = rows.groupBy("user_id", "request_id", "ts", "country", "hist").agg(by_turns.alias("l"))
    nested = listed.selectExpr("* except (l)", "l.item items", "l.y clicks")
    raw = RawLog.from_frame(nested, flat_schema(candidates={"items": "item", "clicks": "y"}))
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    ds.backfill(Change({"y": "1 - y"}), Affected(users=[0, 1, 2]), run_id="turned", gate=False)
    ds.convert(f"{name}_b", format=OTHER[lake.format], layout=Layout.FLAT, buckets=3, run_id="flat")
    flat = Dataset.open(spark, settings.model_copy(update={"format": OTHER[lake.format]}), f"{name}_b")
    flat.convert(f"{name}_c", layout=Layout.SPLIT, date_grain=DateGrain.NONE, run_id="split")
    split = Dataset.open(spark, flat.settings, f"{name}_c")
    assert positions(flat) == positions(split) == positions(ds)
    same_rows(split.logs(), ds.logs())
    # Logs of the form that it was created with go on being written.
    more = RawLog.from_frame(nested.withColumn("request_id", F.expr("request_id + 1000")), raw.schema)
    assert split.write(more, gate=False).version == split.metadata().current


@pytest.mark.long
@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_requests_without_impressions_do_not_get_lost(spark: SparkSession, lake: Settings, name: str) -> None:
    """Split layout keeps them by bucket; flat layout has no row for them, and the run says so."""
    schema = flat_schema(date_grain="none", buckets=2)
    rows = frame(spark, flat_rows([1]))
    requests = rows.select("user_id", "request_id", "ts", "country", "hist").distinct()
    impressions = rows.filter("request_id > 0").select("user_id", "request_id", "item", "y")
    raw = RawLog.from_frame(requests, schema, impressions)
    ds = Dataset.create(spark, lake, name, schema, raw)
    ds.write(raw, gate=False)
    done = ds.convert(f"{name}_b", run_id="one")
    assert (done.requests, done.impressions, [p.part for p in done.parts]) == (5, 12, ["bucket-0", "bucket-1"])
    copied = Dataset.open(spark, lake, f"{name}_b")
    same_rows(copied.requests(), ds.requests())
    same_rows(copied.impressions(), ds.impressions())
    # However often it is run: what was published of it is compared again.
    for _ in range(2):
        with pytest.raises(StorageError, match="differs"):
            ds.convert(f"{name}_c", layout=Layout.FLAT, run_id="flat")


@pytest.mark.long
@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_features_and_samples_come_along(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> None:
    """What can be kept exactly is; what cannot is told before, and again at the end."""
    raw = make_log([1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    ds.features.add("lengths", {"n": "size(hist)"}, gate=False)
    ds.features.add("longer", {"m": "n + item"}, grain="impression", uses=["lengths"], gate=False)
    ds.features.promote("lengths")
    ds.samples.make("half", fraction=0.5)
    ds.samples.make("strata", fractions={"*": 0.6}, strata=[{"name": "country", "column": "country"}])
    ds.samples.make("whole_buckets", buckets=2)
    # So few users that buckets are empty: the sample names those of its users, which are others in the new dataset.
    ds.samples.make("few", size=1, seed=5)
    assert min(ds.samples.describe("few")["chosen_buckets"]) >= 2
    ds.pin(1, "paper")

    options = {"layout": Layout.FLAT, "buckets": 2, "run_id": "along"}
    plan = ds.convert(f"{name}_b", dry_run=True, **options)
    assert plan.dry_run
    assert (plan.features, plan.samples, plan.buckets, plan.version) == (
        ("lengths", "longer"),
        ("few", "half", "strata"),
        2,
        0,
    )
    assert [sentence.partition(":")[0] for sentence in plan.left] == [
        "the sample whole_buckets",
        "the history",
        f"pins, which name versions of {name}",
    ]
    assert ds.tables.find(f"{name}_b") is None
    done = ds.convert(f"{name}_b", **options)
    assert (done.features, done.samples, done.left) == (plan.features, plan.samples, plan.left)
    turned = Dataset.open(spark, lake, f"{name}_b")
    same_rows(turned.logs(), ds.logs())
    for sample in done.samples:
        same_rows(turned.samples.users(sample), ds.samples.users(sample))
        same_rows(turned.logs(sample=sample), ds.logs(sample=sample))
    assert read(DedupDataset(turned.name, lake, sample="few")) == read(DedupDataset(name, lake, sample="few"))
    # They follow from the rows here as they did there.
    assert turned.features.refresh("longer", gate=False).up_to_date
    assert turned.features()["lengths"].source == ds.features()["lengths"].source
    assert ds.convert(f"{name}_b", **options).version == done.version == turned.metadata().current
    bare = ds.convert(f"{name}_c", version=1, drop_features=True, run_id="bare", dry_run=True)
    assert bare.features == ()


@pytest.mark.long
@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_other_buckets_under_the_same_name(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> None:
    """As docs/how-to/convert.md says: converted, both renamed; and back, and forward again."""
    raw = make_log([1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, run_id="days-1-2", gate=False)
    ds.features.add("lengths", {"n": "size(hist)"}, gate=False)
    ds.samples.make("half", fraction=0.5, seed=1)
    ds.pin(1, "paper")
    rows, sampled = multiset(ds.logs()), multiset(ds.logs(sample="half"))
    state = DedupDataset(name, lake, version=2).state_dict()
    opened, other, before = connect(lake, spark=spark), f"{name}_8", f"{name}_before"

    left = ds.convert(other, buckets=8, run_id="to-8").left
    assert [sentence.partition(":")[0] for sentence in left] == ["the history", "pins, which name versions of " + name]
    assert left[0].endswith("; run ids of before are not known there")
    opened.rename(name, before)
    opened.rename(other, name)
    there = opened.open(name)
    assert [opened.describe(n).buckets for n in (name, before)] == [8, 4]
    assert (multiset(there.logs()), multiset(there.logs(sample="half"))) == (rows, sampled)
    assert read(DedupDataset(name, lake)) == read(DedupDataset(before, lake))
    # A version's number means another one there, a part of the log: no state of before goes on with it.
    with pytest.raises(StateMismatchError, match="other snapshots"):
        DedupDataset(name, lake, version=2).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="another dataset"):
        DedupDataset(before, lake, version=2).load_state_dict(state)
    # A run of before is not known: appended again it is refused, replaced it leaves the same rows.
    with pytest.raises(DuplicateRowsError, match="10 requests are in the dataset"):
        there.write(raw, run_id="days-1-2")
    there.write(raw, run_id="days-1-2", mode="replace", gate=False)
    there.features.refresh("lengths", gate=False)
    assert multiset(there.logs()) == rows
    if lake.format == "iceberg":
        assert there.join().count() == sum(rows.values())

    # The former dataset is whole, and takes the name again; so does the new one after that.
    opened.rename(name, other)
    opened.rename(before, name)
    back = opened.open(name)
    assert multiset(back.logs()) == rows
    assert [v.pins for v in back.versions()] == [("paper",), ()]
    DedupDataset(name, lake, version=2).load_state_dict(state)
    assert back.write(raw, run_id="days-1-2", gate=False).already_published
    opened.rename(name, before)
    opened.rename(other, name)
    assert multiset(opened.open(name).logs()) == rows

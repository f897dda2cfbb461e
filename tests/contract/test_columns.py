"""Columns that a dataset gets, and columns that its log no longer has: old versions, readers, what works on them.

One dataset of each case lives through it all, since every step rests on those before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConflictError, SchemaError, UnknownColumnError, UsageError
from dedup_storage.lake.catalogs import open_admin
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import DateGrain
from dedup_storage.sources.raw import RawLog
from tests.contract.test_convert import OTHER
from tests.contract.test_publication import Killed, kill
from tests.spark.helpers import DELTA_DAILY, RARELY, flat_rows, flat_schema, frame, multiset, same_rows

NEW = {"age": "bigint", "score": "double", "seen": "array<bigint>"}
CASES = [
    pytest.param("iceberg", "flat", "month", id="iceberg-flat"),
    pytest.param("delta", "split", "day", id="delta-split", marks=pytest.mark.slow),
    pytest.param("iceberg", "split", "day", id="iceberg-split", marks=RARELY),
    pytest.param("delta", "flat", "month", id="delta-flat", marks=RARELY),
]


def narrow(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows(days, first_request=first_request)), flat_schema())


def wide(spark: SparkSession, days: list[int], first_request: int = 0, **more: str) -> RawLog:
    """The same with a number and a list of the request, a number of the impression, and what more is asked for."""
    rows = frame(spark, flat_rows(days, first_request=first_request))
    made = {"age": "user_id * 10L", "score": "item / 2.0D", "seen": "transform(hist, x -> x + 1)", **more}
    return RawLog.from_frame(rows.selectExpr("*", *(f"{sql} as {c}" for c, sql in made.items())), flat_schema())


def with_nulls(rows: DataFrame, **columns: str) -> DataFrame:
    return rows.select("*", *(F.lit(None).cast(kind).alias(c) for c, kind in columns.items()))


def delivered(ds: Dataset, version: int | None = None) -> list[tuple[Any, ...]]:
    """What the reader gives of a version, as flat rows in the order of ``logs``."""
    spec, found = ds.metadata().spec_of(ds.metadata().resolve(version)), []
    requests = {*spec.request_key, *spec.columns_of(spec.schema_.declared_grains()[spec.schema_.user])}
    for batch in DedupDataset(ds.name, ds.settings, version=version):
        names = [c for c in spec.source_columns if c != "ts"]
        columns = {c: batch[c].decode() for c in names}
        for place, owner in enumerate(batch.inverse_indices.tolist()):
            found.append(tuple(columns[c][owner if c in requests else place] for c in names))
    return sorted(found, key=repr)


def logged(ds: Dataset, version: int | None = None) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in ds.logs(version, features=()).drop("ts").collect()), key=repr)


@pytest.mark.long
@pytest.mark.parametrize(("table_format", "layout", "grain"), CASES)
def test_columns_come_and_go(
    spark: SparkSession, settings: Settings, name: str, table_format: str, layout: str, grain: str
) -> None:
    lake = settings.model_copy(update={"format": table_format})
    first, second = narrow(spark, [1]), wide(spark, [2], 100)
    ds = Dataset.create(spark, lake, name, first.schema, first, layout=Layout(layout), date_grain=DateGrain(grain))
    stale = Dataset.open(spark, lake, name)
    ds.write(first, run_id="day-1", gate=False)

    # Not said: the refusal names the option and the columns.
    with pytest.raises(SchemaError, match=r"does not have the log's column age.*--add-columns age,score,seen"):
        ds.write(second, gate=False)
    with pytest.raises(SchemaError, match="does not have the log's column score"):
        ds.write(second, add_columns=["age", "seen"], gate=False)
    with pytest.raises(SchemaError, match="add-columns names the column agee"):
        ds.write(second, add_columns="agee", gate=False)
    assert ds.metadata().current == 1

    summary = ds.write(second, run_id="day-2", add_columns="all")
    assert (summary.version, summary.added_columns, summary.gate) == (2, ("age", "score", "seen"), "passed")
    assert ds.metadata().info(2).summary["added-columns"] == "age,score,seen"
    assert ds.spec.types == {**first.source_types(), **NEW}
    both = with_nulls(first.frame, **NEW).unionByName(second.frame)
    same_rows(ds.logs(), both)
    assert ds.inspect.history()[1].added_columns == ("age", "score", "seen")
    assert open_admin(lake).describe(name).added == dict.fromkeys(NEW, 2)
    # The version before reads exactly as it did.
    same_rows(ds.logs(1), first.frame)
    assert (delivered(ds), delivered(ds, 1)) == (logged(ds), logged(ds, 1))
    assert ds.write(second, run_id="day-2", add_columns="all").already_published
    with pytest.raises(UsageError, match="the add columns differ"):
        ds.write(second, run_id="day-2", add_columns="age,score,seen")
    with pytest.raises(ConflictError, match=f"the columns of {name} changed since it was opened"):
        stale.features.add("n", {"n": "size(hist)"}, gate=False)

    # A log without them: nulls, where that is said.
    third = narrow(spark, [3], 200)
    with pytest.raises(SchemaError, match=r"lacks the column age.*--fill-columns age,score,seen"):
        ds.write(third, gate=False)
    filled = stale.write(third, run_id="day-3", fill_columns="all", gate=False)
    assert (filled.version, filled.filled_columns, filled.added_columns) == (3, ("age", "score", "seen"), ())
    without_label = RawLog.from_frame(wide(spark, [4], 300).frame.drop("y"), flat_schema(), fill_columns="y")
    assert ds.write(without_label, fill_columns="y", gate=False).filled_columns == ("y",)
    with pytest.raises(SchemaError, match="lacks the column hist of the dataset"):
        ds.write(RawLog.from_frame(third.frame.drop("hist"), flat_schema(), fill_columns="hist"), gate=False)
    with pytest.raises(SchemaError, match="item, which cannot be filled"):
        RawLog.from_frame(third.frame.drop("item"), flat_schema(), fill_columns="all")
    fourth = with_nulls(without_label.frame, y="int").select(*both.columns)
    everything = both.unionByName(with_nulls(third.frame, **NEW)).unionByName(fourth)
    same_rows(ds.logs(), everything)
    assert delivered(ds) == logged(ds)

    # A column that comes with a replaced day; the other days of its segment have nulls there.
    again = wide(spark, [3], 400, late="request_id % 2 = 0")
    ds.write(again, mode="replace", add_columns=["late"], gate=False)
    kept = everything.filter("day(ts) <> 3")
    same_rows(ds.logs(), with_nulls(kept, late="boolean").unionByName(again.frame))
    report = ds.compression_report(baselines=(), with_curves=False)
    assert {*NEW, "late"} <= {c.column for c in report.columns}
    before = ds.compression_report(1, baselines=(), with_curves=False)
    assert not {*NEW, "late"} & {c.column for c in before.columns}

    # What works on columns works on these.
    ds.features.add("lengths", {"n": "size(seen)"}, gate=False)
    assert multiset(ds.requests().select("n")) == multiset(ds.requests().selectExpr("size(seen)"))
    ds.backfill(Change({"age": "coalesce(age, -1L)"}), Affected(users=[0, 1]), run_id="ages", gate=False)
    whole = with_nulls(kept, late="boolean").unionByName(again.frame)
    aged = whole.withColumn("age", F.expr("if(user_id < 2, coalesce(age, -1L), age)"))
    same_rows(ds.logs(features=()), aged)
    with pytest.raises(SchemaError, match="lengths"):
        ds.write(wide(spark, [6], 600, late="true", n="1"), add_columns="all", gate=False)
    seventh = ds.metadata().current

    # Back to before: as if they had never been there, but for their names.
    ds.rollback(1)
    assert ds.spec.types == first.source_types()
    fifth = narrow(spark, [5], 500)
    ds.write(fifth, gate=False)
    plain = first.frame.unionByName(fifth.frame)
    same_rows(ds.logs(), plain)
    assert delivered(ds) == logged(ds)
    with pytest.raises(UnknownColumnError, match="has the column age"):
        ds.backfill(Change({"age": "0L"}), gate=False)
    with pytest.raises(SchemaError, match="age of the feature group ages"):
        ds.features.add("ages", {"age": "size(hist)"}, gate=False)
    with pytest.raises(SchemaError, match=r"age cannot be added.*the log as age bigint, in version 2"):
        ds.write(wide(spark, [6], 600, age="'old'"), add_columns="all", gate=False)
    sixth = wide(spark, [6], 600)
    ds.write(sixth, add_columns="all", gate=False)
    same_rows(ds.logs(), with_nulls(plain, **NEW).unionByName(sixth.frame))
    ds.rollback(seventh)
    same_rows(ds.logs(features=()), aged)
    assert delivered(ds, seventh) == logged(ds, seventh)


@pytest.mark.long
@pytest.mark.parametrize("table_format", DELTA_DAILY)
def test_names_that_are_taken_and_a_death_in_between(
    spark: SparkSession,
    settings: Settings,
    name: str,
    table_format: str,
    at: Callable[[str, Callable[[], object]], None],
) -> None:
    lake = settings.model_copy(update={"format": table_format})
    first, second = narrow(spark, [1]), wide(spark, [2], 100)
    ds = Dataset.create(spark, lake, name, first.schema, first)
    ds.write(first, gate=False)
    for column in ("EVENT_DATE", "position"):
        with pytest.raises(SchemaError, match=rf"{column} cannot be added .* a column of the toolkit"):
            ds.write(wide(spark, [2], 100, **{column: "1"}), add_columns="all", gate=False)
    renamed = wide(spark, [2], 100).frame.withColumnRenamed("country", "Country")
    other = RawLog.from_frame(renamed, flat_schema(columns={"Country": "request"}))
    with pytest.raises(SchemaError, match=r"Country cannot be added .* the log, written country"):
        ds.write(other, add_columns="all", fill_columns="country", gate=False)

    # Dead before anything was decided: nothing is seen of it, and logs come in as before.
    at("write:extended", kill)
    with pytest.raises(Killed):
        ds.write(second, run_id="wide", add_columns="all", gate=False)
    ds.write(narrow(spark, [3], 200), gate=False)
    plain = first.frame.unionByName(narrow(spark, [3], 200).frame)
    same_rows(ds.logs(), plain)
    assert delivered(ds) == logged(ds)
    # Dead when it was decided: whoever comes next finishes it, description and all.
    at("publish:after-claim", kill)
    with pytest.raises(Killed):
        ds.write(second, run_id="wide", add_columns="all", gate=False)
    assert Dataset.open(spark, lake, name).spec.types == first.source_types()
    ds.write(wide(spark, [4], 300), run_id="next", gate=False)
    assert [(v.version, v.run_id) for v in ds.versions()][2:] == [(3, "wide"), (4, "next")]
    everything = with_nulls(plain, **NEW).unionByName(second.frame).unionByName(wide(spark, [4], 300).frame)
    same_rows(ds.logs(), everything)
    same_rows(ds.logs(2), plain)

    # Another run is faster with other columns.
    slow = Dataset.open(spark, lake, name)
    at("write:staged", lambda: ds.write(wide(spark, [5], 400, one="1"), add_columns="one", gate=False))
    with pytest.raises(ConflictError, match=f"changed the columns of {name} first"):
        slow.write(wide(spark, [6], 500, two="2"), add_columns="two", gate=False)
    assert "two" not in ds.spec.source_columns


@pytest.mark.slow
@pytest.mark.parametrize("table_format", ["iceberg", "delta"])
def test_upkeep_of_versions_with_other_columns(
    spark: SparkSession, settings: Settings, name: str, table_format: str
) -> None:
    lake = settings.model_copy(update={"format": table_format})
    first, second = narrow(spark, [1]), wide(spark, [2], 100)
    ds = Dataset.create(spark, lake, name, first.schema, first)
    ds.write(first, gate=False)
    ds.write(second, add_columns="all", gate=False)
    ds.write(wide(spark, [2], 200), gate=False)
    everything = with_nulls(first.frame, **NEW).unionByName(second.frame).unionByName(wide(spark, [2], 200).frame)
    # Nested candidates bring a field, and lack what others have at both grains.
    flat = frame(spark, flat_rows([4], first_request=400))
    candidates = F.collect_list(F.struct("item", "y", F.lit(1).alias("extra"))).alias("shown")
    nested = flat.groupBy("user_id", "request_id", "ts", "country", "hist").agg(candidates)
    raw = RawLog.from_frame(nested, flat_schema(candidates={"shown": "*"}))
    ds.write(raw, add_columns="extra", fill_columns="all", gate=False)
    came = with_nulls(flat, **NEW).withColumn("extra", F.lit(1))
    everything = with_nulls(everything, extra="int").unionByName(came)
    same_rows(ds.logs(), everything)
    ds.maintain()
    ds.forget_users([0])
    same_rows(ds.logs(), everything.filter("user_id <> 0"))
    same_rows(ds.logs(1), first.frame.filter("user_id <> 0"))
    same_rows(ds.logs(2), with_nulls(first.frame, **NEW).unionByName(second.frame).filter("user_id <> 0"))
    assert delivered(ds, 1) == logged(ds, 1)
    assert delivered(ds) == logged(ds)
    assert ds.check(1).passed
    assert ds.check(2).passed
    turned = ds.convert(f"{name}_b", format=OTHER[table_format], layout=Layout.FLAT, run_id="turn")
    other = settings.model_copy(update={"format": OTHER[table_format]})
    same_rows(Dataset.open(spark, other, turned.target).logs(), everything.filter("user_id <> 0"))
    ds.convert(f"{name}_c", version=1, run_id="old")
    same_rows(Dataset.open(spark, lake, f"{name}_c").logs(), first.frame.filter("user_id <> 0"))

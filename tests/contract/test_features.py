"""Feature groups: added, refreshed, renamed, dropped, in every version as it was; in the reader."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features import Lookup
from dedup_storage.errors import QualityGateError, UnknownColumnError, UsageError
from dedup_storage.reader import DedupDataset
from tests.contract.conftest import MakeLog
from tests.contract.upkeep import DELTA_ALONE
from tests.spark.helpers import multiset, same_rows


def length(ds: Dataset) -> DataFrame:
    return ds.requests(features=()).withColumn("n", F.expr("size(hist)"))


@pytest.mark.slow
def test_a_group_lives_through_versions(lake: Settings, ds: Dataset, make_log: MakeLog) -> None:
    added = ds.features.add("length", {"n": "size(hist)"}, run_id="add")
    assert (added.version, added.rows, added.gate) == (2, 5, "passed")
    assert ds.features.add("length", {"n": "size(hist)"}, run_id="add").version == 2
    assert multiset(ds.requests()) == multiset(length(ds))
    assert ds.logs(1).columns == make_log([1]).frame.columns
    ds.features.add("seen", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)

    ds.write(make_log([2], 100), gate=False)
    assert ds.requests().filter("n IS NULL").count() == 5
    refreshed = ds.features.refresh("length", gate=False)
    assert refreshed.rows == 5
    assert multiset(ds.requests()) == multiset(length(ds))
    assert ds.features.refresh("length").up_to_date
    ds.write(make_log([1], 200), mode="replace", gate=False)
    ds.features.refresh("length", gate=False)
    assert multiset(ds.requests()) == multiset(length(ds))
    ds.features.refresh("seen", gate=False)
    expected = ds.logs(features=()).withColumn("n", F.expr("size(hist)"))
    same_rows(ds.logs(), expected.withColumn("seen", F.expr("array_contains(hist, item)")))

    delivered = {}
    for batch in DedupDataset(ds.name, lake):
        delivered.update(zip(batch["request_id"].decode(), batch["n"].decode(), strict=True))
        assert batch.grains["seen"].value == "impression"
    assert delivered == {r["request_id"]: r["n"] for r in ds.requests().collect()}

    ds.features.rename("length", "size")
    assert set(ds.features()) == {"seen", "size"}
    ds.features.drop("size")
    assert set(ds.features()) == {"seen"}
    assert "n" not in ds.requests().columns
    before = ds.metadata().current - 1
    assert "n" in ds.requests(before).columns
    ds.rollback(before)
    assert set(ds.features()) == {"seen", "size"}
    with pytest.raises(UnknownColumnError, match="no feature group length"):
        ds.features.drop("length")


@pytest.mark.long
def test_what_a_group_may_not_be(standing: Dataset) -> None:
    ds = standing
    with pytest.raises(UsageError):
        ds.features.add("country", {"country": "upper(country)"})
    some = ds.requests().filter("user_id > 0").select("user_id", "request_id", F.lit(1).alias("one"))
    with pytest.raises(QualityGateError):
        ds.features.add("some", some)
    assert ds.metadata().current == 1


@pytest.mark.slow
@DELTA_ALONE
def test_a_promoted_group_reads_and_refreshes_as_before(
    spark: SparkSession, lake: Settings, name: str, make_log: MakeLog
) -> None:
    raw = make_log([1, 2], date_grain="month")
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    ds.features.add("match", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)
    before = multiset(ds.logs())
    assert ds.features.promote("age", run_id="p").rows == 10
    assert ds.features.promote("age", run_id="p").version == 4
    ds.features.promote("match")
    assert multiset(ds.logs()) == before
    assert "length" in ds.requests(2).columns
    assert "length" not in ds.requests(1).columns
    for group in ("age", "match"):
        assert ds.features.refresh(group).up_to_date, group
    # New and replaced days come without the values, which a refresh writes into their segments.
    ds.write(make_log([3], 100), gate=False)
    ds.write(make_log([2], 200), mode="replace", gate=False)
    assert ds.logs().filter("length is null").count() == 30
    for group in ("age", "match"):
        assert ds.features.refresh(group).dates == (("2024-01-01", "2024-01-04"),), group
    plain = ds.logs(features=())
    wanted = plain.withColumn("length", F.size("hist")).withColumn("seen", F.array_contains("hist", F.col("item")))
    same_rows(ds.logs(), wanted)
    read = {}
    for batch in DedupDataset(ds.name, lake):
        read.update(zip(batch["request_id"].decode(), batch["length"].decode(), strict=True))
    assert read == {r["request_id"]: r["length"] for r in ds.requests().collect()}
    # A backfill of the promoted column rewrites the table that holds it.
    ds.backfill(Change(expressions={"length": "length + 1"}), Affected(users=[1]), gate=False)
    same_rows(ds.logs(), wanted.withColumn("length", F.expr("if(user_id = 1, length + 1, length)")))
    ds.features.drop("age")
    assert "length" not in ds.logs().columns
    assert "length" not in next(iter(DedupDataset(ds.name, lake)))
    ds.write(make_log([4], 400), gate=False)
    ds.rollback(3)
    assert multiset(ds.logs()) == before


@pytest.mark.slow
@DELTA_ALONE
def test_a_changed_lookup_table_makes_the_group_stale(
    spark: SparkSession, lake: Settings, ds: Dataset, make_log: MakeLog
) -> None:
    uri = f"{lake.warehouse_uri}/{ds.name}/prices"
    table = f"delta.`{uri}`" if lake.format == "delta" else f"{lake.catalog.name}.{ds.name}.prices"
    spark.sql(f"CREATE TABLE {table} USING {lake.format} AS SELECT id item, id * 2 price FROM range(20)")
    lookup = Lookup(f"{ds.name}.prices", {"item": "item"}, {"price": "price"})
    ds.features.add("price", lookup, grain="impression", gate=False)
    assert ds.features.refresh("price", gate=False).up_to_date
    ds.write(make_log([2], 100), gate=False)
    assert ds.features.refresh("price", gate=False).dates == (("2024-01-02", "2024-01-03"),)
    spark.sql(f"UPDATE {table} SET price = price + 1")
    assert ds.features.refresh("price", gate=False).dates == (("", ""),)
    same_rows(ds.logs(), ds.logs(features=()).withColumn("price", F.expr("if(item < 20, item * 2 + 1, null)")))
    assert ds.features.refresh("price", gate=False).up_to_date

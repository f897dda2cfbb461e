"""Whole datasets: pinned without Spark and read with it, renamed, dropped, made again under a name that was free."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage import Dataset, connect
from dedup_storage.config import Settings
from dedup_storage.dataset.adopt import adopt
from dedup_storage.errors import DatasetExistsError, DatasetNotFoundError, UsageError
from dedup_storage.lake.catalogs import open_admin
from dedup_storage.reader import DedupDataset
from tests.contract.conftest import MakeLog
from tests.contract.test_adopt import lay, schema
from tests.contract.test_reader import rows_of
from tests.integration.test_reader_spark import read
from tests.spark.helpers import same_rows


@pytest.mark.long
def test_pins_made_without_spark_are_spark_s_own(ds: Dataset, lake: Settings, make_log: MakeLog) -> None:
    admin = open_admin(lake)
    pinned = admin.pin(ds.name, 1, "paper")
    assert pinned == ds.pin(1, "paper")
    assert [v.pins for v in ds.versions()] == [("paper",)]
    if lake.format == "iceberg":
        tag = ds.spark.read.option("versionAsOf", "pin-v1-paper").table(f"{lake.catalog.name}.{ds.name}.requests")
        assert tag.count() == ds.requests(1).count()
    # Spark goes on from what was committed here, and the other way round.
    ds.write(make_log([2], 100), gate=False)
    admin.pin(ds.name, 2, "later")
    ds.pin(2, "both")
    assert [v.pins for v in ds.versions()] == [("paper",), ("both", "later")]
    assert admin.unpin(ds.name, "paper") == [1]
    ds.unpin("later")
    assert [v.pins for v in ds.versions()] == [(), ("both",)]
    ds.rollback(1)
    same_rows(ds.logs(), ds.logs(1))


@pytest.mark.long
def test_a_renamed_dataset_is_the_same_in_everything_but_its_name(
    ds: Dataset, lake: Settings, spark: SparkSession, make_log: MakeLog
) -> None:
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    ds.samples.make("half", fraction=0.5, seed=1)
    opened, name = connect(lake, spark=spark), f"{ds.name}_new"
    rows, sampled = ds.logs().collect(), ds.logs(sample="half").count()
    taken = _other(spark, lake, f"{ds.name}_taken", make_log)
    with pytest.raises(DatasetExistsError, match="is taken"):
        opened.rename(ds.name, taken.name, dry_run=True)
    planned = opened.rename(ds.name, name, dry_run=True)
    assert ds.name in opened.datasets()
    done = opened.rename(ds.name, name)
    assert planned.model_copy(update={"dry_run": False}) == done
    with pytest.raises(DatasetNotFoundError, match=name):
        opened.open(ds.name)
    renamed = opened.open(name)
    assert renamed.name == name
    assert sorted(map(str, renamed.logs().collect())) == sorted(map(str, rows))
    assert renamed.logs(sample="half").count() == sampled
    assert read(DedupDataset(name, lake)) == rows_of(renamed)
    renamed.write(make_log([2], 100), gate=False)
    renamed.features.refresh("age", gate=False)
    renamed.features.add("more", {"more": "length * 2"}, uses=["age"], gate=False)
    assert renamed.logs().where("more = 2 * length").count() == renamed.logs().count()

    # The old name is free, and what is made under it has nothing to do with the files that stayed.
    again = _other(spark, lake, ds.name, make_log)
    again.features.add("more", {"more": "1"}, gate=False)
    opened.drop(ds.name)
    assert ds.name not in opened.datasets()
    assert renamed.logs().where("more = 2 * length").count() == renamed.logs().count()
    renamed.maintain()
    planned_drop = opened.drop(name, dry_run=True)
    assert renamed.logs().count() > 0
    assert planned_drop.model_copy(update={"dry_run": False}) == opened.drop(name)
    assert name not in opened.datasets()
    folders = {folder.name for folder in Path(lake.warehouse).glob(f"{ds.name}*")}
    assert folders == {taken.name}


def _other(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> Dataset:
    raw = make_log([3])
    made = Dataset.create(spark, lake, name, raw.schema, raw)
    made.write(raw, gate=False)
    return made


def test_a_dataset_is_not_dropped_under_a_pin(ds: Dataset, lake: Settings, spark: SparkSession) -> None:
    ds.pin(1, "paper")
    opened = connect(lake, spark=spark)
    with pytest.raises(UsageError, match="version 1 as paper"):
        opened.drop(ds.name)
    assert ds.logs().count() > 0
    opened.drop(ds.name, force=True)
    with pytest.raises(DatasetNotFoundError):
        ds.metadata()


@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_files_of_an_adopted_log_outlive_the_dataset(
    spark: SparkSession, lake: Settings, name: str, tmp_path: Path, kind: str
) -> None:
    source = lay(spark, lake, kind, name, tmp_path)
    adopt(spark, lake, name, schema(), source)
    opened = connect(lake, spark=spark)
    moved = f"{name}_moved"
    opened.rename(name, moved)
    count = opened.open(moved).logs().count()
    dropped = opened.drop(moved)
    assert moved not in opened.datasets()
    assert dropped.kept
    if kind == "parquet":
        assert spark.read.parquet(source).count() == count
    elif lake.format == "delta":
        assert spark.read.format("delta").load(source).count() == count
    else:
        # Not in the catalog any more, but whole: it is registered again by its metadata.
        again = f"{name}_old.again"
        procedure = f"{lake.catalog.name}.system.register_table"
        spark.sql(f"CALL {procedure}(table => '{again}', metadata_file => '{dropped.kept[0]}')")
        assert spark.read.table(f"{lake.catalog.name}.{again}").count() == count


@pytest.mark.long
def test_a_dataset_tells_of_itself(ds: Dataset) -> None:
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    text = repr(ds)
    counted = f"requests {ds.requests().count()}, impressions {ds.impressions().count()}"
    for part in (ds.name, ds.tables.name, "split layout", "version 2 of 2 kept", counted, "feature groups age", " kB"):
        assert part in text

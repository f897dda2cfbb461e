"""The reader without Spark: rows, filters, resume, the same on every format; Delta tables that it refuses."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConfigError, StorageError, VersionNotFoundError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset, open_vocabulary
from dedup_storage.schema import DateGrain
from tests.contract.conftest import MakeLog
from tests.integration.test_reader_spark import ORDER, read


def rows_of(ds: Dataset, version: int | None = None) -> list[tuple[Any, ...]]:
    return sorted((tuple(row[c] for c in ORDER) for row in ds.logs(version).collect()), key=repr)


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "grain"),
    [("split", "day"), *(pytest.param(*p, marks=pytest.mark.slow) for p in (("flat", "month"), ("split", "none")))],
)
def test_every_version_as_spark_reads_it(
    spark: SparkSession, lake: Settings, name: str, make_log: MakeLog, layout: str, grain: str
) -> None:
    raw = make_log([1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw, layout=Layout(layout), date_grain=DateGrain(grain))
    ds.write(raw, gate=False)
    ds.write(make_log([2, 3], 100), mode="replace", gate=False)
    assert read(DedupDataset(name, lake)) == rows_of(ds)
    assert read(DedupDataset(name, lake, version=1)) == rows_of(ds, 1)
    with pytest.raises(VersionNotFoundError, match="no version 9"):
        DedupDataset(name, lake, version=9)


def test_columns_and_types_are_those_of_the_log(lake: Settings, standing: Dataset) -> None:
    batch = next(iter(DedupDataset(standing.name, lake)))
    assert set(batch) == {
        *("user_id", "request_id", "ts", "country", "hist", "event_date", "item", "y", "position"),
    }
    days_since_1970 = (dt.date(2024, 1, 1) - dt.date(1970, 1, 1)).days
    assert batch["event_date"].decode() == [days_since_1970] * batch.num_requests


@pytest.mark.long
def test_filters_on_dates(lake: Settings, ds: Dataset, make_log: MakeLog) -> None:
    ds.write(make_log([2, 3], 100), gate=False)
    inside = {"start": dt.date(2024, 1, 2), "end": dt.date(2024, 1, 2)}
    found = read(DedupDataset(ds.name, lake, filters=inside))
    days = ds.logs().filter("cast(ts as date) = date'2024-01-02'")
    assert found == sorted((tuple(row[c] for c in ORDER) for row in days.collect()), key=repr)
    assert len(found) == 15


def test_vocabularies_and_filters_on_columns(lake: Settings, standing: Dataset) -> None:
    rows = standing.logs().select("item", "country", "y").collect()
    counted = Counter(row["item"] for row in rows)
    for _ in range(2):  # built, then read from beside the dataset
        items = open_vocabulary(standing.name, "item", lake)
        assert dict(zip(items.values.to_pylist(), items.counts.tolist(), strict=True)) == counted
    country = rows[0]["country"]
    dataset = DedupDataset(standing.name, lake, filters={"country": country, "y": 1}, vocabularies={"item": items})
    found = [items.values[i - 1].as_py() for batch in dataset for i in batch["item"].values.tolist()]
    assert sorted(found) == sorted(row["item"] for row in rows if row["country"] == country and row["y"] == 1)
    assert 0 < len(found) < len(rows)


def test_an_epoch_goes_on_where_its_state_was_saved(lake: Settings, ds: Dataset, make_log: MakeLog) -> None:
    ds.write(make_log([2, 3], 100), gate=False)

    def keys(batches: Any) -> list[list[Any]]:
        return [b["request_id"].decode() for b in batches]

    options: dict[str, Any] = {"batch_size": 4, "seed": 3}
    whole = keys(DedupDataset(ds.name, lake, **options))
    assert len(whole) > 4
    assert sorted(r for k in whole for r in k) == sorted(r["request_id"] for r in ds.requests().collect())
    first = DedupDataset(ds.name, lake, **options)
    batches = iter(first)
    begun = keys(next(batches) for _ in range(3))
    second = DedupDataset(ds.name, lake, **options)
    second.load_state_dict(first.state_dict())
    assert begun + keys(second) == whole


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping"])
def test_a_delta_table_it_cannot_read_is_refused_with_the_way_out(
    spark: SparkSession, settings: Settings, name: str, make_log: MakeLog, feature: str
) -> None:
    lake = settings.model_copy(update={"format": "delta"})
    raw = make_log([1])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    wanted = rows_of(ds)
    uri = f"{lake.warehouse_uri}/{name}/requests"
    if feature == "deletionVectors":
        spark.sql(f"ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    else:
        spark.sql(
            f"ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name', "
            "'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '7')"
        )
    ds.write(make_log([2], 100), gate=False)
    assert read(DedupDataset(name, lake, version=1)) == wanted
    with pytest.raises(StorageError, match=f"uses {feature}") as caught:
        DedupDataset(name, lake)
    commands = str(caught.value.fix).removeprefix("Run in Spark: ").split(". What is published", 1)[0]
    for command in commands.split("; "):
        spark.sql(command)
    ds.write(make_log([3], 200), gate=False)
    assert read(DedupDataset(name, lake)) == rows_of(ds)


def test_a_filter_on_dates_needs_dates(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> None:
    raw = make_log([1], event_time=None, columns={"country": "request", "ts": "request"}, date_grain="none")
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    assert read(DedupDataset(name, lake)) == rows_of(ds)
    with pytest.raises(ConfigError, match="no event date"):
        DedupDataset(name, lake, filters={"start": dt.date(2024, 1, 1)})

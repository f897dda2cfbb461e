"""The report on datasets that Spark wrote, and the tuner's properties at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import InputError, StorageError, UnsafeNameError, UsageError
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.named import named_users
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.pages import read_pages
from dedup_storage.report.parquet.tables import DatasetFiles, read_totals
from dedup_storage.report.tune.apply import apply_properties
from dedup_storage.report.tune.dataset import tune_dataset
from dedup_storage.report.tune.search import Grid
from dedup_storage.sources.raw import Form, RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame

MIB = 1024**2


def _raw(spark: SparkSession, rows: list[tuple[Any, ...]]) -> RawLog:
    return RawLog(flat_schema(), Form.FLAT, frame(spark, rows))


def _write(spark: SparkSession, settings: Settings, name: str, layout: str, users: int = 12) -> Dataset:
    raw = _raw(spark, flat_rows([1, 2, 3], users=users))
    dataset = Dataset.create(spark, settings, name, flat_schema(), raw, layout=layout)
    dataset.write(raw, gate=False)
    return dataset


def _footers(files: DatasetFiles) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for table in files.tables:
        for file in table.files:
            metadata = pq.read_metadata(file.path.removeprefix("file:"))
            for g in range(metadata.num_row_groups):
                for c in range(metadata.num_columns):
                    chunk = metadata.row_group(g).column(c)
                    key = (table.name, chunk.path_in_schema.split(".")[0])
                    sums[key] = sums.get(key, 0) + chunk.total_compressed_size
    return sums


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_a_dataset_s_report(spark: SparkSession, settings: Settings, name: str, layout: str) -> None:
    dataset = _write(spark, settings, name, layout)
    files = dataset_files(settings, name)
    report = dataset.compression_report(with_curves=False)
    assert {(c.table, c.column): c.stored_bytes for c in report.columns} == _footers(files)
    paths = [Path(f.path.removeprefix("file:")) for t in files.tables for f in t.files]
    assert report.stored_bytes == sum(p.stat().st_size for p in paths)
    assert report.dedup_factor == pytest.approx(3)
    assert sum(p.stored_bytes for p in report.dates) == report.stored_bytes
    assert sum(p.stored_bytes for p in report.buckets) == report.stored_bytes
    assert {p.value for p in report.dates} == {"2024-01-01", "2024-01-02", "2024-01-03"}
    history = next(c for c in report.columns if c.column == "hist")
    assert history.sequence
    assert set(history.encodings) == {"PLAIN"}
    sample = draw_dataset(files, {t.name: read_totals(t) for t in files.tables})
    assert (sample.num_users, sample.num_requests, sample.num_impressions) == (12, 36, 108)
    assert sorted(map(str, sample.requests["hist"].to_pylist())) == sorted(str(list(range(r % 7))) for r in range(36))


@pytest.mark.long
@pytest.mark.parametrize("layout", ["split", pytest.param("flat", marks=pytest.mark.slow)])
def test_a_named_sample_is_what_is_measured(spark: SparkSession, settings: Settings, name: str, layout: str) -> None:
    ds = _write(spark, settings, name, layout, users=22)
    ds.samples.make("most", fraction=0.75, seed=4)
    ds.samples.make("stored", targets={"*": 3}, strata=[{"name": "country", "column": "country"}])
    if ds.spec.buckets > 1:
        ds.samples.make("bucket", buckets=1)
    files = dataset_files(settings, name)
    totals = {t.name: read_totals(t) for t in files.tables}
    for sample in ds.samples():
        wanted = {row["user_id"] for row in ds.samples.users(sample.name).collect()}
        opened: list[int] = []
        found = draw_dataset(
            files, totals, named=named_users(settings, name, sample.name), on_file=opened.append
        )  # fmt: skip
        assert set(found.requests["user_id"].to_pylist()) == wanted
        assert found.num_impressions == ds.logs(sample=sample.name).count()
        if sample.name == "bucket":
            assert opened[-1] < max(len(t.files) for t in files.tables)
    report = ds.compression_report(sample="most", with_curves=False)
    assert report.sample is not None
    assert 12 <= report.sample.users < 22
    assert report.sample.users == ds.samples.users("most").count()
    ds.samples.make("uneven", fractions={"country=DK": 0.5, "*": 1}, strata=[{"name": "country", "column": "country"}])
    ds.samples.make("late", fraction=0.5, start="2024-01-02")
    for named, words in (("uneven", "2 chances"), ("late", "caps or dates"), ("none", "has no sample none")):
        with pytest.raises(UsageError, match=words):
            ds.compression_report(sample=named)
    with pytest.raises(UsageError, match="the sample is named, and is to be drawn too"):
        ds.compression_report(sample="most", share=0.5)


def test_a_share_opens_the_files_of_its_buckets_alone(spark: SparkSession, settings: Settings, name: str) -> None:
    _write(spark, settings, name, "split")
    files = dataset_files(settings, name)
    totals = {t.name: read_totals(t) for t in files.tables}
    opened: list[int] = []
    sample = draw_dataset(files, totals, share=0.25, on_file=opened.append)
    assert 0 < sample.num_users < 12
    present = {f.partition["bucket"] for f in files.tables[0].files}
    of_bucket = [sum(f.partition["bucket"] == b for t in files.tables for f in t.files) for b in present]
    assert len(opened) in of_bucket
    assert set(sample.inverse.tolist()) == set(range(sample.num_requests))


def test_a_corrupt_footer_is_named(spark: SparkSession, settings: Settings, name: str) -> None:
    _write(spark, settings, name, "split")
    files = dataset_files(settings, name)
    victim = Path(files.tables[1].files[0].path.removeprefix("file:"))
    data = bytearray(victim.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    data[-8 - length : -8] = b"\xff" * length
    victim.write_bytes(bytes(data))
    with pytest.raises(StorageError, match=victim.name):
        measure_dataset(files, baselines=())


def test_an_empty_version_is_one_sentence(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = _raw(spark, flat_rows([1]))
    Dataset.create(spark, settings, name, flat_schema(), raw)
    with pytest.raises(InputError, match="no rows") as caught:
        measure_dataset(_no_files(settings, name))
    assert "\n" not in str(caught.value)


def _no_files(settings: Settings, name: str) -> DatasetFiles:
    from dedup_storage.lake.iceberg.metadata import Lake
    from dedup_storage.report.parquet.iceberg import table_files

    metadata = Lake(settings).load(name)
    tables = tuple(table_files(t, n, metadata.role(n) or n) for n, t in metadata.tables.items())
    return DatasetFiles(metadata.spec, 0, tables)


def test_the_tuner_s_properties_are_those_of_the_next_files(spark: SparkSession, settings: Settings, name: str) -> None:
    dataset = _write(spark, settings, name, "split")
    grid = Grid(page_bytes=(8 * MIB,), row_group_bytes=(128 * MIB,), level=(3,), page_version=(1,))
    proposals = tune_dataset(dataset_files(settings, name), tolerance=1e9, grid=grid)
    assert [p.table for p in proposals] == ["requests", "impressions"]
    changed = {"write.parquet.dict-encoding-enabled.column.hist.element": "true", "write.parquet.page-version": "v2"}
    apply_properties(spark, settings, name, "requests", changed)
    more = _raw(spark, flat_rows([9], users=12, first_request=500))
    dataset.write(more, gate=False)
    before = {f.path for f in dataset_files(settings, name, 1).tables[0].files}
    files = dataset_files(settings, name, 2)
    new = [f for f in files.tables[0].files if f.path not in before]
    assert new
    pages = read_pages(new)
    # Page version 2 and no longer PLAIN: the properties reached the writer.
    assert pages["hist"].version == 2
    assert "PLAIN" not in pages["hist"].encodings
    old = read_pages([f for f in files.tables[0].files if f.path in before])
    assert old["hist"].version == 1
    assert set(old["hist"].encodings) == {"PLAIN"}
    assert not old["hist"].dictionaries
    assert files.tables[0].properties["write.parquet.page-version"] == "v2"
    assert all(c.start_stored_bytes > 0 for p in proposals for c in p.columns)


def test_the_tuner_s_properties_are_those_of_the_next_files_of_delta(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    delta = settings.model_copy(update={"format": "delta"})
    dataset = _write(spark, delta, name, "split")
    (proposal, _) = tune_dataset(dataset_files(delta, name), tolerance=1e9, grid=Grid.of_tables(sets_level=False))
    assert proposal.trials
    assert not any("level" in key or "version" in key for key in proposal.properties)
    changed = {"write.parquet.dict-encoding-enabled.column.hist.element": "true"}
    apply_properties(spark, delta, name, "requests", changed)
    dataset.write(_raw(spark, flat_rows([9], users=12, first_request=500)), gate=False)
    before = {f.path for f in dataset_files(delta, name, 1).tables[0].files}
    files = dataset_files(delta, name, 2).tables[0]
    assert files.properties.items() >= changed.items()
    assert read_pages([f for f in files.files if f.path not in before])["hist"].dictionaries
    assert not read_pages([f for f in files.files if f.path in before])["hist"].dictionaries
    with pytest.raises(UsageError, match=r"no property for write\.parquet\.compression-level"):
        apply_properties(spark, delta, name, "requests", {**changed, "write.parquet.compression-level": "9"})


def test_only_parquet_properties_can_be_set(spark: SparkSession, settings: Settings, name: str) -> None:
    with pytest.raises(UnsafeNameError, match="cannot be set"):
        apply_properties(spark, settings, name, "requests", {"write.parquet.x'='1', 'y": "1"})
    with pytest.raises(UnsafeNameError):
        apply_properties(spark, settings, name, "requests; drop", {"write.parquet.page-version": "v2"})

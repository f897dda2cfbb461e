"""The reader joins feature groups without Spark: what it delivers equals ``logs()``."""

from __future__ import annotations

from typing import Any

import pytest

from dedup_storage.config import Settings
from dedup_storage.layout import Layout, version_tag
from dedup_storage.reader import DedupBatch, DedupDataset
from dedup_storage.schema import Grain
from tests.spark.helpers import flat_rows, flat_schema, frame


def read(dataset: DedupDataset, columns: list[str]) -> list[tuple[Any, ...]]:
    """The flat rows that the batches stand for."""
    found: list[tuple[Any, ...]] = []
    batch: DedupBatch
    for batch in dataset:
        decoded = {c: batch[c].decode() for c in columns}
        for place, owner in enumerate(batch.inverse_indices.tolist()):
            found.append(tuple(decoded[c][owner if batch.grains[c] is Grain.REQUEST else place] for c in columns))
    return sorted(found, key=repr)


@pytest.mark.long
@pytest.mark.parametrize("layout", [Layout.SPLIT, pytest.param(Layout.FLAT, marks=pytest.mark.slow)])
def test_reader_equals_logs(spark: Any, settings: Settings, name: str, layout: Layout) -> None:
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.sources.raw import RawLog

    schema = flat_schema()
    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2])), schema)
    ds = Dataset.create(spark, settings, name, schema, raw, layout=layout, date_grain="month")
    ds.write(raw, gate=False)
    ds.features.add("z", {"length": "size(hist)", "longer": "transform(hist, x -> x + 1)"}, gate=False)
    ds.features.add("a", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)
    some = ds.requests(features=()).filter("user_id % 2 = 1").selectExpr("user_id", "request_id", "'odd' AS parity")
    ds.features.add("m", some, missing="null", gate=False)

    def same(version: int | None = None) -> list[str]:
        rows = ds.logs(version)
        columns = [c for c in rows.columns if c != "ts"]
        plain = [tuple(list(v) if isinstance(v, list) else v for v in row) for row in rows.select(*columns).collect()]
        assert read(DedupDataset(name, settings, version=version, batch_size=8), columns) == sorted(plain, key=repr)
        return columns

    assert same()[-4:] == ["seen", "parity", "length", "longer"]
    chosen = next(iter(DedupDataset(name, settings, columns=["item", "longer"])))
    assert set(chosen) == {"user_id", "request_id", "item", "longer"}
    # Late rows: a second file in the segments of the log, and until the refresh no features for them.
    late = RawLog.from_frame(frame(spark, flat_rows([2], first_request=100)), schema)
    ds.write(late, gate=False)
    same()
    for group in ("z", "a"):
        ds.features.refresh(group, gate=False)
    same()
    last = ds.features.add("third", {"third": "request_id % 3"}, gate=False).version
    table = f"{settings.catalog.name}.{name}.fg_third"
    spark.sql(f"DELETE FROM {table} WHERE third = 0 AND request_id > 2")
    assert spark.sql(f"SELECT 1 FROM {table}.delete_files").count() > 0
    for each in ds.metadata().snapshots(last):
        spark.sql(f"ALTER TABLE {settings.catalog.name}.{name}.{each} CREATE TAG {version_tag(last + 1)}")
    assert ds.logs().filter("third IS NULL").count() > 0
    same()
    same(last)
    ds.rollback(last)
    ds.features.promote("z")
    ds.features.promote("a")
    ds.features.drop("a")
    assert "seen" not in same()
    same(last)


def test_the_report_counts_feature_groups(spark: Any, settings: Settings, name: str) -> None:
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.sources.raw import RawLog

    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2])), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    ds.features.add("age", {"length": "size(hist)"}, gate=False)
    report = ds.compression_report(baselines=())
    assert {t.name for t in report.tables} == {"requests", "impressions", "fg_age"}
    assert "length" in {c.column for c in report.columns}
    assert report.dedup_factor == 3

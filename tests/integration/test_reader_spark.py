"""The reader on what Spark wrote: a dataset by ``Dataset.write``, and rows that Spark deleted."""

from __future__ import annotations

from typing import Any

import pytest

from dedup_storage.config import Settings
from dedup_storage.layout import Layout, version_tag
from dedup_storage.reader import DedupBatch, DedupDataset
from tests.spark.helpers import flat_rows, flat_schema, frame

ORDER = ("user_id", "request_id", "country", "hist", "item", "y")


def read(dataset: DedupDataset) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    batch: DedupBatch
    for batch in dataset:
        columns = {n: batch[n].decode() for n in ORDER}
        for place, owner in enumerate(batch.inverse_indices.tolist()):
            own = [columns[n][owner] for n in ORDER[:4]]
            found.append((*own, columns["item"][place], columns["y"][place]))
    return sorted(found, key=repr)


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
def test_reader_equals_spark_with_deletion_vectors(spark: Any, settings: Settings, name: str, layout: Layout) -> None:
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.sources.raw import RawLog

    schema = flat_schema()
    raw = RawLog.from_frame(frame(spark, flat_rows(range(1, 4))), schema)
    dataset = Dataset.create(spark, settings, name, schema, raw, layout=layout)
    dataset.write(raw, gate=False)
    wanted = sorted((tuple(row[c] for c in ORDER) for row in dataset.logs().collect()), key=repr)
    assert read(DedupDataset(name, settings)) == wanted

    table = "impressions" if layout is Layout.SPLIT else "logs"
    path = f"{settings.catalog.name}.{name}.{table}"
    spark.sql(f"ALTER TABLE {path} SET TBLPROPERTIES ('write.delete.mode'='merge-on-read')")
    spark.sql(f"DELETE FROM {path} WHERE pmod(item, 3) = 0")
    assert spark.sql(f"SELECT 1 FROM {path}.delete_files").count() > 0
    for each in {table, "requests" if layout is Layout.SPLIT else "logs"}:
        spark.sql(f"ALTER TABLE {settings.catalog.name}.{name}.{each} CREATE TAG {version_tag(2)}")
    left = [row for row in wanted if row[4] % 3 != 0]
    assert 0 < len(left) < len(wanted)
    assert read(DedupDataset(name, settings, version=2)) == left
    assert read(DedupDataset(name, settings, version=1)) == wanted

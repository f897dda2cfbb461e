"""The report: files, bytes and columns of a version."""

from __future__ import annotations

import pytest

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import UsageError
from dedup_storage.report.parquet.dataset_files import dataset_files


@pytest.mark.long
def test_files_of_a_version(lake: Settings, two_days: Dataset) -> None:
    ds = two_days
    for version, days in ((1, {"2024-01-01"}), (None, {"2024-01-01", "2024-01-02"})):
        found = dataset_files(lake, ds.name, version)
        assert [t.role for t in found.tables] == ["requests", "impressions"]
        for table in found.tables:
            assert {f.partition["event_date"] for f in table.files} == days
            assert {int(f.partition["bucket"]) for f in table.files} <= set(range(4))
            assert table.size_bytes == sum(table.resolve(f.path)[0].get_file_info(table.resolve(f.path)[1]).size
                                           for f in table.files)  # fmt: skip


def test_columns_are_measured_and_written_as_the_layout_asks(standing: Dataset) -> None:
    report = standing.compression_report(baselines=())
    with pytest.raises(UsageError, match="sample_bytes does nothing without baselines"):
        standing.compression_report(baselines=(), sample_bytes=1000)
    columns = {(c.table, c.column): c for c in report.columns}
    assert report.dedup_factor == 3.0
    assert columns["requests", "hist"].rows == 5
    assert columns["impressions", "item"].rows == 15
    assert all(set(c.codecs) == {"ZSTD"} for c in report.columns)
    # No dictionary for sequences: the footers tell.
    assert not any("DICTIONARY" in e for e in columns["requests", "hist"].encodings)
    assert report.buckets
    assert [d.value for d in report.dates] == ["2024-01-01"]

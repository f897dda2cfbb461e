"""Parquet files whose footer says that Spark counted their days in the calendar of before 1582."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import InputError
from dedup_storage.sources.source import open_source

OLD, NEW = dt.date(1500, 1, 1), dt.date(1990, 1, 1)
VERSION = "org.apache.spark.version"
LEGACY = {VERSION: "3.5.1", "org.apache.spark.legacyDateTime": ""}
INT96 = {VERSION: "3.5.1", "org.apache.spark.legacyINT96": ""}


def _put(place: Path, told: Mapping[str, str], values: pa.Array, **options: Any) -> str:
    pq.write_table(pa.table({"x": values}).replace_schema_metadata(dict(told)), place, **options)
    return str(place)


def _times(year: int) -> pa.Array:
    return pa.array([dt.datetime(year, 1, 1, 12, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(
    ("told", "values"),
    [
        ({VERSION: "2.4.8"}, pa.array([NEW, OLD])),
        (LEGACY, pa.array([OLD, None])),
        (LEGACY, _times(1899)),
        (LEGACY, pa.array([[NEW, OLD], None, []], pa.list_(pa.date32()))),
        (LEGACY, pa.array([{"a": {"b": OLD}}], pa.struct([("a", pa.struct([("b", pa.date32())]))]))),
        (LEGACY, pa.array([[("a", OLD)]], pa.map_(pa.string(), pa.date32()))),
    ],
)
def test_days_that_spark_reads_otherwise_than_arrow_are_refused(
    tmp_path: Path, told: dict[str, str], values: pa.Array, statistics: bool
) -> None:
    """Spark made 1500-01-10 of the day that Arrow, and so every estimate, read as 1500-01-01."""
    place = _put(tmp_path / "a.parquet", told, values, write_statistics=statistics)
    with pytest.raises(InputError, match=r"the column x holds dates before 1582.*a\.parquet.*datetimeRebaseMode"):
        open_source(place)


@pytest.mark.parametrize("told", [{VERSION: "2.4.8"}, {VERSION: "3.0.3"}, INT96])
def test_old_times_of_96_bits_are_refused(tmp_path: Path, told: dict[str, str]) -> None:
    old = _put(tmp_path / "a.parquet", told, _times(1850), use_deprecated_int96_timestamps=True)
    with pytest.raises(InputError, match=r"the column x holds .*times before 1900.*a\.parquet.*int96RebaseMode"):
        open_source(old)
    new = open_source(_put(tmp_path / "b.parquet", told, _times(1950), use_deprecated_int96_timestamps=True))
    assert pa.concat_tables(new.tables())["x"].to_pylist() == _times(1950).to_pylist()


@pytest.mark.parametrize(
    ("told", "values"),
    [
        # Both calendars say the same of these.
        ({VERSION: "2.4.8"}, pa.array([dt.date(1582, 10, 15), NEW])),
        (LEGACY, _times(1900)),
        ({VERSION: "2.4.8"}, pa.array([None, None], pa.date32())),
        # The 96-bit times of a file alone are old.
        (INT96, pa.array([OLD])),
        ({VERSION: "3.5.1"}, pa.array([OLD])),
        ({}, pa.array([OLD])),
    ],
)
def test_days_of_today_s_calendar_are_read(tmp_path: Path, told: dict[str, str], values: pa.Array) -> None:
    source = open_source(_put(tmp_path / "a.parquet", told, values))
    assert pa.concat_tables(source.tables())["x"].to_pylist() == values.to_pylist()

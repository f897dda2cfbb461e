"""Collapsing a log to its requests: pointers that meet, requests left out, rows that would be lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConstancyError, DuplicateRowsError, InputError
from dedup_storage.schema import LogSchema
from dedup_storage.sources import raw as raw_module
from dedup_storage.sources.raw import POINTER, RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset, same_rows

POSITIONED = LogSchema.from_dict(
    {"user": "u", "request": "r", "item": "item", "position": "pos", "date_grain": "none", "buckets": 2}
)
POSITIONED_TYPES = "u bigint, r bigint, pos int, item int"


def _located(spark: SparkSession, place: Path, df: DataFrame) -> RawLog:
    df.write.parquet(str(place))
    return RawLog.read(spark, str(place), schema=flat_schema())


@pytest.mark.parametrize("wrong", [False, True], ids=["constant", "inconstant"])
def test_rows_with_one_pointer_are_told_apart(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """Two rows may share a 64-bit pointer; here all of them do."""
    rows = flat_rows([1, 2])
    if wrong:
        rows[0] = (*rows[0][:3], "NO", *rows[0][4:])
    df = frame(spark, rows)
    raw = _located(spark, tmp_path / "log", df)
    ds = Dataset.create(spark, settings, name, raw.schema, raw)

    def same_pointer(self: RawLog) -> DataFrame:
        return self.frame.select("*", F.lit(7).cast("bigint").alias(POINTER))

    monkeypatch.setattr(raw_module.RawLog, "located_frame", same_pointer)
    if wrong:
        with pytest.raises(ConstancyError, match="country in 1"):
            ds.write(raw, gate=False)
        assert ds.versions() == []
        return
    summary = ds.write(raw, gate=False)
    assert (summary.requests, summary.impressions, summary.inconstant_requests) == (10, 30, 0)
    same_rows(ds.logs(), df)


@pytest.mark.parametrize("wrong", [False, True], ids=["constant", "inconstant"])
def test_requests_that_are_there_are_left_out_of_a_parquet_log(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, wrong: bool
) -> None:
    raw = _located(spark, tmp_path / "first", frame(spark, flat_rows([1])))
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    rows = flat_rows([1]) + flat_rows([1], first_request=50)
    if wrong:
        rows[-1] = (*rows[-1][:3], "NO", *rows[-1][4:])
    more = frame(spark, rows)
    second = _located(spark, tmp_path / "second", more)
    if wrong:
        with pytest.raises(ConstancyError, match="inside 1 request: country in 1"):
            ds.write(second, on_duplicates="keep-one", gate=False)
        assert len(ds.versions()) == 1
        return
    summary = ds.write(second, on_duplicates="keep-one", gate=False)
    assert (summary.dropped_duplicates, summary.requests, summary.inconstant_requests) == (15, 5, 0)
    same_rows(ds.logs(), more)


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_a_position_that_occurs_twice_is_refused_without_the_gate(
    spark: SparkSession, settings: Settings, name: str, layout: str
) -> None:
    df = frame(spark, [(1, 1, 0, 5), (1, 1, 0, 4), (1, 1, 1, 6), (2, 1, 0, 6)], POSITIONED_TYPES)
    raw = RawLog.from_frame(df, POSITIONED)
    ds = Dataset.create(spark, settings, name, raw.schema, raw, layout=layout)
    with pytest.raises(DuplicateRowsError, match=r"1 impression has the key of another one in the log.*u, r, pos"):
        ds.write(raw, gate=False)
    assert ds.versions() == []
    good = RawLog.from_frame(df.filter("item <> 4"), POSITIONED)
    assert ds.write(good, gate=False).version == 1
    assert multiset(ds.logs()) == {(1, 1, 0, 5): 1, (1, 1, 1, 6): 1, (2, 1, 0, 6): 1}


def _copies(column: str) -> Column:
    return F.array(F.struct(F.col(column).alias("item")), F.struct((F.col(column) + 1).alias("item")))


def test_a_request_row_that_occurs_twice_is_refused_without_the_gate(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "item", "candidates": {"c": "*"}, "date_grain": "none", "buckets": 2}
    )
    df = frame(spark, [(1, 1), (1, 2), (1, 1)], "u bigint, r bigint").withColumn("c", _copies("r"))
    raw = RawLog.from_frame(df, schema)
    ds = Dataset.create(spark, settings, name, schema, raw)
    with pytest.raises(DuplicateRowsError, match="1 request key occurs more than once"):
        ds.write(raw, gate=False)
    assert ds.versions() == []
    for dry_run in (True, False):
        kept = ds.write(raw, on_duplicates="keep-one", gate=False, dry_run=dry_run)
        assert (kept.requests, kept.input_rows, kept.impressions, kept.dropped_duplicates) == (2, 6, 4, 2)


def test_impressions_without_a_request_are_refused_without_the_gate(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    requests = frame(spark, [(1, 1)], "u bigint, r bigint").withColumn(
        "t", F.lit("2024-01-01 10:00:00").cast("timestamp")
    )
    impressions = frame(spark, [(1, 1, 5), (1, 2, 5), (2, 9, 5)], "u bigint, r bigint, item int")
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "item", "event_time": "t", "buckets": 2})
    raw = RawLog.from_frame(requests, schema, impressions)
    ds = Dataset.create(spark, settings, name, schema, raw)
    timeless = LogSchema.from_dict({"user": "u", "request": "r", "item": "item", "columns": {"t": "request"}})
    plain = RawLog.from_frame(requests, timeless, impressions)
    other = Dataset.create(spark, settings, f"{name}_t", timeless, plain)
    writes: list[Callable[[], object]] = [
        lambda: ds.write(raw, gate=False),
        lambda: ds.write(raw, on_duplicates="keep-one"),
        lambda: ds.write(raw, mode="replace", on_duplicates="keep-one", gate=False),
        lambda: other.write(plain, gate=False),
    ]
    for write in writes:
        with pytest.raises(InputError, match="2 impressions belong to no request of the log"):
            write()
    assert ds.versions() == other.versions() == []


def test_a_null_list_beside_candidates_is_refused(spark: SparkSession, settings: Settings, name: str) -> None:
    """A null list has no elements: it agrees with empty and null ones alone."""
    types = "user_id bigint, request_id bigint, ts timestamp, clicks array<int>, items array<int>"
    times = "timestamp'2024-01-01 10:00:00'"
    for order in ({"clicks": "y", "items": "item"}, {"items": "item", "clicks": "y"}):
        schema = flat_schema(candidates=order, sequences=[], columns={}, date_grain="none")
        bad = RawLog.from_frame(_nested(spark, types, times, (None, [1, 2, 3])), schema)
        ds = Dataset.create(spark, settings, f"{name}_{next(iter(order))}", schema, bad)
        with pytest.raises(InputError, match="the candidate lists differ in length in 1 request"):
            ds.write(bad, gate=False)
        good = RawLog.from_frame(_nested(spark, types, times, (None, []), (None, None), ([], None)), schema)
        written = ds.write(good, gate=False)
        assert (written.requests, written.impressions) == (4, 2)


def _nested(spark: SparkSession, types: str, time: str, *lists: tuple[list[int] | None, list[int] | None]) -> DataFrame:
    rows = [(u, 100 + u, None, clicks, items) for u, (clicks, items) in enumerate([([1, 0], [7, 8]), *lists])]
    return frame(spark, rows, types).withColumn("ts", F.expr(time))

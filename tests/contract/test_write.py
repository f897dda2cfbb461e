"""Create and write: layouts, date grains, modes, what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import (
    ConstancyError,
    DatasetExistsError,
    DatasetNotFoundError,
    DuplicateRowsError,
    QualityGateError,
    SchemaError,
)
from dedup_storage.layout import Layout, TableRole
from dedup_storage.schema import DateGrain
from dedup_storage.sources.raw import RawLog
from tests.contract.conftest import MakeLog
from tests.spark.helpers import FLAT_TYPES, day, flat_rows, flat_schema, frame, multiset, same_rows


@pytest.mark.parametrize(
    ("layout", "grain"),
    [
        (Layout.SPLIT, DateGrain.DAY),
        (Layout.FLAT, DateGrain.MONTH),
        *(
            pytest.param(layout, grain, marks=pytest.mark.slow)
            for layout, grain in (
                (Layout.FLAT, DateGrain.DAY),
                (Layout.SPLIT, DateGrain.MONTH),
                (Layout.SPLIT, DateGrain.NONE),
                (Layout.FLAT, DateGrain.NONE),
            )
        ),
    ],
)
def test_append_and_replace_give_the_source_back(
    spark: SparkSession, lake: Settings, name: str, make_log: MakeLog, layout: Layout, grain: DateGrain
) -> None:
    raw = make_log([1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw, layout=layout, date_grain=grain)
    summary = ds.write(raw, run_id="first", gate=False)
    assert (summary.version, summary.requests, summary.impressions, summary.dedup_factor) == (1, 10, 30, 3.0)
    same_rows(ds.logs(), raw.frame)
    again = make_log([2], first_request=100)
    assert ds.write(again, run_id="again", mode="replace", gate=False).version == 2
    # A replaced day takes nothing of the other days of its segment with it.
    same_rows(ds.logs(), make_log([1]).frame.unionByName(again.frame))
    same_rows(ds.logs(1), raw.frame)
    assert ds.requests().count() == 10
    assert ds.impressions().count() == 30
    assert ds.write(again, run_id="again", mode="replace", gate=False).already_published


def test_segments_are_partitions_and_their_files_are_sorted(two_days: Dataset, lake: Settings) -> None:
    """Each (date, bucket) of a write is one file, its rows in the order of the key."""
    import pyarrow.parquet as pq

    from dedup_storage.report.parquet.dataset_files import dataset_files

    ds = two_days
    for table in dataset_files(lake, ds.name).tables:
        seen = []
        for file in table.files:
            seen.append((file.partition["event_date"], int(file.partition["bucket"])))
            filesystem, place = table.resolve(file.path)
            rows = pq.read_table(place, filesystem=filesystem, partitioning=None)
            keys = list(
                zip(*(rows[c].to_pylist() for c in ds.spec.table(TableRole(table.role)).sort_columns), strict=True)
            )
            assert keys == sorted(keys)
        assert len(seen) == len(set(seen)) > 2
        assert {d for d, _ in seen} == {"2024-01-01", "2024-01-02"}
    # By which the second day needed no look for its requests among those of the first.
    meta = ds.metadata()
    first = meta.snapshots(1)["requests"]
    days = [dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2024, 1, 2)]
    assert [meta.may_hold("requests", first, day, day) for day in days] == [False, True, False]
    assert meta.may_hold("requests", first, days[0], days[2])


@pytest.mark.long
def test_requests_that_are_there_are_refused_or_left_out(ds: Dataset, make_log: MakeLog) -> None:
    with pytest.raises(DuplicateRowsError, match="are in the dataset"):
        ds.write(make_log([1]), gate=False)
    more = make_log([1, 2])
    assert ds.write(more, run_id="more", on_duplicates="keep-one", gate=False).version == 2
    same_rows(ds.logs(), more.frame)


@pytest.mark.slow
def test_inconstant_requests_are_refused_or_set_aside(spark: SparkSession, ds: Dataset) -> None:
    rows = flat_rows([3], first_request=500)
    rows[0] = (*rows[0][:3], "XX", *rows[0][4:])
    raw = RawLog.from_frame(frame(spark, rows), flat_schema())
    with pytest.raises(ConstancyError, match="country in 1"):
        ds.write(raw, gate=False)
    assert ds.metadata().current == 1
    summary = ds.write(raw, run_id="aside", on_inconstant="quarantine", gate=False)
    assert (summary.inconstant_requests, summary.quarantined_rows) == (1, 3)
    kept = [r for r in rows if r[1] != rows[0][1]]
    wanted = multiset(frame(spark, [*flat_rows([1]), *kept]))
    assert multiset(ds.logs()) == wanted
    aside = ds.tables.read(ds.name, "quarantine", ds.metadata().snapshots(2)["quarantine"])
    assert sorted(r["request_id"] for r in aside.collect()) == [rows[0][1]] * 3


@pytest.mark.slow
def test_the_gate_judges_staged_rows_alone(spark: SparkSession, lake: Settings, name: str, make_log: MakeLog) -> None:
    checked = {"checks": {"y": {"allowed": [0, 1]}}}
    first = make_log([1], **checked)
    ds = Dataset.create(spark, lake, name, first.schema, first)
    assert ds.write(first, run_id="good").gate == "passed"
    assert ds.write(make_log([1], 200, **checked), run_id="also", mode="replace").gate == "passed"
    bad = [(*row[:-1], 7) for row in flat_rows([3], first_request=300)]
    with pytest.raises(QualityGateError, match=r"impression\.y\.allowed"):
        ds.write(RawLog.from_frame(frame(spark, bad), flat_schema(**checked)), run_id="bad")
    assert ds.metadata().current == 2
    same_rows(ds.logs(), make_log([1], 200).frame)
    assert ds.check(2).passed


def test_a_dataset_that_is_there_must_agree(
    spark: SparkSession, lake: Settings, make_log: MakeLog, standing: Dataset
) -> None:
    raw, ds, name = make_log([1]), standing, standing.name
    assert Dataset.create(spark, lake, name, raw.schema, raw).spec == ds.spec
    with pytest.raises(DatasetExistsError, match="another layout"):
        Dataset.create(spark, lake, name, raw.schema, raw, layout="flat")
    with pytest.raises(DatasetNotFoundError, match=name):
        Dataset.open(spark, lake, name[:-1])
    other = RawLog.from_frame(frame(spark, flat_rows([2]), FLAT_TYPES.replace("y int", "y bigint")), flat_schema())
    with pytest.raises(SchemaError, match="has another type"):
        ds.write(other)


def test_types_of_the_source_come_back(spark: SparkSession, lake: Settings, name: str) -> None:
    types = (
        "user_id string, request_id int, ts timestamp, item bigint, y boolean, tiny tinyint, f float, d decimal(12,3), "
        "b binary, s struct<a: int, l: array<string>>, m map<string, double>, hist array<array<int>>, n timestamp_ntz"
    )
    moment = day(1).replace(tzinfo=None)
    rest = (3, 1.5, None, bytearray(b"\0x"), (1, ["a", None]), {"k": 1.0}, [[1], [], None], moment)
    rows = [
        ("ü1", 1, day(1), 5, True, *rest),
        ("ü1", 1, day(1), 6, None, *rest),
        ("", 2, day(1), 7, False, *[None] * len(rest)),
    ]
    raw = RawLog.from_frame(frame(spark, rows, types), flat_schema(columns={}, sequences=[]))
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)
    same_rows(ds.logs(), raw.frame)

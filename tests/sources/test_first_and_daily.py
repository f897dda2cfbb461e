"""The first write and those of the days after it: what is refused leaves nothing, a day twice is once."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from dedup_storage.errors import DatasetExistsError, DatasetNotFoundError
from tests.sources.cases import BASE, FLAT, SCHEMA, Case, put, rows, text
from tests.spark.helpers import RARELY


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "grain"),
    # Each layout, the finest date grain and none; what tests/spark/test_write.py says of the others holds here.
    [
        ("split", "day"),
        ("flat", "none"),
        *(
            pytest.param(*pair, marks=RARELY)
            for pair in (("flat", "day"), ("split", "month"), ("flat", "month"), ("split", "none"))
        ),
    ],
)
def test_each_day_replaces_itself_at_every_date_grain(case: Case, name: str, grain: str, layout: str) -> None:
    first, second = put("d1.parquet", rows(day=1)), put("d2.parquet", rows(users=(1, 2, 3), day=2))
    for log in (first, second, second):
        ds = case.write(name, f"./{log}", mode="replace", gate=False, date_grain=grain, layout=layout)
    assert case.logs(ds).groupby(case.logs(ds).request_time.dt.day).size().to_dict() == {1: 12, 2: 18}


@pytest.mark.long
def test_a_segment_that_is_replaced_whole_is_counted_by_its_own_dates(case: Case, name: str) -> None:
    case.write(name, "./" + put("d1.parquet", rows(day=1)), gate=False, date_grain="none")
    from dedup_storage.sources.raw import RawLog

    ds = case.open(name)
    put("d2/a.parquet", rows(day=2))
    put("d2/b.parquet", rows(day=2))
    raw = RawLog.read(case.spark, "d2", schema=ds.schema)
    summary = ds.write(raw, mode="replace", on_duplicates="keep-one")
    assert (summary.input_rows, summary.impressions, summary.dropped_duplicates) == (24, 12, 12)
    assert (summary.requests, summary.gate, len(case.logs(ds))) == (4, "passed", 24)


@pytest.mark.long
def test_a_refused_first_write_leaves_no_dataset(case: Case, name: str) -> None:
    log = put("log.parquet", rows())
    strict = text("strict.yaml", SCHEMA + "checks: {label: {maximum: 0}}\n")
    code, said = case.cli("write", log, "--dataset", name, "--schema", strict)
    assert code == 3, said
    with pytest.raises(DatasetNotFoundError):
        case.open(name)
    code, said = case.cli("write", log, "--dataset", name, "--schema", text("wide.yaml", SCHEMA))
    assert code == 0, said
    assert "date_grain" in said.replace(" ", "_")
    assert "buckets" in said


def test_another_schema_later_is_refused_with_the_difference(case: Case, name: str) -> None:
    log = put("log.parquet", rows(price=1))
    case.write(name, log, {**BASE, "columns": {"price": "request"}}, gate=False)
    with pytest.raises(DatasetExistsError, match=r"another columns.*price.*impression"):
        case.write(name, log, {**BASE, "columns": {"price": "impression"}})
    with pytest.raises(DatasetExistsError, match="another checks"):
        case.write(name, log, {**BASE, "checks": {"label": {"maximum": 1}}})


def test_a_later_day_takes_the_datasets_types_where_no_value_changes(case: Case, name: str) -> None:
    case.write(name, "./" + put("d1.parquet", rows(price=1.5)), gate=False)
    second = pa.Table.from_pylist(rows(day=2, price=2.5))
    for column, kind in (("price", pa.float32()), ("user_id", pa.int32()), ("request_time", pa.timestamp("ms", "UTC"))):
        place = second.schema.get_field_index(column)
        second = second.set_column(place, column, second[column].cast(kind))
    code, said = case.cli("write", put("d2.parquet", second), "--dataset", name, "--no-gate")
    assert code == 0, said
    got = case.logs(name)
    assert sorted(got.price.unique()) == [1.5, 2.5]
    assert set(got.request_time.dt.hour) == {0, 1}
    third = [{**row, "label": float(row["label"]), "request_time": "2024-06-03"} for row in rows(day=3, price=3.5)]
    lines = text("d3.jsonl", "".join(json.dumps(row) + "\n" for row in third))
    code, said = case.cli("write", lines, "--dataset", name, "--no-gate")
    assert code == 2
    assert "Write label as a whole number, without a point" in " ".join(said.split())


@pytest.mark.long
def test_times_in_seconds_are_said_and_kept_for_the_next_day(case: Case, name: str) -> None:
    def told(day: int) -> list[dict[str, object]]:
        return [r | {"request_time": int(r["request_time"].timestamp())} for r in rows(day=day)]

    code, said = case.cli("write", put("d1.parquet", told(1)), "--dataset", name, "--schema", text("s.yaml", SCHEMA))
    assert code == 0, said
    assert "request_time was read as s since 1970" in " ".join(said.split())
    assert case.open(name).schema.time_unit == "s"
    code, said = case.cli("write", put("d2.parquet", told(2)), "--dataset", name)
    assert code == 0, said
    assert len(case.logs(name).request_time.dt.date.unique()) == 2


def test_infer_schema_writes_unit_and_estimate_takes_it(case: Case) -> None:
    log = [r | {"request_time": int(r["request_time"].timestamp() * 1000)} for r in rows()]
    roles = ("--user", "user_id", "--request", "request_id", "--item", "item_id", "--event-time", "request_time")
    code, said = case.cli("infer-schema", put("log.parquet", log), *roles, "-y", "-o", "log.yaml")
    assert code == 0, said
    assert "unit: ms" in Path("log.yaml").read_text()
    code, said = case.cli("estimate", "log.parquet", "--schema", "log.yaml")
    assert code == 0, said


def test_estimate_and_write_agree_on_csv(case: Case, name: str) -> None:
    text("log/1.csv", 'user_id,request_id,item_id,label,hist\n007,a,1,0,"x y"\n7,b,2,1,"x\ny"\n')
    listed = {**FLAT, "columns": {"hist": "request"}}
    assert len(case.logs(case.write(name, "log", listed, gate=False))) == 2


def test_a_report_on_a_log_with_its_own_position(case: Case, name: str) -> None:
    log = [r | {"position": i % 3} for i, r in enumerate(rows())]
    case.write(name, put("log.parquet", log), {**BASE, "position": "position"}, gate=False)
    code, said = case.cli("report", "--dataset", name)
    assert code == 0, said
    code, said = case.cli("report", "--dataset", name, "--raw", "log.parquet", "--html", "page.html")
    assert code == 2, said
    assert "--html" in said

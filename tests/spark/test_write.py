"""Writing: round trips of every form, modes, idempotency, and what is refused."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.write import attempt as attempt_module
from dedup_storage.dataset.write import audit as audit_module
from dedup_storage.errors import (
    ConstancyError,
    DatasetExistsError,
    DatasetNotFoundError,
    DuplicateRowsError,
    InputError,
    SchemaError,
    UnsafeNameError,
    UsageError,
)
from dedup_storage.layout import Layout
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import FLAT_TYPES, RARELY, day, flat_rows, flat_schema, frame, multiset, same_rows

LAYOUTS = ["split", "flat"]
# Each layout and each way to a log, in pairs; the other pairs by `make test-slow`.
LOCATED = [
    pytest.param("split", True, id="split-parquet"),
    pytest.param("flat", False, id="flat-frame"),
    pytest.param("split", False, id="split-frame", marks=RARELY),
    pytest.param("flat", True, id="flat-parquet", marks=RARELY),
]
# Each date grain and each layout, too.
GRAINS = [
    ("split", "day"),
    ("flat", "month"),
    ("split", "none"),
    *(pytest.param(*pair, marks=RARELY) for pair in (("flat", "day"), ("split", "month"), ("flat", "none"))),
]


def create(spark: SparkSession, settings: Settings, name: str, raw: RawLog, **options: Any) -> Dataset:
    return Dataset.create(spark, settings, name, raw.schema, raw, **options)


@pytest.mark.parametrize(("layout", "located"), LOCATED)
def test_flat_log_comes_back_row_for_row(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, layout: str, located: bool
) -> None:
    df = frame(spark, flat_rows([1, 2])).orderBy(F.rand(3))
    if located:
        df.write.parquet(str(tmp_path / "log"))
        raw = RawLog.read(spark, str(tmp_path / "log"), schema=flat_schema())
    else:
        raw = RawLog.from_frame(df, flat_schema())
    ds = create(spark, settings, name, raw, layout=layout)
    summary = ds.write(raw, run_id="r", gate=False)
    assert (summary.requests, summary.impressions) == (10, 30)
    same_rows(ds.logs(), df)
    assert multiset(ds.requests()) == multiset(df.select("user_id", "request_id", "ts", "country", "hist").distinct())


def test_one_copy_of_the_history_is_stored(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    tables = ds.metadata().tables
    assert "hist" not in [f.name for f in tables["impressions"].schema().fields]
    assert tables["requests"].current_snapshot().summary["total-records"] == "5"


def test_rows_lie_sorted_in_their_bucket(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2, 3], users=20)).orderBy(F.rand(1)), flat_schema())
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    import pyarrow.parquet as pq

    files = [task.file.file_path for task in ds.metadata().tables["impressions"].scan().plan_files()]
    assert len(files) > 4
    for path in files:
        rows = pq.read_table(path.removeprefix("file:"), partitioning=None).to_pylist()
        keys = [(r["user_id"], r["request_id"], r["position"]) for r in rows]
        assert keys == sorted(keys)
        assert len({r["event_date"] for r in rows}) == 1


def test_positions_do_not_depend_on_the_input_order(spark: SparkSession, settings: Settings, name: str) -> None:
    df = frame(spark, flat_rows([1], candidates=6))
    found = []
    for i, order in enumerate([F.col("item"), F.rand(7)]):
        raw = RawLog.from_frame(df.orderBy(order), flat_schema())
        ds = create(spark, settings, f"{name}_{i}", raw)
        ds.write(raw, gate=False)
        found.append(multiset(ds.impressions()))
    assert found[0] == found[1]
    positions = [row[2] for row in found[0].elements()]
    assert sorted(set(positions)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_log(spark: SparkSession, settings: Settings, name: str, layout: str) -> None:
    rows = [
        (1, "a", day(1), [1, 2], [(10, 1.0), (11, 2.0)]),
        (1, "b", day(1), [1, 2], [(10, None)]),
        (2, "c", day(2), None, [(12, 1.5), (12, 1.5), (9, 0.5)]),
        (3, "d", day(2), [], []),
    ]
    types = "u bigint, r string, t timestamp, h array<int>, cands array<struct<item:int,price:double>>"
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "item", "event_time": "t", "candidates": {"cands": "*"}}
        | {"sequences": [{"column": "h"}], "date_grain": "none", "buckets": 2}
    )
    df = frame(spark, rows, types)
    raw = RawLog.from_frame(df, schema)
    ds = create(spark, settings, name, raw, layout=layout)
    summary = ds.write(raw, gate=False)
    assert summary.input_rows == summary.impressions == 6
    same_rows(ds.logs(), df.select("u", "r", "t", "h", F.explode("cands").alias("c")).select("u", "r", "t", "h", "c.*"))
    order = ds.impressions().filter("r = 'c'").orderBy("position").select("item").collect()
    assert [row[0] for row in order] == [12, 12, 9]


def test_two_frames(spark: SparkSession, settings: Settings, name: str) -> None:
    requests = frame(spark, [(1, 7, day(1), [3]), (2, 8, day(2), [])], "u bigint, r bigint, t timestamp, h array<int>")
    shown = frame(spark, [(1, 7, 5), (1, 7, 4), (2, 8, 1)], "u bigint, r bigint, item int")
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "item", "event_time": "t", "buckets": 2})
    raw = RawLog.from_frame(requests, schema, shown)
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    same_rows(ds.logs(), requests.join(shown, ["u", "r"]))


@pytest.mark.long
@pytest.mark.parametrize(("layout", "grain"), GRAINS)
def test_replacing_a_day_leaves_the_others(
    spark: SparkSession, settings: Settings, name: str, layout: str, grain: str
) -> None:
    schema = flat_schema(date_grain=grain)
    before = RawLog.from_frame(frame(spark, flat_rows([1, 2, 3])), schema)
    ds = create(spark, settings, name, before, layout=layout)
    ds.write(before, gate=False)
    # Fewer users than before: buckets that the new rows do not touch must lose their old rows too.
    again = frame(spark, flat_rows([2], users=1, first_request=100))
    for _ in range(2):
        ds.write(RawLog.from_frame(again, schema), mode="replace", gate=False)
        same_rows(ds.logs(), frame(spark, [r for r in flat_rows([1, 2, 3]) if r[2].day != 2]).unionByName(again))


@pytest.mark.long
@pytest.mark.parametrize("grain", ["none", pytest.param("month", marks=RARELY)])
def test_more_dates_than_a_run_keeps_are_replaced(
    spark: SparkSession, settings: Settings, name: str, grain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "_MOST_DATES", 1)
    monkeypatch.setattr(audit_module, "_MOST_FILTERED", 1)
    schema = flat_schema(date_grain=grain)
    before = RawLog.from_frame(frame(spark, flat_rows([1, 2, 3])), schema)
    ds = create(spark, settings, name, before)
    ds.write(before, gate=False)
    again = frame(spark, [*flat_rows([1, 2]), *flat_rows([2], first_request=100)])
    done = ds.write(RawLog.from_frame(again, schema), mode="replace")
    assert (done.requests, done.impressions) == (15, 45)
    same_rows(ds.logs(), again.unionByName(frame(spark, [r for r in flat_rows([1, 2, 3]) if r[2].day == 3])))


@pytest.mark.long
@pytest.mark.parametrize("grain", ["month", pytest.param("none", marks=RARELY)])
def test_a_request_has_one_event_date(spark: SparkSession, settings: Settings, name: str, grain: str) -> None:
    """The same requests with another time are the same requests, whatever date they would get."""
    schema = flat_schema(date_grain=grain)
    first = RawLog.from_frame(frame(spark, flat_rows([1])), schema)
    ds = create(spark, settings, name, first)
    ds.write(first, gate=False)
    later = first.frame.withColumn("ts", F.expr("ts + interval 3 days"))
    moved = RawLog.from_frame(later, schema)
    with pytest.raises(DuplicateRowsError, match="5 requests are in the dataset"):
        ds.write(moved, gate=False)
    with pytest.raises(DuplicateRowsError, match="under event dates that the log does not replace"):
        ds.write(moved, mode="replace", gate=False)
    with pytest.raises(DuplicateRowsError, match="under event dates that the log does not replace"):
        ds.write(moved, mode="replace", dry_run=True)
    assert ds.write(moved, on_duplicates="keep-one", gate=False).dropped_duplicates == 15
    same_rows(ds.logs(), first.frame)


@pytest.mark.long
def test_the_first_of_differing_rows_is_one_by_content(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path
) -> None:
    """Wherever the files lie, the same row is kept, and its date is that of its time."""
    rows = frame(spark, flat_rows([1])).filter("request_id < 3")
    late = rows.selectExpr("* except (ts, country)", "ts + interval 1 day as ts", "concat('x', item) as country")
    mixed = rows.unionByName(late.select(*rows.columns)).repartition(3)
    found = []
    for place in ("a", "another/b"):
        mixed.write.parquet(str(tmp_path / place))
        raw = RawLog.read(spark, str(tmp_path / place), schema=flat_schema())
        ds = create(spark, settings, f"{name}_{len(found)}", raw)
        ds.write(raw, on_inconstant="first", gate=False)
        found.append(multiset(ds.requests().selectExpr("user_id", "request_id", "ts", "country")))
        assert ds.requests().filter("to_date(ts) <> event_date").count() == 0
    assert found[0] == found[1]
    assert found[0] == multiset(rows.select("user_id", "request_id", "ts", "country").distinct())


@pytest.mark.long
@pytest.mark.parametrize("layout", ["split", pytest.param("flat", marks=RARELY)])
def test_a_date_of_the_logs_own(spark: SparkSession, settings: Settings, name: str, layout: str) -> None:
    """Every form of a log may have its own event date; it is found again in a conversion and in a sample."""
    rows = frame(spark, flat_rows([1, 2])).withColumn("event_date", F.to_date("ts"))
    schema = flat_schema(columns={"country": "request", "event_date": "request"})
    raw = RawLog.from_frame(rows, schema)
    keys = ["user_id", "request_id", "ts", "country", "hist", "event_date"]
    requests = rows.select(*keys).distinct()
    frames = RawLog.from_frame(requests, schema, rows.select("user_id", "request_id", "item", "y"))
    listed = rows.groupBy(*keys).agg(F.collect_list(F.struct("item", "y")).alias("shown"))
    nested = RawLog.from_frame(listed, schema.model_copy(update={"candidates": {"shown": "*"}}))
    ds = create(spark, settings, name, raw, layout=layout)
    every = []
    for number, log in enumerate((raw, frames, nested)):
        moved = {"request_id": F.col("request_id") + 100 * number}
        below = None if log.candidates is None else log.candidates.withColumns(moved)
        ds.write(replace(log, frame=log.frame.withColumns(moved), candidates=below), gate=False)
        every.append(rows.withColumns(moved))
    same_rows(ds.logs(), every[0].unionByName(every[1]).unionByName(every[2]))
    other = "split" if layout == "flat" else "flat"
    ds.convert(f"{name}_b", layout=Layout(other), run_id="turn")
    same_rows(Dataset.open(spark, settings, f"{name}_b").logs(), ds.logs())
    ds.samples.make("half", fraction=0.5)
    ds.samples.materialise("half", f"{name}_h")
    sampled = Dataset.open(spark, settings, f"{name}_h").logs()
    assert multiset(sampled.select(*rows.columns)) == multiset(ds.logs(sample="half").select(*rows.columns))


def test_a_run_id_is_published_once(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = create(spark, settings, name, raw)
    assert not ds.write(raw, run_id="daily", gate=False).already_published
    again = ds.write(raw, run_id="daily", gate=False)
    assert again.already_published
    assert again.version == 1
    assert ds.logs().count() == 15


@pytest.mark.long
def test_requests_that_are_there_already_are_refused_or_left_out(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    more = frame(spark, flat_rows([1]) + flat_rows([1], first_request=50))
    with pytest.raises(DuplicateRowsError, match=r"5 requests .* already"):
        ds.write(RawLog.from_frame(more, flat_schema()), gate=False)
    assert len(ds.versions()) == 1
    summary = ds.write(RawLog.from_frame(more, flat_schema()), on_duplicates="keep-one", gate=False)
    assert (summary.dropped_duplicates, summary.requests) == (15, 5)
    same_rows(ds.logs(), more)


def inconstant(spark: SparkSession) -> Any:
    rows = flat_rows([1])
    rows[0] = (*rows[0][:3], "NO", *rows[0][4:])
    return frame(spark, rows)


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "located"),
    [
        pytest.param("split", True, id="split-parquet"),
        pytest.param("flat", False, id="flat-frame", marks=RARELY),
        *LOCATED[2:],
    ],
)
def test_inconstant_requests(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, layout: str, located: bool
) -> None:
    df = inconstant(spark)
    raw = RawLog.from_frame(df, flat_schema())
    if located:
        df.write.parquet(str(tmp_path / "log"))
        raw = RawLog.read(spark, str(tmp_path / "log"), schema=flat_schema())
    ds = create(spark, settings, name, raw, layout=layout)
    with pytest.raises(ConstancyError, match=r"inside 1 request: country in 1.*request_id") as caught:
        ds.write(raw, gate=False)
    assert '"user_id"' not in str(caught.value)
    assert ds.versions() == []

    kept = ds.write(raw, run_id="q", on_inconstant="quarantine", gate=False)
    assert (kept.inconstant_requests, kept.quarantined_rows, kept.requests) == (1, 3, 4)
    same_rows(ds.logs(), df.filter("request_id <> 0"))
    tables = ds.metadata()
    aside = ds.tables.read(name, "quarantine", tables.snapshots(1)["quarantine"])
    assert multiset(aside.select(df.columns)) == multiset(df.filter("request_id = 0"))

    ds.rollback(1)
    other = create(spark, settings, name + "_f", raw, layout=layout)
    first = other.write(raw, on_inconstant="first", gate=False)
    assert (first.inconstant_requests, first.requests, first.impressions) == (1, 5, 15)
    assert other.logs().filter("request_id = 0").select("country").distinct().count() == 1


@pytest.mark.parametrize("located", [True, False], ids=["parquet", "frame"])
def test_a_null_that_moved_inside_a_list_is_a_difference(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, located: bool
) -> None:
    def log(second: list[Any]) -> Any:
        return frame(spark, [(1, 1, day(1), "DK", [None, 1], 1, 0), (1, 1, day(1), "DK", second, 2, 0)])

    for i, (second, same) in enumerate([([None, 1], True), ([1, None], False)]):
        df = log(second)
        raw = RawLog.from_frame(df, flat_schema())
        if located:
            df.write.parquet(str(tmp_path / f"log{i}"))
            raw = RawLog.read(spark, str(tmp_path / f"log{i}"), schema=flat_schema())
        ds = create(spark, settings, f"{name}_{i}", raw)
        if same:
            ds.write(raw, gate=False)
            same_rows(ds.logs(), df)
        else:
            with pytest.raises(ConstancyError, match="hist in 1"):
                ds.write(raw, gate=False)


def test_keep_one_of_rows_with_the_same_position(spark: SparkSession, settings: Settings, name: str) -> None:
    types = "u bigint, r bigint, pos int, item int"
    df = frame(spark, [(1, 1, 0, 5), (1, 1, 0, 4), (1, 1, 1, 6)], types)
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "item", "position": "pos", "date_grain": "none", "buckets": 2}
    )
    raw = RawLog.from_frame(df, schema)
    ds = create(spark, settings, name, raw)
    ds.write(raw, on_duplicates="keep-one", gate=False)
    assert multiset(ds.logs()) == {(1, 1, 0, 4): 1, (1, 1, 1, 6): 1}


def test_json_lines_and_csv(spark: SparkSession, settings: Settings, name: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"u": 1, "r": "a", "t": "2024-01-01T10:00:00Z", "h": [1, 2], "item": 3}\n'
        '{"u": 1, "r": "a", "t": "2024-01-01T10:00:00Z", "h": [1, 2], "item": 4}\n'
    )
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "item", "event_time": "t"})
    raw = RawLog.read(spark, str(tmp_path / "log.jsonl"), schema=schema)
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    assert [(r.u, r.r, r.h, r.item) for r in ds.logs().orderBy("item").collect()] == [
        (1, "a", [1, 2], 3),
        (1, "a", [1, 2], 4),
    ]
    assert ds.logs().first().t == dt.datetime(2024, 1, 1, 10)
    (tmp_path / "log.csv").write_text("u,r,item\n1,7,3\n1,7,4\n")
    plain = LogSchema.from_dict({"user": "u", "request": "r", "item": "item"})
    raw = RawLog.read(spark, str(tmp_path / "log.csv"), schema=plain)
    ds = create(spark, settings, name + "_csv", raw)
    ds.write(raw, gate=False)
    # Keys of texts are texts: 0042 and 42 are two users.
    assert multiset(ds.logs()) == {("1", "7", "3"): 1, ("1", "7", "4"): 1}


# -- what is refused --------------------------------------------------------------------------------------------


def test_a_torn_parquet_file_is_named(spark: SparkSession, settings: Settings, name: str, tmp_path: Path) -> None:
    frame(spark, flat_rows([1])).coalesce(1).write.parquet(str(tmp_path / "log"))
    raw = RawLog.read(spark, str(tmp_path / "log"), schema=flat_schema())
    ds = create(spark, settings, name, raw)
    whole = next((tmp_path / "log").glob("*.parquet"))
    torn = whole.with_name("torn.parquet")
    torn.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"torn\.parquet") as caught:
        ds.write(RawLog.read(spark, str(tmp_path / "log"), schema=flat_schema()), gate=False)
    assert "\tat " not in str(caught.value)
    assert caught.value.exit_code == 2
    assert ds.versions() == []


def test_a_missing_column_is_named_with_those_there(spark: SparkSession) -> None:
    with pytest.raises(SchemaError, match="user_id is not in the log; expected one of userid"):
        RawLog.from_frame(frame(spark, flat_rows([1])).withColumnRenamed("user_id", "userid"), flat_schema())


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        ("user_id", "double", "int, bigint or string"),
        ("ts", "bigint", "timestamp or date"),
        ("hist", "string", "array"),
    ],
)
def test_a_wrong_type_is_named(spark: SparkSession, column: str, kind: str, expected: str) -> None:
    df = spark.createDataFrame([], FLAT_TYPES).withColumn(column, F.lit(None).cast(kind))
    with pytest.raises(SchemaError, match=f"{column} .*expected {expected}.*got {kind}"):
        RawLog.from_frame(df, flat_schema())


@pytest.mark.parametrize("column", ["user_id", "request_id", "ts"])
def test_null_keys_are_counted_and_refused(spark: SparkSession, settings: Settings, name: str, column: str) -> None:
    df = frame(spark, flat_rows([1]))
    ds = create(spark, settings, name, RawLog.from_frame(df, flat_schema()))
    broken = df.withColumn(column, F.when(F.col("request_id") != 2, F.col(column)))
    with pytest.raises(InputError, match=f"{column} is null in 1 request"):
        ds.write(RawLog.from_frame(broken, flat_schema()), gate=False)
    assert ds.versions() == []


@pytest.mark.parametrize("hostile", ["x; drop table y", "a.b", "", "`x`", "ä", "x" * 200, "1x"])
def test_hostile_names_reach_no_sql(spark: SparkSession, settings: Settings, hostile: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    with pytest.raises(UnsafeNameError, match="cannot be used"):
        create(spark, settings, hostile, raw)
    with pytest.raises(UnsafeNameError):
        Dataset.open(spark, settings, hostile)


def test_another_log_than_the_dataset_knows(spark: SparkSession, settings: Settings, name: str) -> None:
    df = frame(spark, flat_rows([1]))
    ds = create(spark, settings, name, RawLog.from_frame(df, flat_schema()))
    with pytest.raises(SchemaError, match="does not have the log's column extra"):
        ds.write(RawLog.from_frame(df.withColumn("extra", F.lit(1)), flat_schema()), gate=False)
    with pytest.raises(SchemaError, match=r"the log lacks the column y of the dataset"):
        ds.write(RawLog.from_frame(df.drop("y"), flat_schema(labels=())), gate=False)
    with pytest.raises(SchemaError, match="y has another type than before; expected int; got bigint"):
        ds.write(RawLog.from_frame(df.withColumn("y", F.col("y").cast("bigint")), flat_schema()), gate=False)


def test_an_empty_log_is_refused(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(spark.createDataFrame([], FLAT_TYPES), flat_schema())
    ds = create(spark, settings, name, raw)
    with pytest.raises(InputError, match="holds no rows"):
        ds.write(raw, gate=False)


def test_opening_and_creating_over_something_else(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    create(spark, settings, name, raw)
    create(spark, settings, name, raw)
    with pytest.raises(DatasetExistsError, match="another buckets; expected 16; got 4"):
        create(spark, settings, name, raw, buckets=16)
    with pytest.raises(DatasetNotFoundError, match="no dataset nothing_here"):
        Dataset.open(spark, settings, "nothing_here")


def test_unknown_choices_are_named(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = create(spark, settings, name, raw)
    with pytest.raises(UsageError, match="mode upsert is not known; expected append or replace"):
        ds.write(raw, mode="upsert")
    with pytest.raises(UsageError, match="run id cannot be used"):
        ds.write(raw, run_id="x'y")


def test_no_temporary_setting_stays_in_the_session(spark: SparkSession, settings: Settings, name: str) -> None:
    before = dict(spark.conf.getAll)
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = create(spark, settings, name, raw)
    ds.write(raw, gate=False)
    ds.rollback(1)
    assert dict(spark.conf.getAll) == before

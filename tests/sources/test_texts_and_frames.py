"""What Spark makes of a source: texts of times, values in paths, keys of two frames; the same as Arrow, or refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from dedup_storage.errors import InputError, SchemaError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.frames import source_frame
from dedup_storage.sources.raw import RawLog
from dedup_storage.sources.source import open_source
from tests.sources.cases import Case, put, text

NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC).timestamp()


def _log(case: Case, times: list[str], unit: str | None = None) -> RawLog:
    lines = [f"1,{number},5,{time}" for number, time in enumerate(times)]
    place = text("log.csv", "\n".join(("u,r,i,t", *lines, "")))
    time = "t" if unit is None else {"column": "t", "unit": unit}
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i", "event_time": time})
    return RawLog.read(case.spark, place, schema=schema)


@pytest.mark.parametrize(
    ("time", "told"),
    [
        # Spark would take the day on which it reads.
        ("10:00:00", "1 texts of the time column t are no times"),
        ("T10:00", "1 texts of the time column t are no times"),
        # Spark would leave out the last digit.
        ("2024-06-01 12:00:00.1234567", "1 values of the time column t fall between two microseconds"),
    ],
)
def test_texts_that_are_not_one_time_are_refused(case: Case, time: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        _log(case, ["2024-06-01 12:00:00.123456000", time])


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize(
    ("time", "unit"),
    [
        ("2024-06-01 12:00:00", None),
        ("1/6/2024 12:00", "d/M/yyyy H:mm"),
        ("2024-06-01T12:00Z", "yyyy-MM-dd'T'HH:mm'Z'"),
        ("1/6/2024 14:00 +02:00", "d/M/yyyy H:mm XXX"),
    ],
)
def test_texts_without_a_zone_are_utc_whatever_the_session_s(
    case: Case, zone: str, time: str, unit: str | None
) -> None:
    session = case.spark.newSession()
    session.conf.set("spark.sql.session.timeZone", zone)
    raw = _log(Case(session, case.settings), [time], unit)
    assert raw.frame.select(F.unix_seconds("t")).first() == (NOON,)


def test_values_in_paths_are_alike_in_both_engines(case: Case) -> None:
    """Spark took each byte of a coded letter for a letter, and left out a file that lies above the others."""
    for folder in ("city=K%C3%B6ln", "city=Århus", "city=a%2Fb", ""):
        place = Path("log", folder, "rows.parquet")
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"u": [folder]}), place)
    source = open_source("log")
    by_arrow = pa.concat_tables(source.tables()).to_pylist()
    by_spark = [row.asDict() for row in source_frame(case.spark, source).collect()]
    assert sorted(by_arrow, key=str) == sorted(by_spark, key=str)
    assert {row["city"] for row in by_arrow} == {"Köln", "Århus", "a/b", None}


@pytest.mark.parametrize(
    "places",
    [
        ["a=1/more/b=2/rows.parquet"],
        ["a=1/b=2/rows.parquet", "b=3/a=4/rows.parquet"],
        ["2024/a=1/rows.parquet", "2025/a=2/rows.parquet"],
        ["2024/a=1/rows.parquet", "2024/a=__HIVE_DEFAULT_PARTITION__/more/rows.parquet"],
        ["a=/rows.parquet"],
        ["_rows.parquet"],
        ["rows.parquet._COPYING_"],
    ],
)
def test_folders_and_names_that_spark_takes_otherwise_are_read_alike(case: Case, places: list[str]) -> None:
    """It took a for null, gave up on other orders, and found no row in a file that it passes over."""
    for number, place in enumerate(places):
        put(f"log/{place}", pa.table({"u": [number]}))
    source = open_source("log" if "/" in places[0] else f"log/{places[0]}")
    by_arrow = pa.concat_tables(source.tables()).to_pylist()
    by_spark = [row.asDict() for row in source_frame(case.spark, source).collect()]
    assert sorted(by_arrow, key=str) == sorted(by_spark, key=str)
    assert sorted(row["u"] for row in by_arrow) == [*range(len(places))]


@pytest.mark.parametrize("kind", ["string", "double", "decimal(20,0)"])
def test_frames_whose_keys_have_other_types_are_not_joined(case: Case, kind: str) -> None:
    requests = case.spark.range(1, 3).selectExpr("id as u", "id as r")
    impressions = requests.selectExpr(f"cast(u as {kind}) as u", "r", "1L as i")
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i"})
    if kind.startswith("decimal"):
        RawLog.from_frame(requests, schema, impressions)
        return
    with pytest.raises(SchemaError, match="the key column u has another type in the impressions"):
        RawLog.from_frame(requests, schema, impressions)
    with pytest.raises(SchemaError, match="the key column r is not in the requests"):
        RawLog.from_frame(requests.drop("r"), schema, requests.selectExpr("u", "r", "1L as i"))


def test_days_of_spark_s_old_calendar_are_read_alike_or_refused(case: Case, tmp_path: Path) -> None:
    """Spark itself writes them; whatever a session is set to, a file that does not tell of them has today's."""
    session = case.spark.newSession()
    for setting in ("datetimeRebaseModeInWrite", "datetimeRebaseModeInRead"):
        session.conf.set(f"spark.sql.parquet.{setting}", "LEGACY")
    days = "SELECT DATE'{}' AS d, array(TIMESTAMP'{} 12:00:00', NULL) AS t"
    session.sql(days.format("1582-10-15", "1900-01-01")).write.parquet(f"{tmp_path}/new")
    session.sql(days.format("1500-01-01", "1990-01-01")).write.parquet(f"{tmp_path}/old")
    pq.write_table(pa.table({"d": [dt.date(1500, 1, 1)]}), "other.parquet")
    for place in ("new", "other.parquet"):
        source = open_source(f"{tmp_path}/{place}")
        by_arrow = pa.concat_tables(source.tables()).to_pylist()
        first = source_frame(session, source).selectExpr("CAST(d AS STRING) d").first()
        assert first == (by_arrow[0]["d"].isoformat(),)
    with pytest.raises(InputError, match=r"the column d holds dates before 1582-10-15.*old calendar of Spark"):
        open_source(f"{tmp_path}/old")

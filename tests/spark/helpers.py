"""Small logs and comparisons for the Spark tests."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.conversion import LocalDataToArrowConversion
from pyspark.sql.types import StructType, _parse_datatype_string

from dedup_storage.schema import LogSchema

__all__ = [
    "DELTA_DAILY",
    "FLAT_TYPES",
    "ICEBERG_DAILY",
    "RARELY",
    "WHOLE",
    "day",
    "flat_rows",
    "flat_schema",
    "frame",
    "halves",
    "multiset",
    "same_rows",
]

# One format a test is run with each change; the other by `make test-slow`.
RARELY = [pytest.mark.slow, pytest.mark.exhaustive]
ICEBERG_DAILY = ["iceberg", pytest.param("delta", marks=RARELY)]
DELTA_DAILY = [pytest.param("iceberg", marks=RARELY), "delta"]
# Whether a dear test goes on to its end.
WHOLE = [pytest.param(False, id="half"), pytest.param(True, marks=RARELY, id="whole")]
FLAT_TYPES = "user_id bigint, request_id bigint, ts timestamp, country string, hist array<bigint>, item bigint, y int"


def halves(daily: str) -> list[Any]:
    """A format, and whether a dear test goes on to its end: its first half on one format with each change; all of it
    on both by ``make test-slow``."""
    whole = [pytest.param(name, True, marks=RARELY, id=name) for name in ("iceberg", "delta")]
    return [pytest.param(daily, False, id=f"{daily}-half"), *whole]


def day(number: int, hour: int = 0) -> dt.datetime:
    """A moment of January 2024, UTC."""
    return dt.datetime(2024, 1, number, hour, tzinfo=dt.UTC)


def flat_schema(**changes: Any) -> LogSchema:
    """Schema of ``flat_rows``."""
    values = {
        "user": "user_id",
        "request": "request_id",
        "item": "item",
        "event_time": "ts",
        "labels": "y",
        "sequences": [{"column": "hist"}],
        "columns": {"country": "request"},
        "date_grain": "day",
        "buckets": 4,
    }
    return LogSchema.from_dict({**values, **changes})


def flat_rows(
    days: Iterable[int], users: int = 5, candidates: int = 3, first_request: int = 0
) -> list[tuple[Any, ...]]:
    """A request per user and day, ``candidates`` impressions each, histories of growing length."""
    rows = []
    request = first_request
    for number in days:
        for user in range(users):
            history = list(range(request % 7))
            for c in range(candidates):
                item = (request * 31 + c * 7) % 50
                rows.append((user, request, day(number, user), "DK" if user % 2 else "SE", history, item, item % 2))
            request += 1
    return rows


def frame(spark: SparkSession, rows: list[tuple[Any, ...]], types: str = FLAT_TYPES) -> DataFrame:
    """The rows as a DataFrame.

    Its plan is the one of ``createDataFrame`` (an RDD of no known size), but every use of that starts Python workers.
    """
    if not rows:
        return spark.createDataFrame([], types)
    schema = _parse_datatype_string(types)
    assert isinstance(schema, StructType)
    local = spark.createDataFrame(LocalDataToArrowConversion.convert(rows, schema, False), schema)
    java = local._jdf
    plan = spark._jsparkSession.internalCreateDataFrame(java.queryExecution().toRdd(), java.schema(), False)
    return DataFrame(plan, spark)


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return ("row", *((k, _plain(v)) for k, v in value.asDict().items()))
    if isinstance(value, (list, tuple)):
        return ("list", *(_plain(v) for v in value))
    if isinstance(value, dict):
        return ("map", *sorted((_plain(k), _plain(v)) for k, v in value.items()))
    if isinstance(value, float) and value != value:
        return "nan"
    return bytes(value) if isinstance(value, bytearray) else value


def multiset(df: DataFrame) -> Counter[Any]:
    """The frame's rows with their number, whatever their order."""
    return Counter(tuple(_plain(v) for v in row) for row in df.collect())


def same_rows(left: DataFrame, right: DataFrame) -> None:
    """Assert equal columns and equal rows, each as often."""
    assert left.columns == right.columns
    assert left.dtypes == right.dtypes
    assert multiset(left) == multiset(right)

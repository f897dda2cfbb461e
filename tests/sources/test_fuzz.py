"""Odd logs of every kind: Arrow and Spark give the rows that a plain reading gives, or both refuse, naming what.

``estimate`` and ``validate`` read by Arrow, ``write`` and ``infer-schema`` by Spark.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import event, given
from pyspark.sql import SparkSession

from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated
from tests.sources.faults import FAULTS
from tests.sources.odd_logs import SCHEMA, OddLog, Rows, by_arrow, odd_logs, rows_or_refusal
from tests.strategies import examples


def _by_spark(spark: SparkSession, place: str) -> Rows:
    """What ``write`` reads."""
    log = RawLog.read(spark, place, schema=SCHEMA)
    with translated():
        rows: Rows = log.frame.toArrow().to_pylist()
    return rows


def _agree(spark: SparkSession, log: OddLog) -> bool:
    """Whether Arrow and Spark take a log, which they do alike."""
    with tempfile.TemporaryDirectory() as folder:
        place = log.lay(Path(folder))
        ours, refusal = rows_or_refusal(lambda: by_arrow(place))
        theirs, other = rows_or_refusal(lambda: _by_spark(spark, place))
    assert (ours is None) is (theirs is None), refusal or other
    if ours is None or theirs is None:
        assert log.is_refused_by(refusal.replace(folder, "")), refusal
        assert log.is_refused_by(other.replace(folder, "")), other
        return False
    assert log.is_told_by(ours), ours
    assert log.is_told_by(theirs), theirs
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_what_went_wrong_once_is_read_alike(spark: SparkSession, fault: str) -> None:
    log, taken = FAULTS[fault]
    assert _agree(spark, log) is taken


@given(log=odd_logs())
@examples(40)
def test_spark_and_arrow_read_what_a_plain_reading_gives(spark: SparkSession, log: OddLog) -> None:
    event(f"{log.kind}: {'equal' if _agree(spark, log) else 'refused'}")

"""Odd logs of every kind: every command gives the rows that a plain reading gives, or all refuse, naming what.

The first test reads many logs by Arrow and by Spark; the second sends a few through the commands, into a dataset.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import pytest
import yaml
from hypothesis import event, given
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.connection import Lake
from dedup_storage.dataset.facade import Dataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated
from tests.sources.cases import Case
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


@pytest.mark.long
@given(log=odd_logs())
@examples(3, shrink=False)
def test_every_command_takes_a_log_or_none_does(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch, log: OddLog
) -> None:
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    case, name = Case(spark, settings), f"odd_{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        place, schema = log.lay(Path(folder) / "log"), Path(folder) / "schema.yaml"
        roles = ("--user", "user_id", "--request", "request_id", "--item", "item_id", "--yes", "-o", schema)
        told = {"infer-schema": case.cli("infer-schema", place, *roles)}
        proposed = LogSchema.from_dict(yaml.safe_load(schema.read_text("utf-8"))) if schema.exists() else SCHEMA
        if proposed.forms or proposed.event_time or not schema.exists():
            # What forms and times make of the values is another meaning of them, and tested elsewhere.
            schema.write_text(SCHEMA.to_yaml(), encoding="utf-8")
            proposed = SCHEMA
        told["validate"] = case.cli("validate", place, "--schema", schema)
        estimate = case.cli("estimate", place, "--schema", schema, "--share", 1)
        if proposed.sequences or "names no sequence columns" not in estimate[1]:
            # An estimate is one of repeated lists: it reads the log, then it asks for them.
            told["estimate"] = estimate
        told["write"] = case.cli("write", place, "--schema", schema, "--dataset", name)
    codes = {command: code for command, (code, _) in told.items()}
    event(f"{log.kind}: {'refused' if codes['write'] else 'equal'}")
    assert len({*codes.values()}) == 1, told
    if codes["write"]:
        assert codes["write"] == 2, told
        assert name not in Lake(settings).datasets()
        for _, said in told.values():
            assert log.is_refused_by(" ".join(said.split()).replace(folder, "")), said
        return
    assert log.is_told_by(Dataset.open(spark, settings, name).logs().toArrow().to_pylist())

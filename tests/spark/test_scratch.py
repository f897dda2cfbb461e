"""Rows that are no plain Parquet on a cluster: they go through a folder that its executors reach, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from dedup_storage import LogSchema, RawLog
from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine import stores
from dedup_storage.lake.engine.sessions import SCRATCH
from dedup_storage.sources.named import read_frame

SCHEMA = LogSchema.from_dict({"user": "user", "request": "request", "item": "item"})
ROWS = [{"user": 1, "request": 1, "item": 5}, {"user": 1, "request": 1, "item": 6}]


@pytest.fixture
def session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> SparkSession:
    """A session of its own, as one whose executors run elsewhere."""
    monkeypatch.setattr(stores, "is_local", lambda _: False)
    return spark.newSession()


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "log.csv").write_text("user,request,item\n1,1,5\n1,1,6\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")
    return str(tmp_path / "log.csv")


def test_a_cluster_reads_them_from_the_folder_of_the_settings(session: SparkSession, log: str, tmp_path: Path) -> None:
    """Labels, replacement rows and tables of users lay on the driver's machine, whatever the settings said."""
    session.conf.set(SCRATCH, str(tmp_path / "shared"))
    for frame in (RawLog.read(session, log, schema=SCHEMA).frame, read_frame(session, log)):
        # Keys of a text file stay texts.
        assert [[str(value) for value in row] for row in frame.collect()] == [["1", "1", "5"], ["1", "1", "6"]]
        assert all(f"{tmp_path}/shared/" in file for file in frame.inputFiles())
    given = RawLog.read(session, log, schema=SCHEMA, scratch=str(tmp_path / "given"))
    assert all(f"{tmp_path}/given/" in file for file in given.frame.inputFiles())


def test_without_a_folder_it_is_refused_and_plain_parquet_needs_none(session: SparkSession, log: str) -> None:
    session.conf.set(SCRATCH, "")
    plain = log.replace(".csv", ".parquet")
    assert RawLog.read(session, plain, schema=SCHEMA).frame.count() == read_frame(session, plain).count() == 2
    told = r"rows of .*log\.csv are made plain Parquet before a cluster reads them.*(?s:.*)spark\.scratch"
    with pytest.raises(ConfigError, match=told):
        RawLog.read(session, log, schema=SCHEMA)
    with pytest.raises(ConfigError, match=told):
        read_frame(session, log)

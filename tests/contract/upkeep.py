"""A small dataset to work on in parts, and what such work may leave behind, on any table format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame

__all__ = ["DELTA_ALONE", "USERS", "files", "left_behind", "log", "made"]

USERS = 8
# What tests/spark and tests/integration show on Iceberg, at length.
DELTA_ALONE = pytest.mark.parametrize("table_format", ["delta"], indirect=True)


def log(spark: SparkSession, days: list[int], first_request: int = 0, **schema: Any) -> RawLog:
    """The log of ``flat_rows`` for some days."""
    rows = flat_rows(days, users=USERS, first_request=first_request)
    return RawLog.from_frame(frame(spark, rows), flat_schema(**schema))


def made(spark: SparkSession, lake: Settings, *, layout: str = "split", **schema: Any) -> Dataset:
    """A dataset of two days, version 1; one of each kind at a time."""

    def build(name: str) -> Dataset:
        raw = log(spark, [1, 2], **schema)
        ds = Dataset.create(spark, lake, name, raw.schema, raw, layout=layout)
        ds.write(raw, run_id="first", gate=False)
        return ds

    return restored(spark, lake, f"contract {layout} {sorted(schema.items())}", build)


def files(ds: Dataset, table: str, version: int) -> set[str]:
    """Names of a table's data files in a version."""
    meta = ds.metadata()
    found = ds.tables.files(meta, table, meta.snapshots(version)[table]).filter("content = 0")
    return {row["file_path"].rpartition("/")[2] for row in found.select("file_path").collect()}


def left_behind(ds: Dataset) -> list[str]:
    """Branches of runs, and data files that no version names."""
    meta = ds.metadata()
    root = Path(ds.settings.warehouse_uri) / ds.name
    found = [f"{table}:{branch}" for table in meta.tables for branch in ds.tables.branches(ds.name, table)]
    for table in meta.tables:
        named: set[str] = set()
        for version in meta.version_numbers:
            if table in meta.snapshots(version):
                named |= files(ds, table, version)
        stored = (p for p in (root / table).rglob("*.parquet") if "_delta_log" not in p.parts)
        found += [f"{table}:{p.name}" for p in stored if p.name not in named]
    return found

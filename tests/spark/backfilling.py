"""A small dataset to backfill, and what a backfill may leave behind."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.iceberg.metadata import tags
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame

__all__ = ["USERS", "build", "data_files", "left_behind", "log", "make", "with_y"]

USERS = 12


def log(spark: SparkSession, days: list[int], first_request: int = 0, **schema: Any) -> RawLog:
    """The log of ``flat_rows`` for some days."""
    return RawLog.from_frame(
        frame(spark, flat_rows(days, users=USERS, first_request=first_request)), flat_schema(**schema)
    )


def build(spark: SparkSession, settings: Settings, name: str, *, layout: str = "split", **schema: Any) -> Dataset:
    """A dataset of two days, written."""
    raw = log(spark, [1, 2], **schema)
    created = Dataset.create(spark, settings, name, raw.schema, raw, layout=layout)
    created.write(raw, run_id="first", gate=False)
    return created


def make(spark: SparkSession, settings: Settings, *, layout: str = "split", **schema: Any) -> Dataset:
    """What ``build`` makes, in the suite's lake, put back in its place; one of each kind at a time."""
    kind = f"backfilling {layout} {sorted(schema.items())}"
    return restored(spark, settings, kind, lambda name: build(spark, settings, name, layout=layout, **schema))


def data_files(ds: Dataset, table: str, version: int) -> set[str]:
    """Places of a table's data files in a version."""
    snapshot_id = ds.metadata().snapshots(version)[table]
    files = ds.spark.read.option("versionAsOf", str(snapshot_id)).table(
        f"{ds.settings.catalog.name}.{ds.name}.{table}.files"
    )
    return {row["file_path"] for row in files.select("file_path").collect()}


def with_y(df: DataFrame, condition: str, value: str) -> DataFrame:
    """The frame with other labels where a condition holds."""
    return df.withColumn("y", F.when(F.expr(condition), F.expr(value)).otherwise(F.col("y")).cast("int"))


def left_behind(ds: Dataset) -> list[str]:
    """Branches and staged snapshots that belong to no version."""
    found = []
    for name, table in ds.metadata().tables.items():
        found += [f"{name}:{tag}" for tag in tags(table) if tag.startswith("run-")]
        kept = set(tags(table).values())
        found += [f"{name}:{s.snapshot_id}" for s in table.metadata.snapshots if s.snapshot_id not in kept]
    return found

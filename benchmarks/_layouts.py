"""The layouts that benchmarks/compression.py compares: one log written by Spark in each of them, once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.demo import complete_journey
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.parquet.dataset_files import dataset_files, input_files
from dedup_storage.report.parquet.footers import Totals
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles, read_totals
from dedup_storage.report.tune.apply import apply_properties
from dedup_storage.report.tune.dataset import tune_dataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthParams, write_log

BUCKETS = 4
# Flat rows in one shuffled file: sorted in memory by a task.
ROWS_PER_SHUFFLED_FILE = 100_000

ARRIVAL = "flat, order of arrival, Iceberg defaults"
SHUFFLED = "flat, shuffled, Iceberg defaults"
SORTED = "flat, sorted, Iceberg defaults"
FLAT = "flat dataset"
SPLIT = "split dataset"
TUNED = "split dataset, tuner's choice"
TRUTHS = {BaselineLayout.FLAT_SORTED_TUNED: FLAT, BaselineLayout.SPLIT: SPLIT}


@dataclass(frozen=True)
class RawFiles:
    """A raw log on disk.

    Attributes:
        log: Which.
        source: Folder of its Parquet files.
        schema: Meaning of its columns.
    """

    log: str
    source: str
    schema: LogSchema


@dataclass(frozen=True)
class Stored:
    """What Spark stored of one log.

    Attributes:
        tables: Layout -> its tables.
        split: The split dataset as a new one starts.
        seconds: Layout -> seconds until it was there.
    """

    tables: Mapping[str, list[TableFiles]]
    split: DatasetFiles
    seconds: Mapping[str, float]

    def totals(self, layout: str) -> list[Totals]:
        """Sums over the footers of each table."""
        return [read_totals(t) for t in self.tables[layout]]


def raw_files(log: str, place: Path) -> RawFiles:
    """Lay down a raw log, or take the one that is there."""
    folder = place / log
    there = folder.exists()
    if log == "journey":
        if not there:
            complete_journey.write_log(folder, share=1.0, max_length=512)
        return RawFiles(log, str(folder), complete_journey.log_schema())
    params = SynthParams.preset(log)
    if not there:
        write_log(params, folder)
    return RawFiles(log, str(folder / "log"), params.log_schema())


def write_layouts(spark: SparkSession, settings: Settings, raw: RawFiles) -> Stored:
    """Write a log in every layout, all rows in each; what an earlier run left is taken as it is.

    The raw log is decoded for its two orders and for the split dataset. The flat dataset and the tuned one are written
    from the split dataset's tables, as a log of two frames, and the sorted files from the flat dataset's, whose order
    they keep: no wide row is shuffled but for the shuffled log.
    """
    tables: dict[str, list[TableFiles]] = {}
    seconds: dict[str, float] = {}
    log, schema = raw.log, raw.schema
    read = RawLog.read(spark, raw.source, schema=schema)

    def timed(name: str, found: Iterable[TableFiles], start: float) -> None:
        tables[name], seconds[name] = list(found), time.perf_counter() - start

    for name, table in ((ARRIVAL, "arrival"), (SHUFFLED, "shuffled")):
        start = time.perf_counter()
        frame = read.frame if name == ARRIVAL else _shuffled(read.frame)
        timed(name, [_iceberg(spark, settings, f"{log}_{table}", frame)], start)
    start = time.perf_counter()
    split = _dataset(spark, settings, f"{log}_split", schema, read, "split")
    files = dataset_files(settings, f"{log}_split")
    timed(SPLIT, files.tables, start)
    frames = _frames(split)
    start = time.perf_counter()
    _dataset(spark, settings, f"{log}_flat", schema, frames, "flat")
    timed(FLAT, dataset_files(settings, f"{log}_flat").tables, start)
    start = time.perf_counter()
    timed(SORTED, [_iceberg(spark, settings, f"{log}_sorted", _in_order(spark, settings, f"{log}_flat"))], start)
    start = time.perf_counter()
    chosen = {p.table: dict(p.properties) for p in tune_dataset(files)}
    _dataset(spark, settings, f"{log}_tuned", schema, frames, "split", chosen)
    timed(TUNED, dataset_files(settings, f"{log}_tuned").tables, start)
    return Stored(tables, files, seconds)


def _shuffled(frame: DataFrame) -> DataFrame:
    pieces = max(BUCKETS, frame.count() // ROWS_PER_SHUFFLED_FILE)
    shuffled = frame.withColumn("_order", F.rand(7)).repartition(pieces, "_order").sortWithinPartitions("_order")
    return shuffled.drop("_order")


def _frames(split: Dataset) -> RawLog:
    """A split dataset's rows as a log of two frames, without the position that the dataset assigned."""
    impressions = split.impressions()
    if split.spec.assigns_position:
        impressions = impressions.drop(split.spec.position_column)
    return RawLog.from_frame(split.requests(), split.schema, impressions)


def _in_order(spark: SparkSession, settings: Settings, name: str) -> DataFrame:
    """A flat dataset's rows in the order of its files, a task for each file."""
    options = {"split-size": str(2**40), "file-open-cost": str(2**40)}
    return spark.read.options(**options).table(f"{settings.catalog.name}.{name}.logs")


def _iceberg(spark: SparkSession, settings: Settings, name: str, frame: DataFrame) -> TableFiles:
    """The frame's rows in its own order, with Iceberg's default properties."""
    table = f"{settings.catalog.name}.plain.{name}"
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {settings.catalog.name}.plain")
    if not spark.catalog.tableExists(table):
        frame.writeTo(table).using("iceberg").tableProperty("write.distribution-mode", "none").create()
    return input_files(f"plain.{name}", settings)


def _dataset(
    spark: SparkSession, settings: Settings, name: str, schema: LogSchema, raw: RawLog, layout: str,
    properties: Mapping[str, Mapping[str, str]] | None = None,
) -> Dataset:  # fmt: skip
    dataset = Dataset.create(spark, settings, name, schema, raw, layout=layout, date_grain="none", buckets=BUCKETS)
    if not dataset.versions():
        for table, values in (properties or {}).items():
            apply_properties(spark, settings, name, table, values)
        dataset.write(raw, gate=False)
    return dataset

"""Layout ``user`` against split layout and a plain sorted Delta table: bytes, write time day by day, bytes shuffled.

One log of some days, written day by day into each. Bytes are those of Parquet's footers: the history lists alone (of
layout ``user`` the windows and the events' tables, user and position among them) and all files. The floor holds every
event of every user once. ``--format`` chooses the table format of both datasets.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, lake, parse_kept, shuffled_bytes
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.layout import TableRole
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthParams

SCALES = {
    "small": {"users": 300, "requests_per_user": 30, "sequence_length": 256, "days": 6},
    "full": {"users": 5_000, "requests_per_user": 60, "sequence_length": 512, "days": 30},
}
BUCKETS = 4


def column_bytes(places: Iterable[str], columns: Iterable[str] | None = None) -> int:
    """Stored bytes of some columns (``None``: of all) in Parquet files."""
    wanted, total = None if columns is None else set(columns), 0
    for place in places:
        metadata = pq.read_metadata(unquote(urlparse(place).path))
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for index in range(group.num_columns):
                column = group.column(index)
                if wanted is None or column.path_in_schema.split(".")[0] in wanted:
                    total += column.total_compressed_size
    return total


def places(ds: Dataset, table: str) -> list[str]:
    """Data files of a table of the newest version."""
    cut = ds.handle.cut()
    found = ds.tables.files(cut.meta, table, cut.snapshots[table]).filter("content = 0").select("file_path")
    root = Path(str(ds.settings.local_warehouse)) / ds.name / table
    paths = [row["file_path"] for row in found.collect()]
    return paths if ds.settings.format == "iceberg" else [str(root / unquote(path)) for path in paths]


def list_bytes(ds: Dataset) -> int:
    """Bytes of the history lists, however they are stored."""
    lists = {*ds.schema.sequence_columns, *(group.runs_column for group in ds.spec.events)}
    total = column_bytes(places(ds, "requests"), lists)
    events = [table.name for table in ds.spec.tables if table.role is TableRole.EVENTS]
    return total + sum(column_bytes(places(ds, name)) for name in events)


def all_bytes(ds: Dataset) -> int:
    """Bytes of all columns of all tables."""
    return sum(column_bytes(places(ds, table.name)) for table in ds.spec.tables)


def timed(spark: SparkSession, write: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes shuffled."""
    start = time.perf_counter()
    shuffled, _ = shuffled_bytes(spark, write)
    return time.perf_counter() - start, shuffled


def write_days(spark: SparkSession, ds: Dataset, days: list[RawLog]) -> list[tuple[float, int]]:
    """Each day appended: seconds, and bytes shuffled."""
    return [timed(spark, lambda day=day: ds.write(day, gate=False)) for day in days]


def sorted_delta(frame: DataFrame, place: Path, days: int) -> list[str]:
    """The flat log as a plain Delta table by date, sorted by user and request; its files."""
    rows = frame.withColumn("event_date", F.to_date("request_time")).repartition(days, "event_date")
    rows = rows.sortWithinPartitions("event_date", "user_id", "request_id")
    rows.write.format("delta").partitionBy("event_date").option("compression", "zstd").save(str(place))
    return [str(path) for path in place.rglob("*.parquet") if "_delta_log" not in path.parts]


def measure(report: Report, spark: SparkSession, settings: Settings, place: Path, params: SynthParams) -> None:
    """Everything about one log."""
    made = generate(spark, params, str(place / "log"))
    whole = RawLog.read(spark, made.tables["log"], schema=params.log_schema())
    dates = [row["d"] for row in whole.frame.select(F.to_date("request_time").alias("d")).distinct().collect()]
    days = [
        RawLog.from_frame(whole.frame.filter(F.to_date("request_time") == F.lit(date)), whole.schema)
        for date in sorted(dates)
    ]
    found: dict[str, Dataset] = {}
    taken: dict[str, list[tuple[float, int]]] = {}
    # The first write of a session compiles its queries.
    warm = Dataset.create(spark, settings, "warm", whole.schema, days[0], buckets=BUCKETS, date_grain="day")
    warm.write(days[0], gate=False)
    for layout in ("split", "user"):
        ds = Dataset.create(
            spark, settings, f"of_{layout}", whole.schema, days[0], layout=layout, buckets=BUCKETS, date_grain="day"
        )
        taken[layout] = write_days(spark, ds, days)
        found[layout] = ds
    report.data["groups"] = [group.model_dump() for group in found["user"].spec.events]
    rows, logged = found["user"].logs().count(), whole.frame.count()
    report.add("rows that logs() gives, of those of the log", rows / logged, "x", target="= 1", holds=rows == logged)
    for name, place_of in (("first day", 0), ("day 2", 1), ("last day", -1)):
        report.add(
            f"write, {name}", taken["user"][place_of][0], "s", baseline=taken["split"][place_of][0],
        )  # fmt: skip
        report.add(
            f"shuffled, {name}", taken["user"][place_of][1] / 1e6, "MB", baseline=taken["split"][place_of][1] / 1e6,
        )  # fmt: skip
    files = dataset_files(settings, "of_split")
    totals = {table.name: read_totals(table) for table in files.tables}
    draw = draw_dataset(files, totals, share=1.0)
    floor = measure_layout(draw, BaselineLayout.FLOOR, Encoding.from_properties(files.tables[0].properties))
    base = floor.of(whole.schema.sequence_columns)
    report.add("floor: history lists", base / 1e6, "MB")
    lists = {layout: list_bytes(ds) for layout, ds in found.items()}
    for layout, size in lists.items():
        report.add(f"{layout}: history lists", size / 1e6, "MB")
        report.add(f"{layout}: history lists, times the floor", size / base, "x")
        report.add(f"{layout}: all files", all_bytes(found[layout]) / 1e6, "MB")
    if settings.format == "delta":
        plain = sorted_delta(whole.frame, place / "plain", params.days)
        report.add("sorted Delta table: history lists", column_bytes(plain, whole.schema.sequence_columns) / 1e6, "MB")
        report.add("sorted Delta table: all files", column_bytes(plain) / 1e6, "MB")


def main() -> None:
    """Run it."""
    arguments = parse_kept(__doc__, None, format=("iceberg", "delta"))
    report = Report("user_grain", f"{arguments.scale}, {arguments.format}")
    params = SynthParams(**SCALES[arguments.scale], candidates_per_request=4, new_events_per_request=8, seed=7)
    with lake(keep=arguments.place, table_format=arguments.format) as (spark, settings, place):
        measure(report, spark, settings, place, params)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

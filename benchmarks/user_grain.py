"""Layout ``user`` against split layout and a plain sorted Delta table: bytes, write time day by day, bytes shuffled.

One log, whole and day by day into each layout; ``--log journey`` takes baskets of the Complete Journey, whole at every
date grain (``--grain``: at one). ``--log yambda`` is in the form of MLPerf's DLRMv4 data, beside memory-mapped stores;
``--log features`` computes features of the events of a log of many requests. Bytes are those of Parquet's footers: the
history lists alone (of layout ``user`` the windows and all that event tables hold) and all files. The floor holds every
event of every user once. One day is read by the reader, its event bytes those of the row groups that it opens.
``--format`` chooses the table format.
"""

from __future__ import annotations

import datetime as dt
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._anchor_epochs import epochs
from benchmarks._anchors import Anchors, build, log_schema, write_log
from benchmarks._harness import Report, lake, parse_kept, shuffled_bytes
from benchmarks._memory import peaks
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.demo import complete_journey
from dedup_storage.layout import TableRole
from dedup_storage.reader import DedupDataset
from dedup_storage.reader.decode import files
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams

SCALES = {
    "small": {"users": 300, "requests_per_user": 30, "sequence_length": 256, "days": 6},
    "full": {"users": 5_000, "requests_per_user": 60, "sequence_length": 512, "days": 30},
}
YAMBDA = {
    "small": Anchors(users=300, median=800, sigma=1.3, most=30_000, window=2_048, every=50),
    "full": Anchors(users=2_000, median=2_000, sigma=1.1, most=50_000, window=2_048, every=100),
}
HEAP = {"small": "1g", "full": "2g"}
STORES = {"events": "memory-mapped events, windows by arithmetic", "lists": "memory-mapped lists as logged"}
FEATURE = {
    "small": {"users": 2_000, "requests_per_user": 50, "sequence_length": 128, "new_events_per_request": 4},
    "full": {"users": 20_000, "requests_per_user": 50, "sequence_length": 128, "new_events_per_request": 4},
}
# What an event-grain feature may write of its column's own bytes; a column of few values shows what the keys weigh.
WRITTEN = 1.2
FEATURES = {
    "event_price": ("xxhash64(hist_item_ids, hist_times)", "a feature that nothing compresses", f"<= {WRITTEN}"),
    "event_kind": ("hist_actions % 2", "a feature of two values", None),
}
BUCKETS = 4
GRAINS = ("none", "month", "day")
LAYOUTS = ("split", "user")
# What a first load may take of split layout's time, a late day of an early one's, and history lists of the floor.
FIRST, LATER, FLOOR = 1.3, 1.3, 1.25


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


def created(spark: SparkSession, settings: Settings, name: str, first: RawLog, layout: str, grain: str) -> Dataset:
    """An empty dataset."""
    return Dataset.create(spark, settings, name, first.schema, first, layout=layout, buckets=BUCKETS, date_grain=grain)


def sorted_delta(raw: RawLog, place: Path, grain: str) -> list[str]:
    """The flat log as one plain Delta table, by date if there is a grain, sorted by user and request; its files."""
    schema, time_column = raw.schema, str(raw.schema.event_time)
    day = F.to_date(time_column) if grain == "day" else F.trunc(F.to_date(time_column), "month")
    parts = [] if grain == "none" else ["event_part"]
    rows = raw.frame.withColumns(dict.fromkeys(parts, day))
    rows = rows.repartition(*parts) if parts else rows.coalesce(1)
    rows = rows.sortWithinPartitions(*parts, *schema.request_key)
    rows.write.format("delta").partitionBy(*parts).option("compression", "zstd").save(str(place))
    return [str(path) for path in place.rglob("*.parquet") if "_delta_log" not in path.parts]


class Opened:
    """Counts stored bytes of the row groups of event files that Parquet's decoder is asked for, each column once."""

    def __init__(self, tables: Iterable[str]) -> None:
        self._tables, self._chunks = tuple(f"/{name}/" for name in tables), dict[tuple[Any, ...], int]()

    @property
    def bytes(self) -> int:
        """Of all chunks."""
        return sum(self._chunks.values())

    def __enter__(self) -> Opened:
        self._plain, self._open = pq.ParquetFile.iter_batches, files.open_parquet
        files.open_parquet = self._opening()
        pq.ParquetFile.iter_batches = self._counting()
        return self

    def __exit__(self, *error: object) -> None:
        pq.ParquetFile.iter_batches, files.open_parquet = self._plain, self._open

    def _opening(self) -> Callable[..., pq.ParquetFile]:
        def opened(client: Any, file: Any, *more: Any) -> pq.ParquetFile:
            parquet = self._open(client, file, *more)
            parquet.path_of_file = file.path
            return parquet

        return opened

    def _counting(self) -> Callable[..., Iterator[pa.RecordBatch]]:
        def batches(file: Any, *args: Any, **more: Any) -> Iterator[pa.RecordBatch]:
            # A stream names all row groups from the one it begins with, and stops when it has what it needs.
            groups, row, bounds = list(more["row_groups"]), 0, np.cumsum(
                [file.metadata.row_group(g).num_rows for g in more["row_groups"]]
            )  # fmt: skip
            for batch in self._plain(file, *args, **more):
                group = groups[int(np.searchsorted(bounds, row, side="right"))]
                row += batch.num_rows
                self._note(file, group, more["columns"])
                yield batch

        return batches

    def _note(self, file: Any, group: int, names: Iterable[str]) -> None:
        if any(table in file.path_of_file for table in self._tables):
            chunks = [file.metadata.row_group(group).column(i) for i in range(file.metadata.num_columns)]
            for chunk in chunks:
                if chunk.path_in_schema in names:
                    self._chunks[file.path_of_file, group, chunk.path_in_schema] = chunk.total_compressed_size


def read_day(report: Report, ds: Dataset, date: Any) -> None:
    """One day by the reader: event bytes by those that its windows need."""
    cut = ds.handle.cut()
    tables = {group.name: group.table for group in ds.spec.events}
    needed = 0.0
    for group in ds.spec.events:
        place = group.position_column
        rows = cut.stored("requests").filter(F.col(str(ds.spec.event_date_column)) == F.lit(date))
        runs = rows.select(ds.schema.user, F.explode(group.runs_column).alias("r"))
        windows = runs.groupBy(ds.schema.user).agg(
            F.min("r.start").alias("low"), F.max(F.col("r.start") + F.col("r.length")).alias("high")
        )
        events = cut.stored(group.table)
        count = events.join(windows, ds.schema.user).filter(
            (F.col(place) >= F.col("low")) & (F.col(place) < F.col("high"))
        )
        needed += column_bytes(places(ds, group.table)) * count.count() / events.count()
    day = DedupDataset(ds.name, ds.settings, batch_size=256, filters={str(ds.spec.event_date_column): date})
    with Opened(tables.values()) as opened:
        requests = sum(batch.num_requests for batch in day)
    report.add(f"one day read, {requests:,} requests: event bytes opened by those that windows need",
               opened.bytes / needed, "x", target="<= 2", holds=opened.bytes <= 2 * needed)  # fmt: skip
    report.add("one day read: event files there", sum(len(places(ds, table)) for table in tables.values()), "files")


def measure_bytes(
    report: Report, settings: Settings, place: Path, raw: RawLog, found: dict[str, Dataset], grain: str
) -> None:
    """Bytes of the history lists and of all files."""
    at = f"{grain}: "
    stored = dataset_files(settings, found["split"].name)
    totals = {table.name: read_totals(table) for table in stored.tables}
    draw = draw_dataset(stored, totals, share=1.0)
    floor = measure_layout(draw, BaselineLayout.FLOOR, Encoding.from_properties(stored.tables[0].properties))
    base = floor.of(raw.schema.sequence_columns)
    report.add(f"{at}floor: history lists", base / 1e6, "MB")
    for layout, ds in found.items():
        size = list_bytes(ds)
        report.add(f"{at}{layout}: history lists", size / 1e6, "MB")
        target = {"target": f"<= {FLOOR}", "holds": size <= FLOOR * base} if layout == "user" else {}
        report.add(f"{at}{layout}: history lists, times the floor", size / base, "x", **target)
    sizes = {layout: all_bytes(ds) for layout, ds in found.items()}
    if settings.format == "delta":
        plain = sorted_delta(raw, place / f"plain-{grain}", grain)
        report.add(
            f"{at}sorted Delta table: history lists", column_bytes(plain, raw.schema.sequence_columns) / 1e6, "MB"
        )
        sizes["sorted Delta table"] = column_bytes(plain)
    least = min(size for layout, size in sizes.items() if layout != "user")
    for layout, size in sizes.items():
        target = {"target": "the least", "holds": size < least} if layout == "user" else {}
        report.add(f"{at}{layout}: all files", size / 1e6, "MB", **target)


def write_whole(report: Report, spark: SparkSession, settings: Settings, raw: RawLog, grain: str) -> dict[str, Dataset]:
    """The whole log as a first load in each layout."""
    found, taken = {}, {}
    for layout in LAYOUTS:
        found[layout] = created(spark, settings, f"{layout}_{grain}", raw, layout, grain)
        taken[layout] = timed(spark, lambda layout=layout: found[layout].write(raw, gate=False))
    (seconds, shuffled), (base, moved) = taken["user"], taken["split"]
    report.add(
        f"{grain}: first load", seconds, "s", baseline=base, target=f"<= {FIRST}x", holds=seconds <= FIRST * base
    )
    report.add(f"{grain}: first load, shuffled", shuffled / 1e6, "MB", baseline=moved / 1e6)
    rows, logged = found["user"].logs().count(), raw.frame.count()
    report.add(
        f"{grain}: rows that logs() gives, of those of the log", rows / logged, "x", target="= 1", holds=rows == logged
    )
    return found


def write_days(report: Report, spark: SparkSession, settings: Settings, days: list[RawLog]) -> dict[str, Dataset]:
    """Each day appended, in both layouts in turn."""
    found = {layout: created(spark, settings, f"{layout}_days", days[0], layout, "day") for layout in LAYOUTS}
    taken: dict[str, list[tuple[float, int]]] = {layout: [] for layout in LAYOUTS}
    for day in days:
        for layout, ds in found.items():
            taken[layout].append(timed(spark, lambda ds=ds, day=day: ds.write(day, gate=False)))
    for name, number in (("first day", 0), ("day 2", 1), ("last day", -1)):
        (seconds, shuffled), (base, moved) = taken["user"][number], taken["split"][number]
        report.add(f"by day: write, {name}", seconds, "s", baseline=base)
        report.add(f"by day: shuffled, {name}", shuffled / 1e6, "MB", baseline=moved / 1e6)
    some = min(3, len(days) // 2)
    early, late = (
        statistics.median(t for t, _ in part) for part in (taken["user"][1 : 1 + some], taken["user"][-some:])
    )
    report.add(f"by day: write, last {some} days by days 2 to {1 + some}", late / early, "x",
               target=f"<= {LATER}", holds=late <= LATER * early)  # fmt: skip
    return found


def synthetic(report: Report, spark: SparkSession, settings: Settings, place: Path, scale: str) -> None:
    """A synthetic log: whole, day by day, one day read."""
    params = SynthParams(**SCALES[scale], candidates_per_request=4, new_events_per_request=8, seed=7)
    made = generate(spark, params, str(place / "log"))
    whole = RawLog.read(spark, made.tables["log"], schema=params.log_schema())
    # Each day in files of its own, as logs arrive.
    by_day = whole.frame.withColumn("day", F.to_date("request_time")).repartition("day")
    by_day.write.partitionBy("day").parquet(str(place / "days"))
    folders = sorted(place.glob("days/day=*"))
    days = [RawLog.read(spark, str(folder), schema=whole.schema) for folder in folders]
    # The first write of a session compiles its queries.
    for layout in LAYOUTS:
        warm = created(spark, settings, f"warm_{layout}", days[0], layout, "day")
        for day in days[:2]:
            warm.write(day, gate=False)
    found = write_whole(report, spark, settings, whole, "day")
    report.data["groups"] = [group.model_dump() for group in found["user"].spec.events]
    measure_bytes(report, settings, place, whole, found, "day")
    daily = write_days(report, spark, settings, days)
    middle = folders[len(folders) // 2].name.removeprefix("day=")
    read_day(report, daily["user"], dt.date.fromisoformat(middle))


def journey(
    report: Report, spark: SparkSession, settings: Settings, place: Path, scale: str, grains: tuple[str, ...]
) -> None:
    """Baskets of the Complete Journey, of a tenth of the households or of all, whole at some date grains."""
    share = 1.0 if scale == "full" else 0.1
    complete_journey.write_log(place / "journey", share=share, max_length=512)
    raw = RawLog.read(spark, str(place / "journey"), schema=complete_journey.log_schema())
    report.data["journey share"] = share
    for grain in grains:
        measure_bytes(report, settings, place, raw, write_whole(report, spark, settings, raw, grain), grain)


def event_columns(ds: Dataset) -> dict[str, int]:
    """Bytes of each column of a group's events alone, sorted by user and position: the floor, column by column."""
    found: dict[str, int] = {}
    for group in ds.spec.events:
        keys = [ds.schema.user, group.position_column]
        rows = pa.concat_tables(
            pq.read_table(unquote(urlparse(place).path), columns=[*keys, *group.columns], partitioning=None)
            for place in places(ds, group.table)
        ).sort_by([(key, "ascending") for key in keys])
        for column in group.columns:
            sizes = []
            for dictionary in (False, True):
                sink = pa.BufferOutputStream()
                pq.write_table(rows.select([column]), sink, compression="zstd", use_dictionary=dictionary)
                sizes.append(sum(part.total_compressed_size for part in _chunks(pq.read_metadata(sink.getvalue()))))
            found[column] = min(sizes)
    return found


def _chunks(metadata: pq.FileMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from (group.column(index) for index in range(group.num_columns))


def yambda(report: Report, spark: SparkSession, settings: Settings, place: Path, scale: str, rounds: int) -> None:
    """A log in the form of MLPerf's DLRMv4 data beside memory-mapped stores: memory to build, bytes, reading."""
    form, logged = YAMBDA[scale], place / "yambda"
    report.data |= write_log(form, logged)
    raw = RawLog.read(spark, str(logged / "log"), schema=log_schema(form.window))
    for name in ("requests", "tokens", "events", "events that a history holds", "events of the busiest user"):
        report.add(f"log: {name}", report.data[name], "")
    found = {}
    for layout in LAYOUTS:
        found[layout] = created(spark, settings, f"yambda_{layout}", raw, layout, "none")
        start = time.perf_counter()
        with peaks(spark) as most:
            found[layout].write(raw, gate=False)
        report.add(f"{layout}: building", time.perf_counter() - start, "s")
        report.add(f"{layout}: peak memory of the JVM", most.jvm / 1e6, "MB")
        report.add(f"{layout}: peak memory of Python workers, all and the largest", most.workers / 1e6, "MB",
                   spread=(most.worker / 1e6, most.workers / 1e6))  # fmt: skip
    stores = {title: place / kind for kind, title in STORES.items()}
    for kind, title in STORES.items():
        built = build(kind, logged, stores[title], form.window)
        report.add(f"{title}: building", built["seconds"], "s")
        report.add(f"{title}: peak memory of building", built["peak"] / 1e6, "MB")
        report.add(f"{title}: bytes", built["bytes"] / 1e6, "MB")
    (group,) = found["user"].spec.events
    events = found["user"].handle.cut().stored(group.table).count()
    held = report.data["events that a history holds"]
    report.add("user: events stored, of those that a history holds", events / held, "x",
               target="= 1", holds=events == held)  # fmt: skip
    floor = sum(event_columns(found["user"]).values())
    report.add("floor, each event once, zstd: history lists", floor / 1e6, "MB")
    for layout, ds in found.items():
        size = list_bytes(ds)
        report.add(f"{layout}: history lists", size / 1e6, "MB")
        report.add(f"{layout}: history lists, times the floor", size / floor, "x")
        report.add(f"{layout}: all files", all_bytes(ds) / 1e6, "MB")
    datasets: dict[str, tuple[str, dict[str, Any]]] = {layout: (ds.name, {}) for layout, ds in found.items()}
    datasets["user, shared, eight together"] = (found["user"].name, {"histories": "shared", "together": 8})
    read = epochs(settings, datasets, stores, rounds)
    for title, one in read.items():
        same = (one["tokens"], one["items"]) == (report.data["tokens"], read[STORES["lists"]]["items"])
        report.add(f"{title}: tokens read, of those logged; items the same", one["tokens"] / report.data["tokens"], "x",
                   target="= 1", holds=same)  # fmt: skip
        rates = [report.data["requests"] / seconds for seconds in one["seconds"]]
        report.add(f"{title}: histories a second on one core", statistics.median(rates), "1/s",
                   spread=(min(rates), max(rates)))  # fmt: skip


def event_feature(report: Report, spark: SparkSession, settings: Settings, place: Path, scale: str) -> None:
    """Features of events of a log of many requests: bytes written beside the column's own over distinct events."""
    params = SynthParams(**FEATURE[scale], candidates_per_request=1, days=10, layout=SynthLayout.NESTED, seed=7)
    made = generate(spark, params, str(place / "log"))
    raw = RawLog.read(spark, made.tables["log"], schema=params.log_schema())
    ds = created(spark, settings, "feature", raw, "user", "none")
    start = time.perf_counter()
    ds.write(raw, gate=False)
    requests = params.users * params.requests_per_user
    tokens = requests * params.sequence_length
    (group,) = ds.spec.events
    distinct = params.users * (params.sequence_length + params.new_events_per_request * (params.requests_per_user - 1))
    events = ds.handle.cut().stored(group.table).count()
    report.add("first load", time.perf_counter() - start, "s")
    for name, value in (("requests", requests), ("tokens", tokens), ("distinct events", distinct)):
        report.add(f"log: {name}", value, "")
    report.add("events stored, of the distinct ones", events / distinct, "x")
    for name, (text, what, target) in FEATURES.items():
        summary = ds.features.add(name, {name: text}, grain="event", gate=False)
        own = column_bytes(places(ds, summary.table), [name])
        report.add(f"{what}: rows computed, of the distinct events", summary.rows / distinct, "x")
        report.add(f"{what}: the column", own / distinct, "B/event")
        report.add(f"{what}: bytes written (baseline: a plain value a token)", summary.bytes / 1e6, "MB",
                   baseline=8 * tokens / 1e6)  # fmt: skip
        report.add(f"{what}: bytes written, of the column's own", summary.bytes / own, "x", target=target,
                   holds=summary.bytes <= WRITTEN * own if target else None)  # fmt: skip
        report.add(f"{what}: seconds", sum(summary.seconds.values()), "s")


def main() -> None:
    """Run it."""
    arguments = parse_kept(
        __doc__, None, format=("iceberg", "delta"), log=("synthetic", "journey", "yambda", "features"),
        grain=("all", *GRAINS),
    )  # fmt: skip
    report = Report("user_grain", f"{arguments.log}, {arguments.scale}, {arguments.format}")
    scale, conf = arguments.scale, {}
    if arguments.log == "yambda":
        report.data["heap"] = conf["spark.driver.memory"] = HEAP[scale]
    try:
        with lake(conf, keep=arguments.place, table_format=arguments.format) as (spark, settings, place):
            if arguments.log == "yambda":
                yambda(report, spark, settings, place, scale, arguments.rounds)
            elif arguments.log == "journey":
                grains = GRAINS if arguments.grain == "all" else (arguments.grain,)
                journey(report, spark, settings, place, scale, grains)
            else:
                logs = {"features": event_feature, "synthetic": synthetic}
                logs[arguments.log](report, spark, settings, place, scale)
    finally:
        # Also of a run that fails or is stopped: what it measured until then.
        report.finish(arguments.json)


if __name__ == "__main__":
    main()

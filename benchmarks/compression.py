"""Stored bytes of one log in every layout, the estimate against the truth, the tuner against the whole grid.

Every layout but the floor is written by Spark into Iceberg, as it would be in use: the flat ones partitioned and
sorted as a flat dataset is, or in the raw log's order with Iceberg's defaults. The floor is counted by pyarrow, each
column in its better encoding. ``small`` runs the preset ``bench``; ``full`` adds ``long`` and the Complete Journey.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, lake, parse
from dedup_storage.config import Settings
from dedup_storage.demo import complete_journey
from dedup_storage.report.apply import apply_properties
from dedup_storage.report.baselines import BaselineLayout, measure_layout
from dedup_storage.report.dataset_files import TableFiles, dataset_files, folder_files, input_files
from dedup_storage.report.encoding import Encoding
from dedup_storage.report.footers import Totals
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.sample import LogSample
from dedup_storage.report.savings import estimate_savings
from dedup_storage.report.select import sample_dataset
from dedup_storage.report.summary import read_totals
from dedup_storage.report.tune import Tuner
from dedup_storage.report.tuning import sample_tables, tune_dataset
from dedup_storage.schema import LogSchema
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.raw import RawLog
from dedup_storage.synth import SynthParams, write_log

BUCKETS = 4
# What the log may take in memory as flat rows for its sample to be the whole of it.
WHOLE_BYTES = 2 * 1024**3
ESTIMATE_SHARE = 0.4
SMALL_FILES = 10_000
TARGETS = {"bench": {"split": 70.0, "flat dataset": 40.0, "floor": 1.3}}


def _sequence_bytes(totals: list[Totals], schema: LogSchema) -> int:
    return sum(t.columns[c].stored_bytes for t in totals for c in schema.sequence_columns if c in t.columns)


def _iceberg(spark: SparkSession, settings: Settings, name: str, frame: DataFrame) -> TableFiles:
    """The frame's rows in its own order, with Iceberg's default properties."""
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {settings.catalog.name}.plain")
    frame.writeTo(f"{settings.catalog.name}.plain.{name}").using("iceberg").tableProperty(
        "write.distribution-mode", "none"
    ).create()
    return input_files(f"plain.{name}", settings)


def _dataset(
    spark: SparkSession, settings: Settings, name: str, schema: LogSchema, raw: RawLog, layout: str,
    properties: dict[str, dict[str, str]] | None = None,
) -> list[TableFiles]:  # fmt: skip
    dataset = Dataset.create(spark, settings, name, schema, raw, layout=layout, date_grain="none", buckets=BUCKETS)
    for table, values in (properties or {}).items():
        apply_properties(spark, settings, name, table, values)
    dataset.write(raw, gate=False)
    return list(dataset_files(settings, name).tables)


def layouts(
    report: Report, spark: SparkSession, settings: Settings, log: str, source: str, schema: LogSchema
) -> LogSample | None:
    """Write the log in every layout; the rows of the table, the estimate and the tuner follow from it."""
    raw = RawLog.read(spark, source, schema=schema)
    keys = list(schema.request_key)
    by_user = raw.frame.repartition(BUCKETS, schema.user).sortWithinPartitions(*keys)
    shuffled = raw.frame.withColumn("_order", F.rand(7)).repartition(BUCKETS, "_order").sortWithinPartitions("_order")
    stored = {
        "flat, order of arrival, Iceberg defaults": [_iceberg(spark, settings, f"{log}_arrival", raw.frame)],
        "flat, shuffled, Iceberg defaults": [_iceberg(spark, settings, f"{log}_shuffled", shuffled.drop("_order"))],
        "flat, sorted, Iceberg defaults": [_iceberg(spark, settings, f"{log}_sorted", by_user)],
        "flat dataset": _dataset(spark, settings, f"{log}_flat", schema, raw, "flat"),
        "split dataset": _dataset(spark, settings, f"{log}_split", schema, raw, "split"),
    }
    split = dataset_files(settings, f"{log}_split")
    proposals = tune_dataset(split)
    chosen = {p.table: dict(p.properties) for p in proposals}
    stored["split dataset, tuner's choice"] = _dataset(spark, settings, f"{log}_tuned", schema, raw, "split", chosen)
    totals = {name: [read_totals(t) for t in tables] for name, tables in stored.items()}
    sequences = {name: _sequence_bytes(t, schema) for name, t in totals.items()}
    whole = {name: sum(t.size_bytes for t in found) for name, found in totals.items()}
    base = sequences["flat, shuffled, Iceberg defaults"]
    for name, size in sequences.items():
        report.add(f"{log}: {name}: sequence columns", size / 1e6, "MB")
        report.add(f"{log}: {name}: all files", whole[name] / 1e6, "MB")
    targets = TARGETS.get(log, {})
    for name in ("flat dataset", "split dataset", "split dataset, tuner's choice"):
        goal = targets.get(name.split()[0] if name.startswith("split") else name)
        ratio = base / sequences[name]
        report.add(
            f"{log}: {name}: sequence columns smaller than flat, shuffled", ratio, "x",
            target=None if goal is None else f">= {goal:g}", holds=None if goal is None else ratio >= goal,
        )  # fmt: skip
    _exact(report, log, settings, split.version)
    split_totals = {t.name: read_totals(t) for t in split.tables}
    sample = sample_dataset(split, split_totals, budget_bytes=WHOLE_BYTES)
    if sample.share >= 1:
        floor = measure_layout(sample, BaselineLayout.FLOOR, Encoding.from_properties(split.tables[0].properties))
        size = floor.of(schema.sequence_columns)
        report.add(f"{log}: floor, every event of every user once: sequence columns", size / 1e6, "MB")
        for name in ("split dataset", "split dataset, tuner's choice"):
            goal = targets.get("floor")
            above = sequences[name] / size
            report.add(
                f"{log}: {name}: sequence columns, times the floor", above, "x",
                target=None if goal is None else f"<= {goal:g}", holds=None if goal is None else above <= goal,
            )  # fmt: skip
    _estimate(report, log, source, schema, sequences, totals)
    return sample if sample.share >= 1 else None


def _exact(report: Report, log: str, settings: Settings, version: int) -> None:
    files = dataset_files(settings, f"{log}_split", version)
    made = measure_dataset(files, baselines=())
    by_footer = 0
    for table in files.tables:
        for file in table.files:
            with table.resolve(file.path)[0].open_input_file(table.resolve(file.path)[1]) as source:
                metadata = pq.read_metadata(source)
            for g in range(metadata.num_row_groups):
                group = metadata.row_group(g)
                by_footer += sum(group.column(c).total_compressed_size for c in range(group.num_columns))
    off = abs(sum(c.stored_bytes for c in made.columns) - by_footer)
    report.add(f"{log}: bytes in the report off the sum of the footers", off, "B", target="= 0", holds=off == 0)


def _estimate(
    report: Report, log: str, source: str, schema: LogSchema, sequences: dict[str, int], totals: dict[str, list[Totals]]
) -> None:
    start = time.perf_counter()
    savings = estimate_savings(folder_files(source), schema, share=ESTIMATE_SHARE, files=BUCKETS)
    report.add(f"{log}: estimate from {ESTIMATE_SHARE:.0%} of the users", time.perf_counter() - start, "s")
    found = {s.layout: s for s in savings.layouts}
    truths = {"flat_sorted_tuned": "flat dataset", "split": "split dataset"}
    for layout, name in truths.items():
        total = sum(t.column_bytes for t in totals[name])
        for what, estimate, truth in (
            ("sequence columns", found[layout].sequences, sequences[name]),
            ("all columns", found[layout].total, total),
        ):
            off = abs(estimate.value / truth - 1)
            inside = estimate.low <= truth <= estimate.high
            report.add(
                f"{log}: estimate of {name}, {what}: off the truth", 100 * off, "%",
                spread=(100 * (estimate.low / truth - 1), 100 * (estimate.high / truth - 1)),
                target="<= 10, interval holds it", holds=off <= 0.10 and inside,
            )  # fmt: skip


def tuner(report: Report, log: str, sample: LogSample) -> None:
    """The search against the whole grid on the request rows."""
    start = Encoding(page_bytes=8 * 1024**2, columns=dict.fromkeys(sample.schema.sequence_columns, False))
    one = Tuner(sample_tables(sample, "requests", sample.num_requests / BUCKETS), start)
    found = one.search()
    points, seconds = len(one.trials), one.seconds
    best = one.exhaustive()
    excess = 100 * (found.stored_bytes / best.stored_bytes - 1)
    cost = points / len(one.trials)
    report.add(f"{log}: tuner: larger than the grid's choice", excess, "%", target="<= 5", holds=excess <= 5)
    report.add(
        f"{log}: tuner: settings tried, of {len(one.trials)}", points, "", target="<= a tenth", holds=cost <= 0.1
    )
    report.add(f"{log}: tuner: processor time", seconds, "s", baseline=one.seconds)


def _own_peak_bytes(*, reset: bool = False) -> int:
    """Most resident memory of this process since the last reset (Linux)."""
    place = Path("/proc/self")
    if reset:
        (place / "clear_refs").write_text("5")
    return next(int(x.split()[1]) * 1024 for x in (place / "status").read_text().splitlines() if x.startswith("VmHWM"))


def many_files(report: Report, place: Path) -> None:
    """Footers of ten thousand small files."""
    folder = place / "many"
    folder.mkdir()
    table = pa.table({"user_id": [1] * 8, "hist": [[1, 2, 3]] * 8, "item": list(range(8)), "country": ["DE"] * 8})
    for i in range(SMALL_FILES):
        pq.write_table(table, folder / f"{i}.parquet", compression="zstd")
    files = folder_files(str(folder))
    before = _own_peak_bytes(reset=True)
    start = time.perf_counter()
    totals = read_totals(files)
    seconds = time.perf_counter() - start
    grown = (_own_peak_bytes() - before) / 1e6
    report.add(f"footers of {totals.files:,} files", seconds, "s", target="<= 60", holds=seconds <= 60)
    report.add(f"footers of {totals.files:,} files: memory grown", grown, "MB", target="<= 100", holds=grown <= 100)


def main() -> None:
    """Run the benchmark."""
    arguments = parse(__doc__ or "")
    report = Report("compression", arguments.scale)
    with lake({"spark.driver.memory": "3g"}) as (spark, settings, place):
        logs: dict[str, tuple[str, LogSchema]] = {}
        for preset in ("bench", "long") if arguments.scale == "full" else ("bench",):
            params = SynthParams.preset(preset)
            write_log(params, place / preset)
            logs[preset] = (str(place / preset / "log"), params.log_schema())
        if arguments.scale == "full":
            summary = complete_journey.write_log(place / "journey", share=1.0, max_length=512)
            report.data["journey"] = summary.model_dump()
            logs["journey"] = (str(place / "journey"), complete_journey.log_schema())
        for log, (source, schema) in logs.items():
            sample = layouts(report, spark, settings, log, source, schema)
            if sample is not None:
                tuner(report, log, sample)
        many_files(report, place)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

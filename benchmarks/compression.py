"""Stored bytes of one log in every layout, the estimate against the truth, the tuner against the whole grid.

Every layout but the floor is written by Spark into Iceberg, as it would be in use: the flat ones partitioned and
sorted as a flat dataset is, or in the raw log's order with Iceberg's defaults. The floor is counted by pyarrow, each
column in its better encoding. ``small`` runs the preset ``bench``; ``full`` adds ``long`` and the Complete Journey;
``--log NAME`` runs one of the three.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, lake, parse
from dedup_storage.config import Settings
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import single_chunk
from dedup_storage.demo import complete_journey
from dedup_storage.report.apply import apply_properties
from dedup_storage.report.baselines import BaselineLayout, measure_layout
from dedup_storage.report.dataset_files import TableFiles, dataset_files, folder_files, input_files
from dedup_storage.report.encoding import Encoding
from dedup_storage.report.estimate import KnownTotals, estimate_layouts
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
# Flat rows in one shuffled file: sorted in memory by a task.
ROWS_PER_SHUFFLED_FILE = 100_000
# Samples that the estimate is judged by, besides the command's own: share of the users, number of samples.
SAMPLES = {"bench": (0.4, 10), "long": (0.6, 10), "journey": (0.3, 3)}
TUNER_BYTES = 512 * 1024**2
SMALL_FILES = 10_000
LOGS = ("bench", "long", "journey")
TRUTHS = {BaselineLayout.FLAT_SORTED_TUNED: "flat dataset", BaselineLayout.SPLIT: "split dataset"}
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
) -> tuple[LogSample, Totals]:
    """Write the log in every layout; the rows of the table, the estimate follows, and a sample for the tuner."""
    raw = RawLog.read(spark, source, schema=schema)
    keys = list(schema.request_key)
    by_user = raw.frame.repartition(BUCKETS, schema.user).sortWithinPartitions(*keys)
    pieces = max(BUCKETS, raw.frame.count() // ROWS_PER_SHUFFLED_FILE)
    shuffled = raw.frame.withColumn("_order", F.rand(7)).repartition(pieces, "_order").sortWithinPartitions("_order")
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
    sample = sample_dataset(split, split_totals, share=1.0)
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
    truths = {
        layout: (sequences[name], sum(t.column_bytes for t in totals[name]))
        for layout, name in (
            (BaselineLayout.FLAT_SORTED_TUNED, "flat dataset"),
            (BaselineLayout.SPLIT, "split dataset"),
        )
    }
    _estimate(report, log, source, schema, truths)
    _coverage(report, log, sample, truths)
    return sample_dataset(split, split_totals, budget_bytes=TUNER_BYTES), split_totals["requests"]


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


Truths = dict[BaselineLayout, tuple[int, int]]


def _estimate(report: Report, log: str, source: str, schema: LogSchema, truths: Truths) -> None:
    """The command with its defaults."""
    start, before = time.perf_counter(), time.process_time()
    savings = estimate_savings(folder_files(source), schema, files=BUCKETS)
    report.add(f"{log}: estimate with its defaults", time.perf_counter() - start, "s")
    report.add(f"{log}: estimate with its defaults: processor time", time.process_time() - before, "s")
    found = {s.layout: s for s in savings.layouts}
    for layout, (sequences, total) in truths.items():
        row = found[layout.value]
        for what, estimate, truth in (
            ("sequence columns", row.sequences, sequences),
            ("all columns", row.total, total),
        ):
            off, inside = estimate.value / truth - 1, estimate.low <= truth <= estimate.high
            report.add(
                f"{log}: estimate of {TRUTHS[layout]}, {what}, {row.share:.0%} of the users: off the truth", 100 * off,
                "%",
                spread=(100 * (estimate.low / truth - 1), 100 * (estimate.high / truth - 1)),
                target="within 10, interval holds it", holds=abs(off) <= 0.10 and inside,
            )  # fmt: skip


def _coverage(report: Report, log: str, whole: LogSample, truths: Truths) -> None:
    """Other samples of users: how often the interval holds the truth, and how far the middle is off."""
    share, count = SAMPLES[log]
    lists = {n: list_parts(single_chunk(whole.requests[n]))[1] for n in whole.schema.sequence_columns}
    times = np.bincount(whole.inverse, minlength=whole.num_requests)
    known = KnownTotals(
        whole.num_impressions, None, {n: int((np.diff(o) * times).sum()) for n, o in lists.items()}, False
    )
    users = np.unique(whole.users)
    drawn = round(share * len(users))
    off: dict[BaselineLayout, list[float]] = {layout: [] for layout in truths}
    held = 0
    for seed in range(count):
        chosen = np.isin(whole.users, np.random.default_rng(seed).choice(users, drawn, replace=False))
        part = replace(whole.part(chosen), share=drawn / len(users))
        found = estimate_layouts(part, known, layouts=tuple(truths), files=dict.fromkeys(truths, BUCKETS))
        for layout, (sequences, total) in truths.items():
            e = found[layout]
            off[layout] += [e.sequences.value / sequences - 1, e.total.value / total - 1]
            held += (sequences in e.sequences) + (total in e.total)
    asked = 4 * count
    name = f"{log}: {count} other samples of {share:.0%} of the users"
    report.add(f"{name}: intervals that hold the truth, of {asked}", held, "", target=f">= {0.9 * asked:g}",
               holds=held >= 0.9 * asked)  # fmt: skip
    for layout, errors in off.items():
        report.add(
            f"{name}: middle of the {TRUTHS[layout]} off the truth, mean", 100 * float(np.mean(np.abs(errors))), "%",
            spread=(100 * min(errors), 100 * max(errors)),
        )  # fmt: skip


def tuner(report: Report, log: str, sample: LogSample, rows_per_file: float) -> None:
    """The search against the whole grid on the request rows."""
    start = Encoding(page_bytes=8 * 1024**2, columns=dict.fromkeys(sample.schema.sequence_columns, False))
    start = replace(start, least_rows=16, most_rows=1_000)
    tables = sample_tables(sample, "requests", rows_per_file)
    one, grid = Tuner(tables, start), Tuner(tables, start)
    found = one.search()
    best = grid.exhaustive()
    least = grid.trial(found.point).stored_bytes
    excess = 100 * (least / best.stored_bytes - 1)
    report.add(f"{log}: tuner: larger than the grid's choice", excess, "%", target="<= 5", holds=excess <= 5)
    points = len(one.trials.keys() | one.screened.keys())
    report.add(f"{log}: tuner: settings tried, of {len(grid.trials)}; on all rows {len(one.trials)}", points, "")
    cost = 100 * one.seconds / grid.seconds
    report.add(f"{log}: tuner: processor time", one.seconds, "s", baseline=grid.seconds)
    report.add(f"{log}: tuner: processor time against the grid's", cost, "%", target="<= 10", holds=cost <= 10)


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


def _raw_log(report: Report, log: str, place: Path) -> tuple[str, LogSchema]:
    if log == "journey":
        summary = complete_journey.write_log(place / log, share=1.0, max_length=512)
        report.data[log] = summary.model_dump()
        return str(place / log), complete_journey.log_schema()
    params = SynthParams.preset(log)
    write_log(params, place / log)
    return str(place / log / "log"), params.log_schema()


def main() -> None:
    """Run the benchmark."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--log", choices=LOGS)
    chosen, rest = more.parse_known_args()
    arguments = parse(__doc__ or "", rest)
    names = (chosen.log,) if chosen.log else LOGS if arguments.scale == "full" else LOGS[:1]
    report = Report("compression", arguments.scale)
    with lake({"spark.driver.memory": "3g"}) as (spark, settings, place):
        for log in names:
            source, schema = _raw_log(report, log, place)
            sample, requests = layouts(report, spark, settings, log, source, schema)
            tuner(report, log, sample, requests.rows / requests.files)
        many_files(report, place)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

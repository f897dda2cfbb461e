"""Stored bytes of one log in every layout, the estimate against the truth, the tuner against the whole grid.

Every layout but the floor is written by Spark into Iceberg, as it would be in use: the flat ones partitioned and
sorted as a flat dataset is, or in the raw log's order with Iceberg's defaults (``_layouts``). The floor is counted by
pyarrow, each column in its better encoding. ``small`` runs the preset ``bench``; ``full`` adds ``long`` and the
Complete Journey; ``--log NAME`` runs one log, ``--stage NAME`` one stage. With ``--data DIR`` logs and tables stay
there, and what is there is not written again.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, lake, parse
from benchmarks._layouts import (
    ARRIVAL,
    BUCKETS,
    FLAT,
    SHUFFLED,
    SORTED,
    SPLIT,
    TRUTHS,
    TUNED,
    RawFiles,
    Stored,
    raw_files,
    write_layouts,
)
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import single_chunk
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.estimate.layouts import KnownTotals, estimate_layouts
from dedup_storage.report.estimate.savings import estimate_savings
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.parquet.dataset_files import folder_files
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import Totals
from dedup_storage.report.parquet.tables import DatasetFiles, read_totals
from dedup_storage.report.tune.dataset import draw_tables
from dedup_storage.report.tune.search import Tuner
from dedup_storage.schema import LogSchema

# Samples that the estimate is judged by, besides the command's own: share of the users, number of samples.
SAMPLES = {"bench": (0.4, 10), "long": (0.6, 10), "journey": (0.3, 3)}
TUNER_BYTES = 512 * 1024**2
SMALL_FILES = 10_000
LOGS = ("bench", "long", "journey")
STAGES = ("layouts", "estimate", "tuner")
TARGETS = {"bench": {SPLIT: 70.0, TUNED: 70.0, FLAT: 40.0, "floor": 1.3}}


def _sequence_bytes(totals: list[Totals], schema: LogSchema) -> int:
    return sum(t.columns[c].stored_bytes for t in totals for c in schema.sequence_columns if c in t.columns)


def layouts(report: Report, raw: RawFiles, stored: Stored, sample: LogDraw) -> None:
    """Bytes of every layout, against the shuffled log and the floor."""
    log, schema = raw.log, raw.schema
    totals = {name: stored.totals(name) for name in (ARRIVAL, SHUFFLED, SORTED, FLAT, SPLIT, TUNED)}
    sequences = {name: _sequence_bytes(t, schema) for name, t in totals.items()}
    for name, size in sequences.items():
        report.add(f"{log}: {name}: sequence columns", size / 1e6, "MB")
        report.add(f"{log}: {name}: all files", sum(t.size_bytes for t in totals[name]) / 1e6, "MB")
    targets = TARGETS.get(log, {})
    for name in (FLAT, SPLIT, TUNED):
        goal, ratio = targets.get(name), sequences[SHUFFLED] / sequences[name]
        report.add(
            f"{log}: {name}: sequence columns smaller than flat, shuffled", ratio, "x",
            target=None if goal is None else f">= {goal:g}", holds=None if goal is None else ratio >= goal,
        )  # fmt: skip
    split = stored.split
    _exact(report, log, split)
    floor = measure_layout(sample, BaselineLayout.FLOOR, Encoding.from_properties(split.tables[0].properties))
    size = floor.of(schema.sequence_columns)
    report.add(f"{log}: floor, every event of every user once: sequence columns", size / 1e6, "MB")
    for name in (SPLIT, TUNED):
        goal, above = targets.get("floor"), sequences[name] / size
        report.add(
            f"{log}: {name}: sequence columns, times the floor", above, "x",
            target=None if goal is None else f"<= {goal:g}", holds=None if goal is None else above <= goal,
        )  # fmt: skip


def _exact(report: Report, log: str, files: DatasetFiles) -> None:
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


def estimate(report: Report, raw: RawFiles, stored: Stored, sample: LogDraw) -> None:
    """The estimate, by its defaults and from other samples, against what Spark stored."""
    totals = {layout: stored.totals(name) for layout, name in TRUTHS.items()}
    truths = {b: (_sequence_bytes(t, raw.schema), sum(x.column_bytes for x in t)) for b, t in totals.items()}
    _estimate(report, raw.log, raw.source, raw.schema, truths)
    _coverage(report, raw.log, sample, truths)


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


def _coverage(report: Report, log: str, whole: LogDraw, truths: Truths) -> None:
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


def tuner(report: Report, log: str, sample: LogDraw, rows_per_file: float) -> None:
    """The search against the whole grid on the request rows."""
    start = Encoding(page_bytes=8 * 1024**2, columns=dict.fromkeys(sample.schema.sequence_columns, False))
    start = replace(start, least_rows=16, most_rows=1_000)
    tables = draw_tables(sample, "requests", rows_per_file)
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
    folder.mkdir(exist_ok=True)
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


def _run(report: Report, raw: RawFiles, stored: Stored, stages: tuple[str, ...]) -> None:
    split = stored.split
    totals = {t.name: read_totals(t) for t in split.tables}
    if {"layouts", "estimate"} & {*stages}:
        whole = draw_dataset(split, totals, share=1.0)
        if "layouts" in stages:
            layouts(report, raw, stored, whole)
        if "estimate" in stages:
            estimate(report, raw, stored, whole)
        del whole
    if "tuner" in stages:
        requests = totals["requests"]
        tuner(report, raw.log, draw_dataset(split, totals, budget_bytes=TUNER_BYTES), requests.rows / requests.files)


def main() -> None:
    """Run the benchmark."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--log", choices=LOGS)
    more.add_argument("--stage", choices=STAGES)
    more.add_argument("--data", type=Path)
    chosen, rest = more.parse_known_args()
    arguments = parse(__doc__ or "", rest)
    names = (chosen.log,) if chosen.log else LOGS if arguments.scale == "full" else LOGS[:1]
    stages = (chosen.stage,) if chosen.stage else STAGES
    report = Report("compression", arguments.scale)
    with lake({"spark.driver.memory": "4g"}, keep=chosen.data) as (spark, settings, place):
        for log in names:
            raw = raw_files(log, place)
            start = time.perf_counter()
            stored = write_layouts(spark, settings, raw)
            report.data[log] = {"writing_seconds": stored.seconds, "seconds": time.perf_counter() - start}
            _run(report, raw, stored, stages)
        if "bench" in names:
            many_files(report, place)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

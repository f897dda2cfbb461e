"""Writing a log once per request against a plain sorted Iceberg write of the same flat log.

Both end with rows partitioned by (event_date, bucket(4, user_id)), sorted inside by user and request, with the same
page size, codec and dictionary settings. Ours stores requests and impressions apart, proves that request columns are
constant, and publishes a version. Creating the empty tables is not timed on either side.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, lake, parse_kept, peak_memory_bytes, reset_peak_memory, shuffled_bytes
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams, statistics
from dedup_storage.table_properties import SEQUENCE_PAGE_BYTES

_NUMBER = itertools.count()
BUCKETS = 4
MILLION = {
    "users": 2_500, "requests_per_user": 20, "candidates_per_request": 20, "sequence_length": 200,
    "new_events_per_request": 10, "days": 2, "files": 8,
}  # fmt: skip
# What grows with a log is told from what does not; only in order of arrival, since each write takes minutes.
TEN_MILLION = {**MILLION, "users": 25_000, "sequence_length": 100, "files": 32}
# What a write from arrival order is to gain there over its sorted write.
LARGE = 2.5
ALL = (SynthLayout.FLAT, SynthLayout.SHUFFLED, SynthLayout.NESTED)


def _flat_writer(spark: SparkSession, settings: Settings, raw: RawLog) -> Callable[[], None]:
    """The baseline, configured as its users would."""
    frame = raw.frame
    if raw.schema.candidates:
        frame = frame.select("*", F.explode("candidates").alias("c")).select("*", "c.*").drop("candidates", "c")
    frame = frame.withColumn("event_date", F.to_date("request_time"))

    def write() -> None:
        table = tables.pop()
        frame.writeTo(table).append()

    columns = ", ".join(f"{f.name} {f.dataType.simpleString()}" for f in frame.schema.fields)
    lists = [f.name for f in frame.schema.fields if f.dataType.typeName() == "array"]
    properties = {
        "format-version": "3",
        "write.parquet.compression-codec": "zstd",
        "write.parquet.page-size-bytes": str(SEQUENCE_PAGE_BYTES),
        "write.parquet.row-group-check-min-record-count": "16",
        "write.parquet.row-group-check-max-record-count": "1000",
        **{f"write.parquet.dict-encoding-enabled.column.{c}.element": "false" for c in lists},
    }
    listed = ", ".join(f"'{k}' = '{v}'" for k, v in properties.items())
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {settings.catalog.name}.baseline")
    tables: list[str] = []

    def prepare(count: int) -> None:
        for _ in range(count):
            table = f"{settings.catalog.name}.baseline.t{next(_NUMBER)}"
            spark.sql(
                f"CREATE TABLE {table} ({columns}) USING iceberg "
                f"PARTITIONED BY (event_date, bucket({BUCKETS}, user_id)) TBLPROPERTIES ({listed})"
            )
            spark.sql(
                f"ALTER TABLE {table} WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY user_id, request_id, item_id"
            )
            tables.append(table)

    write.prepare = prepare  # type: ignore[attr-defined]
    return write


def _our_writer(spark: SparkSession, settings: Settings, raw: RawLog, *, gate: bool) -> Callable[[], None]:
    datasets: list[Dataset] = []
    steps: list[dict[str, float]] = []

    def prepare(count: int) -> None:
        for _ in range(count):
            name = f"ours_{next(_NUMBER)}"
            datasets.append(Dataset.create(spark, settings, name, raw.schema, raw, date_grain="day", buckets=BUCKETS))

    def write() -> None:
        steps.append(datasets.pop().write(raw, gate=gate).seconds)

    write.prepare, write.steps = prepare, steps  # type: ignore[attr-defined]
    return write


def _log(spark: SparkSession, place: Path, params: SynthParams, layout: SynthLayout) -> RawLog:
    laid = params.model_copy(update={"layout": layout})
    made = generate(spark, laid, str(place / f"{layout.value}-{next(_NUMBER)}"))
    return RawLog.read(spark, made.tables["log"], schema=laid.log_schema())


def _compare(
    report: Report,
    spark: SparkSession,
    settings: Settings,
    place: Path,
    name: str,
    params: SynthParams,
    rounds: int,
    chosen: tuple[SynthLayout, ...] = ALL,
    least: float = 2,
) -> None:
    """Some inputs of one log, in turn."""
    known = statistics(params)
    report.data[name] = {
        "requests": known.requests, "impressions": known.impressions, "tokens": params.sequence_length,
        "lists": len(params.history),
    }  # fmt: skip
    logs = {layout.value: _log(spark, place, params, layout) for layout in chosen}
    tasks: dict[str, Callable[[], None]] = {}
    for layout, raw in logs.items():
        scan = raw.frame.write.format("noop").mode("overwrite").save
        tasks[f"{layout} scan"] = scan
        tasks[f"{layout} baseline"] = _flat_writer(spark, settings, raw)
        tasks[f"{layout} ours"] = _our_writer(spark, settings, raw, gate=False)
    tasks["flat gated"] = _our_writer(spark, settings, logs["flat"], gate=True)
    for task in tasks.values():
        getattr(task, "prepare", lambda _: None)(rounds + 2)
    shuffle = {key: shuffled_bytes(spark, task) for key, task in tasks.items() if "scan" not in key}
    timed = in_turn(tasks, rounds)
    # Where our time goes: the summaries of the timed rounds (the first write of each was for the shuffled bytes).
    report.data[f"{name} steps"] = {k: t.steps[1:] for k, t in tasks.items() if hasattr(t, "steps")}
    titles = {"flat": "flat log, arrival order", "shuffled": "flat log, shuffled", "nested": "request rows"}
    for layout, title in ((layout, titles[layout]) for layout in logs):
        ours, base = timed[f"{layout} ours"], timed[f"{layout} baseline"]
        report.seconds(f"{name}: {title}: bare scan", timed[f"{layout} scan"])
        report.seconds(f"{name}: {title}: write, gate off", ours, base)
        if layout == "nested":
            report.speedup(f"{name}: {title}: faster than the flat log's sorted write", ours, timed["flat baseline"], 4)
            report.speedup(f"{name}: {title}: faster than exploding them into it", ours, base)
        else:
            report.speedup(f"{name}: {title}: faster than its sorted write", ours, base, least)
    report.seconds(f"{name}: {titles['flat']}: write, gate on", timed["flat gated"], timed["flat baseline"])
    report.speedup(f"{name}: {titles['flat']}: faster, gate on", timed["flat gated"], timed["flat baseline"])
    # What R rows weigh before compression: 8 bytes an element (Spark's int lists take 4), some 150 bytes of the rest;
    # impressions are shuffled too, some 100 bytes each.
    element = sum(4 if h.value == "hist_actions" else 8 for h in params.history)
    r_rows = known.history_elements * element + known.requests * 150 + known.impressions * 100
    for layout, title in ((layout, titles[layout]) for layout in logs):
        report.add(
            f"{name}: {title}: bytes shuffled, against R rows uncompressed",
            shuffle[f"{layout} ours"][0] / r_rows,
            "x",
            baseline=shuffle[f"{layout} baseline"][0] / r_rows,
            target="<= 1",
            holds=shuffle[f"{layout} ours"][0] <= r_rows,
        )
        report.add(
            f"{name}: {title}: bytes shuffled", shuffle[f"{layout} ours"][0] / 1e6, "MB",
            baseline=shuffle[f"{layout} baseline"][0] / 1e6,
        )  # fmt: skip


def _memory(
    report: Report, spark: SparkSession, settings: Settings, place: Path, name: str, params: SynthParams
) -> None:
    """Peak resident memory of one write, and of one of a log of ten times the rows, under one heap limit."""
    peaks = []
    for factor in (1, 10):
        log = _log(spark, place, params.model_copy(update={"users": params.users * factor // 10}), SynthLayout.SHUFFLED)
        write = _our_writer(spark, settings, log, gate=False)
        write.prepare(2)  # type: ignore[attr-defined]
        if factor == 1:
            write()
        reset_peak_memory(spark)
        write()
        peaks.append(peak_memory_bytes(spark))
    report.add(f"{name}: peak memory of the JVM, a tenth of the rows", peaks[0] / 1e6, "MB")
    report.add(f"{name}: peak memory of the JVM, all rows", peaks[1] / 1e6, "MB")
    growth = peaks[1] / peaks[0]
    report.add(f"{name}: growth of peak memory for tenfold rows", growth, "x", target="<= 2", holds=growth <= 2)


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv, log=("all", "ten_million"))
    report = Report("write", arguments.scale)
    heap = "2g" if arguments.scale == "small" and arguments.log == "all" else "4g"
    report.data["heap"] = heap
    with lake({"spark.driver.memory": heap}) as (spark, settings, place):
        if arguments.log == "ten_million":
            params = SynthParams.from_dict(TEN_MILLION)
            _compare(
                report, spark, settings, place, "ten million", params, arguments.rounds, (SynthLayout.FLAT,), LARGE
            )
            report.finish(arguments.json)
            return
        bench = SynthParams.preset("bench")
        _memory(report, spark, settings, place, "bench", bench)
        _compare(report, spark, settings, place, "bench", bench, arguments.rounds)
        if arguments.scale == "full":
            million = SynthParams.from_dict(MILLION)
            _memory(report, spark, settings, place, "million", million)
            _compare(report, spark, settings, place, "million", million, arguments.rounds)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

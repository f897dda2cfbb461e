"""Seconds of writes into layout ``user`` beside split layout: a log's first load, and its days appended one by one.

Both layouts take turns, the first of each pair the second of the next, so that a busy spell of the machine hits both.
What is compared of days is their median over three, since one write takes seconds of which much is planning. No
quality gate. Queries that are compiled and Python processes that start with a session's first writes are left out: two
days were written into other datasets before. ``--measure memory`` takes long histories of users of 1, 10 and 100 days
instead, and the most memory that a first load and one more day take, under one heap limit.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, costs_in_turn, in_turn, lake, parse_kept
from benchmarks._memory import peaks, processor_seconds
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams

SCALES = {
    "small": {"users": 100, "requests_per_user": 48, "sequence_length": 512, "days": 12},
    "medium": {"users": 2_000, "requests_per_user": 50, "sequence_length": 128, "days": 10},
    "full": {"users": 2_000, "requests_per_user": 60, "sequence_length": 512, "days": 30},
}
MEMORY = {
    "small": {"users": 8, "sequence_length": 16_384, "new_events_per_request": 50},
    "full": {"users": 32, "sequence_length": 16_384, "new_events_per_request": 50},
}
# Days of a user, requests of a day, and what Python workers may take of 100 days by what they take of 10.
DAYS, REQUESTS, GROWN, HEAP, ROWS_READ = (1, 10, 100), 2, 1.5, "1g", "64"
LAYOUTS = ("split", "user")
BUCKETS, NEAR = 4, 3


def logs(spark: SparkSession, place: Path, params: SynthParams) -> tuple[RawLog, list[RawLog]]:
    """The log, and each of its days in files of its own, as logs arrive."""
    made = generate(spark, params, str(place / "log"))
    whole = RawLog.read(spark, made.tables["log"], schema=params.log_schema())
    dated = whole.frame.withColumn("day", F.to_date("request_time"))
    dated.repartition("day").write.partitionBy("day").parquet(str(place / "days"))
    return whole, [
        RawLog.read(spark, str(folder), schema=params.log_schema()) for folder in sorted((place / "days").glob("day=*"))
    ]


def turns(write: Callable[[str], Callable[[], object]], number: int) -> dict[str, Timing]:
    """One write into each layout; ``number`` decides which is first."""
    order = LAYOUTS if number % 2 == 0 else LAYOUTS[::-1]
    return in_turn({layout: write(layout) for layout in order}, 1)


def measure(
    report: Report, spark: SparkSession, settings: Settings, place: Path, params: SynthParams, json: str | None
) -> None:
    """Both parts. The report has the seconds of every write, and is saved after each pair."""
    whole, days = logs(spark, place, params)

    def made(name: str, log: RawLog, layout: str) -> Dataset:
        return Dataset.create(
            spark, settings, f"{name}_{layout}", whole.schema, log, layout=layout, buckets=BUCKETS, date_grain="day"
        )

    for layout in LAYOUTS:
        warm = made("warm", days[0], layout)
        for day in days[:2]:
            warm.write(day, gate=False)
    first: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    later: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    used: dict[str, dict[str, list[float]]] = {f"{part} {w}": {} for w in ("first", "days") for part in LAYOUTS}
    report.data |= {"first": first, "days": later, "processor": used}

    def write(ds: Dataset, log: RawLog, what: str) -> None:
        before = processor_seconds(spark)
        ds.write(log, gate=False)
        for process, seconds in processor_seconds(spark).items():
            used[f"{ds.spec.layout.value} {what}"].setdefault(process, []).append(round(seconds - before[process], 2))

    for number in range(NEAR):
        sets = {layout: made(f"first_{number}", whole, layout) for layout in LAYOUTS}
        taken = turns(lambda layout, sets=sets: lambda: write(sets[layout], whole, "first"), number)
        for layout, timing in taken.items():
            first[layout] += timing.seconds
        report.save(json)
    sets = {layout: made("days", days[0], layout) for layout in LAYOUTS}
    for number, day in enumerate(days):
        taken = turns(lambda layout, day=day: lambda: write(sets[layout], day, "days"), number)
        for layout, timing in taken.items():
            later[layout] += timing.seconds
        report.save(json)
    user, split = (Timing(tuple(first[layout])) for layout in ("user", "split"))
    report.seconds("first load into layout user (baseline: split)", user, split)
    report.add("first load, of split layout's", user.median / split.median, "x", target="<= 1.3",
               holds=user.median / split.median <= 1.3)  # fmt: skip
    for what, begin in (("first", 0), ("days", 1)):
        middle = {
            layout: {p: median(seconds[begin:]) for p, seconds in used[f"{layout} {what}"].items()}
            for layout in LAYOUTS
        }
        for process, seconds in middle["user"].items():
            report.add(f"{what}: processor time of {process} (baseline: split)", seconds, "s",
                       baseline=middle["split"][process])  # fmt: skip
    early = {layout: median(seconds[1 : 1 + NEAR]) for layout, seconds in later.items()}
    late = {layout: median(seconds[-NEAR:]) for layout, seconds in later.items()}
    report.add(f"days 2 to {1 + NEAR} (baseline: split)", early["user"], "s", baseline=early["split"])
    report.add(f"last {NEAR} of {len(days)} days (baseline: split)", late["user"], "s", baseline=late["split"])
    report.add("last days, of the early ones", late["user"] / early["user"], "x", target="<= 1.3",
               holds=late["user"] / early["user"] <= 1.3, baseline=late["split"] / early["split"])  # fmt: skip


def grown_log(spark: SparkSession, place: Path, days: int, scale: str) -> tuple[RawLog, RawLog]:
    """A log of so many days, and the day after."""
    params = SynthParams(
        **MEMORY[scale],
        requests_per_user=REQUESTS * (days + 1),
        candidates_per_request=4,
        days=days + 1,
        layout=SynthLayout.NESTED,
        seed=7,
    )
    made = generate(spark, params, str(place / f"log-{days}"))
    rows = RawLog.read(spark, made.tables["log"], schema=params.log_schema()).frame
    end = F.lit(params.start.date()) + days
    parts = {
        "first": rows.filter(F.to_date("request_time") < end),
        "next": rows.filter(F.to_date("request_time") >= end),
    }
    for name, part in parts.items():
        part.write.parquet(str(place / f"{name}-{days}"))
    shutil.rmtree(place / f"log-{days}")
    first, last = (RawLog.read(spark, str(place / f"{name}-{days}"), schema=params.log_schema()) for name in parts)
    return first, last


def memory(report: Report, spark: SparkSession, settings: Settings, place: Path, scale: str, json: str | None) -> None:
    """Most memory of a first load of 1, 10 and 100 days, and of one more day, in both layouts."""
    workers: dict[tuple[str, str, int], int] = {}
    for warm, days in ((True, DAYS[0]), *((False, days) for days in DAYS)):
        first, last = grown_log(spark, place / ("warm" if warm else "log"), days, scale)
        for layout in LAYOUTS:
            name = f"{'warm' if warm else 'grown'}_{days}_{layout}"
            ds = Dataset.create(
                spark, settings, name, first.schema, first, layout=layout, buckets=BUCKETS, date_grain="day"
            )
            for what, log in (("first load", first), ("one more day", last)):
                with peaks(spark) as most:
                    (cost,) = costs_in_turn(spark, {layout: lambda ds=ds, log=log: ds.write(log, gate=False)}, 1)[
                        layout
                    ]
                if warm:
                    continue
                workers[what, layout, days] = most.workers
                at = f"{days} days, {layout}, {what}: "
                report.add(at + "peak memory of the JVM", most.jvm / 1e6, "MB")
                report.add(at + "peak memory of Python workers, the largest and all", most.workers / 1e6, "MB",
                           spread=(most.worker / 1e6, most.workers / 1e6))  # fmt: skip
                report.add(at + "shuffled", cost.shuffled / 1e6, "MB")
                report.add(at + "spilled", cost.spilled / 1e6, "MB")
                report.add(at + "time", cost.seconds, "s")
                report.save(json)
        if not warm:
            report.add(f"{days} days: requests", first.frame.count(), "")
            report.add(f"{days} days: longest list of a user", longest(ds), "events")
    for what in ("first load", "one more day"):
        few, many = (workers[what, "user", days] for days in DAYS[1:])
        report.add(f"layout user, {what}: Python workers, {DAYS[2]} days by {DAYS[1]}", many / few, "x",
                   target=f"<= {GROWN}", holds=many <= GROWN * few)  # fmt: skip


def longest(ds: Dataset) -> int:
    """Events of the user who has most."""
    (group,) = ds.spec.events
    rows = ds.handle.cut().stored(group.table)
    return int(rows.agg(F.max(group.position_column).alias("most")).first()["most"]) + 1


def main() -> None:
    """Run it."""
    arguments = parse_kept(
        __doc__, None, scales=tuple(SCALES), format=("iceberg", "delta"), measure=("seconds", "memory")
    )
    if arguments.measure == "memory" and arguments.scale not in MEMORY:
        raise SystemExit(f"--measure memory has no scale {arguments.scale}: choose {' or '.join(MEMORY)}")
    scale, conf = arguments.scale, {}
    report = Report("user_grain_write", f"{arguments.measure}, {scale}, {arguments.format}")
    if arguments.measure == "memory":
        report.data["heap"] = conf["spark.driver.memory"] = HEAP
        # Workers that made the log would wait for a minute with what they had taken, and count for a write without any.
        conf["spark.python.worker.reuse"] = "false"
        # Spark's reader holds so many of the log's rows in each task, with all elements of their lists.
        report.data["rows read at once"] = conf["spark.sql.parquet.columnarReaderBatchSize"] = ROWS_READ
    params = SynthParams(**SCALES[scale], candidates_per_request=4, new_events_per_request=8, seed=7)
    with lake(conf, keep=arguments.place, table_format=arguments.format) as (spark, settings, place):
        if arguments.measure == "memory":
            memory(report, spark, settings, place, scale, arguments.json)
        else:
            measure(report, spark, settings, place, params, arguments.json)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

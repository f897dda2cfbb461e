"""Seconds of writes into layout ``user`` beside split layout: a log's first load, and its days appended one by one.

Both layouts take turns, the first of each pair the second of the next, so that a busy spell of the machine hits both.
What is compared of days is their median over three, since one write takes seconds of which much is planning. No
quality gate. Queries that are compiled and Python processes that start with a session's first writes are left out: two
days were written into other datasets before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, in_turn, lake, parse_kept
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthParams

SCALES = {
    "small": {"users": 100, "requests_per_user": 48, "sequence_length": 512, "days": 12},
    "full": {"users": 2_000, "requests_per_user": 60, "sequence_length": 512, "days": 30},
}
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
    report.data |= {"first": first, "days": later}
    for number in range(NEAR):
        sets = {layout: made(f"first_{number}", whole, layout) for layout in LAYOUTS}
        taken = turns(lambda layout, sets=sets: lambda: sets[layout].write(whole, gate=False), number)
        for layout, timing in taken.items():
            first[layout] += timing.seconds
        report.save(json)
    sets = {layout: made("days", days[0], layout) for layout in LAYOUTS}
    for number, day in enumerate(days):
        taken = turns(lambda layout, day=day: lambda: sets[layout].write(day, gate=False), number)
        for layout, timing in taken.items():
            later[layout] += timing.seconds
        report.save(json)
    user, split = (Timing(tuple(first[layout])) for layout in ("user", "split"))
    report.seconds("first load into layout user (baseline: split)", user, split)
    report.add("first load, of split layout's", user.median / split.median, "x", target="<= 1.3",
               holds=user.median / split.median <= 1.3)  # fmt: skip
    early = {layout: median(seconds[1 : 1 + NEAR]) for layout, seconds in later.items()}
    late = {layout: median(seconds[-NEAR:]) for layout, seconds in later.items()}
    report.add(f"days 2 to {1 + NEAR} (baseline: split)", early["user"], "s", baseline=early["split"])
    report.add(f"last {NEAR} of {len(days)} days (baseline: split)", late["user"], "s", baseline=late["split"])
    report.add("last days, of the early ones", late["user"] / early["user"], "x", target="<= 1.3",
               holds=late["user"] / early["user"] <= 1.3, baseline=late["split"] / early["split"])  # fmt: skip


def main() -> None:
    """Run it."""
    arguments = parse_kept(__doc__, None, format=("iceberg", "delta"))
    report = Report("user_grain_write", f"{arguments.scale}, {arguments.format}")
    params = SynthParams(**SCALES[arguments.scale], candidates_per_request=4, new_events_per_request=8, seed=7)
    with lake(keep=arguments.place, table_format=arguments.format) as (spark, settings, place):
        measure(report, spark, settings, place, params, arguments.json)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

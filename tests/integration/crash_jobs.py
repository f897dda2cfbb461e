"""The jobs that tests interrupt: what each needs to be there, and what it does; in the suite's session or a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Limits, Policy
from dedup_storage.layout import Layout
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import day, flat_rows, flat_schema, frame
from tests.spark.odd_lists import TYPES, late_rows, odd_rows, odd_schema

__all__ = [
    "CHANGE", "FIRST", "GONE", "HIT", "JOBS", "LATE", "RESTORED", "SAMPLE", "Job", "compaction", "decided",
    "erasable_rows", "log", "odd_log", "publication", "visible",
]  # fmt: skip

RESTORED = ["maintain:part-staged", "maintain:part", "maintain:rewritten"]
CHANGE = Change(expressions={"y": "y + 10"})
HIT = Affected(users=[1, 5])
# Labels that come late: two of known impressions, one of an impression that nobody knows.
LATE = [(1, 1, 31, 3, day(9)), (2, 2, 12, 4, day(9)), (5, 777, 1, 1, day(9))]
LATE_TYPES = "user_id bigint, request_id bigint, item bigint, y int, at timestamp"
# Ids that no other number looks like: the least and the greatest of the 12 users of a dataset to erase from.
FIRST = 7_654_000
GONE = [FIRST, FIRST + 11]
# Half of the users of each country, whose strata are stored.
SAMPLE = {"fraction": 0.5, "seed": 3, "strata": [{"name": "country", "column": "country"}]}


@dataclass(frozen=True)
class Job:
    """A job to interrupt.

    Attributes:
        begin: Makes the dataset, given its name.
        act: Does the job; once more after a crash, it goes on with it.
        before: What is done to the dataset before the job.
        also: What the names of further datasets that the job changes have behind the dataset's name.
    """

    begin: Callable[[SparkSession, Settings, str], Dataset]
    act: Callable[[Dataset], Any]
    before: tuple[Callable[[Dataset], Any], ...] = ()
    also: tuple[str, ...] = ()

    def prepare(self, spark: SparkSession, settings: Settings, name: str) -> Dataset:
        """Make the dataset as it is before the job."""
        ds = self.begin(spark, settings, name)
        for step in self.before:
            step(ds)
        return ds


def log(spark: SparkSession, days: list[int], first_request: int = 0, users: int = 5, **schema: Any) -> RawLog:
    """The log of ``flat_rows`` for some days."""
    rows = flat_rows(days, users=users, first_request=first_request)
    return RawLog.from_frame(frame(spark, rows), flat_schema(**schema))


def publication(table_format: str, *tables: str) -> list[str]:
    """Points from the decision on, given the tables in the order in which they get a version, the anchor last.

    On Iceberg the anchor's data and the version come in one commit, on Delta the version is there once its event is.
    """
    picked = tables if table_format == "delta" else tables[:-1]
    return ["publish:after-claim", *(f"publish:after-pick-{t}" for t in picked), f"publish:after-tag-{tables[-1]}"]


def compaction(table_format: str, *tables: str, restaged: Sequence[str]) -> list[str]:
    """Points of a maintenance that compacts and expires.

    Args:
        tables: As ``publication`` takes them.
        restaged: Those that are staged once more when it publishes.
    """
    ended = ["published", "remembered", "unnamed", *(("untagged", "cleaned") if table_format == "iceberg" else ())]
    return [
        *RESTORED,
        *(f"publish:restaged-{table}" for table in restaged),
        "publish:before-claim",
        *publication(table_format, *tables),
        *(f"maintain:{step}" for step in ended),
    ]


def decided(point: str) -> bool:
    """Whether the version is decided when a job reaches a point, so that whoever comes next completes it."""
    return point.startswith("publish:after-") or visible(point)


def visible(point: str) -> bool:
    """Whether the version is there when a job reaches a point."""
    return point == "publish:after-tag-requests" or point.endswith(":published")


def _created(spark: SparkSession, settings: Settings, name: str, raw: RawLog, **options: Any) -> Dataset:
    """A dataset with a log, version 1."""
    ds = Dataset.create(spark, settings, name, raw.schema, raw, **options)
    ds.write(raw, run_id="first", gate=False)
    return ds


def _one_day(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, log(spark, [1]))


def _one_day_of_users(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, log(spark, [1]), layout=Layout.USER)


def odd_log(spark: SparkSession, days: list[int], **options: Any) -> RawLog:
    """A log of three users whose histories are mostly windows."""
    return RawLog.from_frame(frame(spark, odd_rows(days, users=3, **options), TYPES), odd_schema())


def _two_days_of_users(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, odd_log(spark, [1, 2]), layout=Layout.USER)


def _replace_a_day_of_users(ds: Dataset) -> Any:
    return ds.write(odd_log(ds.spark, [2], seed=9, first=5000), run_id="second", mode="replace", gate=False)


def _drop(ds: Dataset) -> Any:
    limits, policy = Limits(unreferenced_share=0), Policy(keep_versions=1, keep_days=0)
    return ds.maintain("drop", limits=limits, policy=policy, compact=False, orphans=False)


def _late_events(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    """Three users whose lists are many runs, with a feature of their events."""
    raw = RawLog.from_frame(frame(spark, late_rows([1, 2], users=3), TYPES), odd_schema())
    ds = _created(spark, settings, name, raw, layout=Layout.USER)
    ds.features.add("age", {"twice": "seen * 2"}, grain="event", sequence="g", missing="null", gate=False)
    return ds


def _lay_anew(ds: Dataset) -> Any:
    limits = Limits(runs_share=0.3)
    return ds.maintain("lay", limits=limits, runs=True, compact=False, events=False, expire=False, orphans=False)


def _eight_users(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, log(spark, [1, 2], users=8))


def _to_maintain(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    """Three versions. On Iceberg the last hides rows; on Delta its segments have three files each."""
    if settings.format == "iceberg":
        ds = _eight_users(spark, settings, name)
        for number in (2, 3):
            ds.backfill(CHANGE, HIT, run_id=f"b{number}", strategy=Strategy.MERGE_ON_READ, gate=False)
        return ds
    ds = _created(spark, settings, name, log(spark, [1, 2], users=8, date_grain="month", buckets=2))
    for number in (3, 4):
        ds.write(log(spark, [number], 100 * number, users=8), run_id=f"b{number - 1}", gate=False)
    return ds


def erasable_rows(spark: SparkSession, days: list[int], first_request: int = 0) -> DataFrame:
    """Rows of 12 users with ids that no other number looks like."""
    rows = frame(spark, flat_rows(days, users=12, first_request=first_request))
    return rows.withColumn("user_id", F.col("user_id") + FIRST)


def _to_erase_from(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    """Two versions, the first pinned. The second hides rows of a user to erase (Iceberg), or replaces a day (Delta)."""
    schema = flat_schema(buckets=2)
    ds = _created(spark, settings, name, RawLog.from_frame(erasable_rows(spark, [1, 2]), schema))
    if settings.format == "iceberg":
        some = Affected(users=[FIRST, FIRST + 1])
        ds.backfill(CHANGE, some, run_id="second", strategy=Strategy.MERGE_ON_READ, gate=False)
    else:
        again = RawLog.from_frame(erasable_rows(spark, [1], 100), schema)
        ds.write(again, run_id="second", mode="replace", gate=False)
    ds.pin(1, "paper")
    return ds


def _add(ds: Dataset) -> Any:
    return ds.features.add("age", {"length": "size(hist)"}, run_id="add", gate=False)


def _refresh(ds: Dataset, run_id: str = "refresh") -> Any:
    return ds.features.refresh("age", run_id=run_id, gate=False)


def _add_of_events(ds: Dataset) -> Any:
    return ds.features.add("age", {"length": "2 * hist"}, grain="event", run_id="add", gate=False)


def _add_another(ds: Dataset) -> Any:
    return ds.features.add("place", {"place": "upper(country)"}, run_id="second", gate=False)


def _to_sample(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, log(spark, [1], users=12))


def _sample(ds: Dataset) -> Any:
    return ds.samples.make("half", SAMPLE)


def _more_users(ds: Dataset) -> Any:
    return ds.write(log(ds.spark, [2], 1000, users=20), gate=False)


def _three_flat_days(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return _created(spark, settings, name, log(spark, [1, 2, 3]), layout=Layout.FLAT)


def _write(mode: str, number: int) -> Callable[[Dataset], Any]:
    return lambda ds: ds.write(log(ds.spark, [number], 100), run_id="second", mode=mode, gate=False)


# An append of another day.
_second_day = _write("append", 2)


def _backfill(strategy: Strategy) -> Callable[[Dataset], Any]:
    run_id = strategy.value
    return lambda ds: ds.backfill(CHANGE, HIT, run_id=run_id, strategy=strategy, part_segments=2, gate=False)


def _convert(target: str) -> Callable[[Dataset], Any]:
    return lambda ds: ds.convert(f"{ds.name}_b", format=target, layout=Layout.SPLIT, run_id="turn")


def _merge_labels(ds: Dataset) -> Any:
    rows = ds.spark.createDataFrame(LATE, LATE_TYPES)
    return ds.merge_labels(rows, "y", "at", run_id="late-labels", gate=False)


def _to_rebucket(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    """Two versions: a day, and a feature group of it."""
    ds = _one_day(spark, settings, name)
    _add(ds)
    return ds


JOBS: Mapping[str, Job] = {
    "append": Job(_one_day, _second_day),
    "replace": Job(_one_day, _write("replace", 1)),
    "append-user": Job(_one_day_of_users, _second_day),
    "overwrite": Job(_eight_users, _backfill(Strategy.OVERWRITE)),
    "merge-on-read": Job(_eight_users, _backfill(Strategy.MERGE_ON_READ)),
    "late-labels": Job(_eight_users, _merge_labels),
    "maintain": Job(
        _to_maintain, lambda ds: ds.maintain("maintain", policy=Policy(keep_versions=1, keep_days=0), orphans=False)
    ),
    "drop": Job(_two_days_of_users, _drop, (_replace_a_day_of_users,)),
    "anew": Job(_late_events, _lay_anew),
    "forget": Job(_to_erase_from, lambda ds: ds.forget_users(GONE, "gdpr")),
    "add": Job(_one_day, _add),
    "refresh": Job(_one_day, _refresh, (_add, _second_day)),
    "refresh-events": Job(_one_day_of_users, lambda ds: _refresh(ds, "refresh-events"), (_add_of_events, _second_day)),
    "promote": Job(_one_day, lambda ds: ds.features.promote("age", run_id="promote"), (_add, _second_day, _refresh)),
    "bundle": Job(
        _one_day, lambda ds: ds.features.bundle("both", ["age", "place"], run_id="bundle"), (_add, _add_another)
    ),
    "rebucket": Job(_to_rebucket, lambda ds: ds.rebucket(7, "rebucket")),
    "sample": Job(_to_sample, _sample),
    "refresh-sample": Job(_to_sample, lambda ds: ds.samples.refresh("half"), (_sample, _more_users)),
    "drop-sample": Job(_to_sample, lambda ds: ds.samples.drop("half"), (_sample, _more_users)),
    "convert-to-delta": Job(_three_flat_days, _convert("delta"), also=("_b",)),
    "convert-to-iceberg": Job(_three_flat_days, _convert("iceberg"), also=("_b",)),
}

"""Joins inside buckets against shuffle joins, and as-of joins against window functions, on tables of up to 1 GB.

Requests carry a history of 200 random tokens, which nothing compresses; impressions and their feature group are narrow.
Every task reads all columns of its result and drops them (Spark's noop sink). The shuffle join is Spark's own on the
same tables with its default settings (sort-merge, adaptive execution on), broadcasts off on both sides.

`--part` runs one part alone; with `--data` the tables are written once into that directory and found there again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Cost, Report, Timing, costs_in_turn, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.dataset.joins import asof_join, bucket_join
from dedup_storage.lake.engine.sessions import in_own_session

BUCKETS, DAYS, TOKENS = 8, 2, 200
KEYS = ("user_id", "request_id", "event_date")
# Requests, and impressions of each: about 400 MB and 1 GB a side as Spark's rows.
SCALES = {"small": (250_000, 30), "full": (640_000, 30)}
# Spark's own join, as it would be without storage-partitioned joins.
_SHUFFLE = {
    "spark.sql.iceberg.planning.preserve-data-grouping": "false",
    "spark.sql.sources.v2.bucketing.enabled": "false",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.shuffle.partitions": "200",
}


# The sides of a join and its keys.
Sides = tuple[DataFrame, DataFrame, tuple[str, ...]]


@dataclass(frozen=True)
class Tables:
    """The log's tables, and feature rows of users over time."""

    requests: DataFrame
    impressions: DataFrame
    group: DataFrame
    features: DataFrame


def _table(spark: SparkSession, settings: Settings, name: str, frame: DataFrame, order: str) -> DataFrame:
    """A table laid out as a dataset's are, written unless it is there."""
    table = f"{settings.catalog.name}.log.{name}"
    if spark.catalog.tableExists(table):
        return spark.table(table)
    columns = ", ".join(f"{f.name} {f.dataType.simpleString()}" for f in frame.schema.fields)
    spark.sql(
        f"CREATE TABLE {table} ({columns}) USING iceberg PARTITIONED BY (event_date, bucket({BUCKETS}, user_id)) "
        "TBLPROPERTIES ('format-version' = '3', 'write.parquet.compression-codec' = 'zstd', "
        f"'write.spark.advisory-partition-size-bytes' = '{1024**3}')"
    )
    spark.sql(f"ALTER TABLE {table} WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY {order}")
    frame.writeTo(table).append()
    return spark.table(table)


def _make(spark: SparkSession, settings: Settings, requests: int, candidates: int) -> Tables:
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {settings.catalog.name}.log")
    users = requests // 20
    base = spark.range(requests).selectExpr(
        f"abs(xxhash64(id % {users})) AS user_id",
        "id AS request_id",
        f"date_add(date'2024-01-01', CAST(id * {DAYS} DIV {requests} AS int)) AS event_date",
        "timestamp_seconds(1704067200 + id % 86400) AS at",
        "id % 7 AS country",
    )
    wide = base.withColumn("history", F.expr(f"transform(sequence(1, {TOKENS}), x -> xxhash64(request_id, x))"))
    rows = base.select(*KEYS, F.explode(F.sequence(F.lit(0), F.lit(candidates - 1))).alias("position"))
    items = rows.select("*", F.expr("xxhash64(request_id, position) AS item"), F.expr("position % 2 AS label"))
    extra = rows.select("*", F.expr("xxhash64(position, request_id) AS feature"))
    known = spark.range(requests * 2).selectExpr(
        f"abs(xxhash64(id % {users})) AS user_id",
        "timestamp_seconds(1704067200 + (id * 7919) % 86400) AS at",
        f"date_add(date'2024-01-01', CAST(id % {DAYS} AS int)) AS event_date",
        *(f"xxhash64(id, {i}) AS f{i}" for i in range(4)),
    )
    known = known.dropDuplicates(["user_id", "at"])
    order = "user_id, request_id"
    return Tables(
        _table(spark, settings, "requests", wide, order),
        _table(spark, settings, "impressions", items, f"{order}, position"),
        _table(spark, settings, "fg_feature", extra, f"{order}, position"),
        _table(spark, settings, "user_features", known, "user_id, at"),
    )


def _run(frame: DataFrame) -> Callable[[], None]:
    """The frame, planned anew and run to its last row."""
    return lambda: frame.select("*").write.format("noop").mode("overwrite").save()


def _timings(costs: dict[str, tuple[Cost, ...]]) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Wall and processor seconds of the rounds."""
    wall = {name: Timing(tuple(c.seconds for c in found)) for name, found in costs.items()}
    return wall, {name: Timing(tuple(c.processor for c in found)) for name, found in costs.items()}


def _bucket_join(report: Report, spark: SparkSession, name: str, sides: Sides, rounds: int) -> None:
    left, right, on = sides
    tasks = {
        "shuffle": _run(in_own_session(left.join(right, list(on)), _SHUFFLE)),
        "bucket": _run(bucket_join(left, right, on)),
        "hashed": _run(bucket_join(left, right, on, hash_side="right")),
    }
    costs_in_turn(spark, tasks, 1)
    costs = costs_in_turn(spark, tasks, rounds)
    wall, used = _timings(costs)
    moved = {key: max(c.shuffled for c in found) for key, found in costs.items()}
    for key, title, target in (("bucket", "bucket join", 2), ("hashed", "bucket join, right side hashed", None)):
        report.seconds(f"{name}: {title}", wall[key], wall["shuffle"])
        report.speedup(f"{name}: {title}, times faster than the shuffle join", wall[key], wall["shuffle"], target)
        report.seconds(f"{name}: {title}, processor time", used[key], used["shuffle"])
        report.add(
            f"{name}: {title}, bytes shuffled", moved[key] / 1e6, "MB", baseline=moved["shuffle"] / 1e6, target="= 0",
            holds=moved[key] == 0,
        )  # fmt: skip
    report.data[f"{name}: bytes spilled"] = {key: max(c.spilled for c in found) for key, found in costs.items()}


def _requests(report: Report, spark: SparkSession, tables: Tables, rounds: int) -> None:
    sides = tables.impressions, tables.requests, KEYS
    _bucket_join(report, spark, "impressions with requests", sides, rounds)


def _group(report: Report, spark: SparkSession, tables: Tables, rounds: int) -> None:
    sides = tables.impressions, tables.group, (*KEYS, "position")
    _bucket_join(report, spark, "impressions with a feature group", sides, rounds)


def _ranked(requests: DataFrame, features: DataFrame) -> DataFrame:
    """The usual form: all earlier rows of the user, ranked by time inside each request."""
    known = features.withColumnsRenamed({"user_id": "whose", "at": "known"})
    pairs = requests.join(known, (F.col("user_id") == F.col("whose")) & (F.col("known") <= F.col("at")), "left")
    newest = Window.partitionBy("user_id", "request_id").orderBy(F.desc("known"))
    return pairs.withColumn("n", F.row_number().over(newest)).where("n = 1").drop("n", "known", "whose")


def _carried(requests: DataFrame, features: DataFrame) -> DataFrame:
    """The better form: one window over both, whole request rows carried through it."""
    values = [F.col(f"f{i}") for i in range(4)]
    events = features.select("user_id", "at", F.lit(0).alias("turn"), F.struct(*values).alias("f"))
    asked = requests.withColumn("turn", F.lit(1))
    window = Window.partitionBy("user_id").orderBy("at", "turn").rowsBetween(Window.unboundedPreceding, 0)
    both = asked.unionByName(events, allowMissingColumns=True)
    return both.withColumn("f", F.last("f", ignorenulls=True).over(window)).where("turn = 1").drop("turn")


def _asof_joins(report: Report, spark: SparkSession, tables: Tables, rounds: int) -> None:
    features = tables.features.drop("event_date")
    tasks = {
        "ranked": _run(in_own_session(_ranked(tables.requests, features), _SHUFFLE)),
        "carried": _run(in_own_session(_carried(tables.requests, features), _SHUFFLE)),
        "ours": _run(asof_join(tables.requests, features, "at", by="user_id", ties="f0")),
    }
    costs_in_turn(spark, tasks, 1)
    costs = costs_in_turn(spark, tasks, rounds)
    wall, used = _timings(costs)
    moved = {key: max(c.shuffled for c in found) for key, found in costs.items()}
    for key, title in (("ranked", "join and row_number"), ("carried", "whole rows through one window")):
        report.seconds(f"as-of join against {title}", wall["ours"], wall[key])
        report.speedup(f"as-of join: times faster than {title}", wall["ours"], wall[key])
        report.seconds(f"as-of join: processor time, against {title}", used["ours"], used[key])
        report.add(f"as-of join: bytes shuffled, against {title}", moved["ours"] / 1e6, "MB", baseline=moved[key] / 1e6)


# A part takes the report, the session, the tables and the number of rounds.
PARTS = {"requests": _requests, "group": _group, "asof": _asof_joins}


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv, part=("all", *PARTS))
    requests, candidates = SCALES[arguments.scale]
    report = Report("joins", arguments.scale)
    report.data |= {
        "requests": requests, "impressions": requests * candidates, "tokens": TOKENS, "buckets": BUCKETS, "days": DAYS,
        "request_row_bytes": requests * (TOKENS + 5) * 8, "impression_row_bytes": requests * candidates * 6 * 8,
    }  # fmt: skip
    with lake({"spark.driver.memory": "4g"}, arguments.place) as (spark, settings, _):
        tables = _make(spark, settings, requests, candidates)
        if written(arguments):
            return
        for part in PARTS.values() if arguments.part == "all" else (PARTS[arguments.part],):
            part(report, spark, tables, arguments.rounds)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

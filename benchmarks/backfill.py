"""Backfills: what new values for 1 % of the users write and take, late labels for 5 % of the impressions, and readers.

Log: a million impressions (``small``: 100,000; ``large``: ten million, backfills alone), 20 candidates a request,
histories of 50, four days in four buckets, 5 % of the labels late; three feature groups of one column each (a 64-bit
hash and a match at impression grain, a count at request grain). The backfill gives the hash's column new values for 1 %
of the users: scattered over all buckets, in one bucket, and for everyone, which is the full recompute; a further
baseline writes the whole group anew with plain Spark into a table with the same partitions and order. Each round
starts from the same version.

Bytes written are those that the published snapshot added. The fixed cost of a touched segment (the footers and headers
of its small files, its deletion vectors) is stated apart: it does not grow with the rows. The reader reads every batch
of the same columns from three versions in turn: before backfills, after five scattered ones, after ``maintain``. The
labels' result is compared with a dataset written from the log with all labels in place, by count and by the sum of
64-bit row hashes as decimals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, in_turn, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, BackfillSummary, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams

LOG = {
    "users": 5_000, "requests_per_user": 10, "candidates_per_request": 20, "sequence_length": 50,
    "new_events_per_request": 5, "days": 4, "files": 8, "late_labels": 0.05,
}  # fmt: skip
USERS = {"tiny": 50, "small": 500, "full": 5_000, "large": 50_000}
GROUPS = {
    "score": ({"score": "xxhash64(user_id, request_id, position)"}, "impression"),
    "seen": ({"seen": "array_contains(hist_item_ids, item_id)"}, "impression"),
    "length": ({"length": "size(hist_item_ids)"}, "request"),
}
SHARE, MOST_SHARE, DECAYING = 0.01, 0.03, 5
# Versions of a dataset as it was prepared: the log and each group.
PREPARED = 1 + len(GROUPS)
# What a backfill of 1 % is to be faster than everyone's, where bytes count.
FASTER = {"scattered": 4, "one bucket": 8}


def added_files(ds: Dataset, table: str, before: int, after: int) -> dict[str, int]:
    """What a version added to a table: bytes of column data, of the rest of data files, of deletion vectors."""
    meta = ds.metadata()

    def listed(version: int) -> dict[Any, Any]:
        files = ds.spark.read.option("versionAsOf", str(meta.snapshots(version)[table]))
        place = f"{ds.settings.catalog.name}.{ds.name}.{table}.files"
        rows = files.table(place).select("content", "file_path", "content_offset", "content_size_in_bytes").collect()
        return {(r["file_path"], r["content_offset"]): r for r in rows}

    old, found = listed(before), {"values": 0, "footers": 0, "vectors": 0, "files": 0, "vector count": 0}
    for key, row in listed(after).items():
        if key in old:
            continue
        if row["content"]:
            found["vectors"] += row["content_size_in_bytes"]
            found["vector count"] += 1
            continue
        path = row["file_path"].removeprefix("file:")
        metadata = pq.read_metadata(path)
        chunks = sum(
            metadata.row_group(g).column(c).total_compressed_size
            for g in range(metadata.num_row_groups)
            for c in range(metadata.num_columns)
        )
        found["values"] += chunks
        found["footers"] += Path(path).stat().st_size - chunks
        found["files"] += 1
    return found


def table_bytes(ds: Dataset, table: str, version: int) -> int:
    """Bytes of a table's data files."""
    snapshot_id = ds.metadata().snapshots(version)[table]
    place = f"{ds.settings.catalog.name}.{ds.name}.{table}.files"
    files = ds.spark.read.option("versionAsOf", str(snapshot_id)).table(place).filter("content = 0")
    return int(files.agg(F.sum("file_size_in_bytes")).first()[0])  # type: ignore[index]


def fingerprint(rows: DataFrame) -> tuple[int, Any]:
    """Number of rows and the sum of their hashes; decimals, since a sum of 64-bit hashes overflows."""
    hashed = F.xxhash64(*sorted(rows.columns)).cast("decimal(38,0)")
    found = rows.agg(F.count(F.lit(1)), F.sum(hashed)).first()
    return tuple(found)


def _users(ds: Dataset, number: int, *, seed: int = 0, bucket: int | None = None) -> DataFrame:
    """Some users, the same at every call."""
    users = ds.requests(features=()).select("user_id").distinct()
    if bucket is not None:
        users = users.filter(ds.tables.bucket(ds.spec) == bucket)
    return users.orderBy(F.xxhash64("user_id", F.lit(seed))).limit(number).localCheckpoint()


def _backfills(report: Report, ds: Dataset, users: int, rounds: int) -> None:
    """1 % of the users, scattered and in one bucket, against everyone."""
    base = ds.versions()[-1].version
    number = max(1, round(users * SHARE))
    chosen = {
        "scattered": Affected(users=_users(ds, number)),
        "one bucket": Affected(users=_users(ds, number, bucket=0)),
        "everyone": Affected(),
    }
    whole = table_bytes(ds, "fg_score", base)
    plain = f"{ds.settings.catalog.name}.{ds.name}_plain.score"
    seconds: dict[str, list[float]] = {name: [] for name in (*chosen, "plain Spark")}
    last: dict[str, tuple[BackfillSummary, int]] = {}
    expression = "xxhash64(user_id, request_id, position, {0})"
    for turn in range(rounds + 1):
        # The first round warms up and is not counted.
        for name, who in chosen.items():
            start = time.perf_counter()
            summary = ds.backfill(Change(expressions={"score": expression.format(turn)}), who, gate=False)
            seconds[name].append(time.perf_counter() - start)
            last[name] = (summary, base)
            base = ds.rollback(base).version
        seconds["plain Spark"].append(_timed(lambda: _plain(ds, plain, expression.format(turn))))  # noqa: B023
    timings = {name: Timing(tuple(values[1:])) for name, values in seconds.items()}
    for name in ("scattered", "one bucket"):
        summary, before = last[name]
        added = added_files(ds, "fg_score", before, summary.version)
        segments = {c.quantity: c.actual for c in summary.planned_and_actual}["segments"]
        told = ", ".join(f"{count} by {how}" for how, count in sorted(summary.strategies.items()))
        report.data[name] = {"users": number, "segments": segments, "strategies": told}
        share = added["values"] / whole
        report.add(
            f"{name}: bytes of new values, against the feature's ({whole / 1e6:.2f} MB)", 100 * share, "%",
            target="<= 3" if name == "scattered" else None,
            holds=share <= MOST_SHARE if name == "scattered" else None,
        )  # fmt: skip
        fixed = added["footers"] + added["vectors"]
        report.add(f"{name}: fixed cost of {segments} segments ({told})", fixed / 1e3, "kB")
        report.add(f"{name}: fixed cost of a segment", fixed / segments, "B")
        report.add(f"{name}: all bytes written, against the feature's", 100 * (share + fixed / whole), "%")
        report.add(
            f"{name}: sequence bytes written", summary.sequence_bytes_written, "B", target="0",
            holds=summary.sequence_bytes_written == 0,
        )  # fmt: skip
        report.seconds(f"{name}: time, against everyone", timings[name], timings["everyone"])
        faster = FASTER[name] if report.scale == "large" else None
        report.speedup(f"{name}: faster than everyone", timings[name], timings["everyone"], faster)
        report.speedup(f"{name}: faster than plain Spark writing the group anew", timings[name], timings["plain Spark"])
    for name, (summary, _) in last.items():
        report.data[f"{name}: seconds by step"] = summary.seconds


def _timed(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _plain(ds: Dataset, place: str, expression: str) -> None:
    """The whole group computed and written by Spark alone, with the partitions and the order of its table."""
    spark = ds.spark
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {place.rpartition('.')[0]}")
    spark.sql(f"DROP TABLE IF EXISTS {place} PURGE")
    stored = spark.read.table(f"{ds.settings.catalog.name}.{ds.name}.impressions")
    rows = stored.select("user_id", "request_id", "event_date", "position")
    rows = rows.withColumn("score", F.expr(expression))
    fields = ", ".join(f"{f.name} {f.dataType.simpleString()}" for f in rows.schema.fields)
    spark.sql(
        f"CREATE TABLE {place} ({fields}) USING iceberg PARTITIONED BY (event_date, bucket({ds.spec.buckets}, user_id))"
    )
    spark.sql(f"ALTER TABLE {place} WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY user_id, request_id, position")
    rows.writeTo(place).append()


def _reader(report: Report, ds: Dataset, users: int, rounds: int) -> None:
    """An epoch of the columns of log and feature, before and after backfills, and after maintenance."""
    versions = {"before backfills": ds.versions()[-1].version}
    number = max(1, round(users * SHARE))
    for seed in range(1, DECAYING + 1):
        change = Change(expressions={"score": f"xxhash64(user_id, request_id, position, {seed})"})
        ds.backfill(change, Affected(users=_users(ds, number, seed=seed)), gate=False)
    versions[f"after {DECAYING} scattered backfills"] = ds.versions()[-1].version
    start = time.perf_counter()
    kept = ds.maintain(expire=False, orphans=False)
    report.add("maintain: time", time.perf_counter() - start, "s")
    versions["after maintain"] = kept.version
    gain = next(g for g in kept.compaction if g.table == "fg_score")
    report.data["maintain"] = gain.model_dump()
    report.add("maintain: hidden rows", gain.hidden_rows_after, "rows", baseline=gain.hidden_rows_before)
    report.add("maintain: files of the group", gain.files_after, "files", baseline=gain.files_before)
    columns = ["user_id", "request_id", "position", "item_id", "score"]

    def epoch(version: int) -> Callable[[], None]:
        def read() -> None:
            opened = DedupDataset(ds.name, ds.settings, version=version, columns=columns, batch_size=8_192)
            for batch in opened:
                batch.counts()

        return read

    tasks = {name: epoch(version) for name, version in versions.items()}
    for task in tasks.values():
        task()
    found = in_turn(tasks, max(rounds, 5))
    names = list(tasks)
    for name in names:
        report.seconds(f"reader: an epoch, {name}", found[name])
    report.speedup("reader: slower after backfills", found[names[0]], found[names[1]])
    report.speedup("reader: faster after maintain", found[names[2]], found[names[1]])


def _labels(report: Report, spark: SparkSession, ds: Dataset, raw: RawLog, labels: DataFrame) -> None:
    """All late labels in one run, against the log with all labels in place, written whole."""
    before = ds.versions()[-1].version
    summary = ds.merge_labels(labels, "label", "label_time", gate=False)
    after = summary.backfill.version
    stored = table_bytes(ds, "impressions", before)
    added = added_files(ds, "impressions", before, after)
    written = added["values"] + added["footers"] + added["vectors"]
    total = ds.impressions(features=()).count()
    report.data["late labels"] = {
        "merged": summary.merged_rows, "unknown": summary.unknown_rows, "strategies": summary.backfill.strategies,
    }  # fmt: skip
    report.add("late labels: of all impressions", 100 * summary.merged_rows / total, "%")
    report.add("late labels: bytes written to the impressions", written / 1e6, "MB", baseline=stored / 1e6)
    report.add("late labels: bytes against the impressions table", 100 * written / stored, "%")
    meta = ds.metadata()
    times = int(meta.tables["label_times"].current_snapshot().summary["added-files-size"])
    report.add("late labels: bytes of the labels' times", times / 1e6, "MB")
    sequences = summary.backfill.sequence_bytes_written + sum(added_files(ds, "requests", before, after).values())
    report.add("late labels: sequence bytes written", sequences, "B", target="0", holds=sequences == 0)
    keys = ["user_id", "request_id", "item_id"]
    late = labels.groupBy(*keys).agg(F.max_by("label", F.struct("label_time", "label")).alias("late"))
    complete = raw.frame.join(late, keys, "left").withColumn("label", F.coalesce("late", "label")).drop("late")
    rebuilt = Dataset.create(
        spark, ds.settings, f"{ds.name}_rebuilt", raw.schema, raw, date_grain="day", buckets=ds.spec.buckets
    )
    rebuilt.write(RawLog.from_frame(complete, raw.schema), gate=False)
    equal = fingerprint(ds.logs(features=())) == fingerprint(rebuilt.logs(features=()))
    report.add("late labels: rows that differ from a full rebuild's", 0 if equal else 1, "", target="0", holds=equal)
    again = ds.merge_labels(labels, "label", "label_time", gate=False)
    report.add(
        "late labels: labels merged by another run of the same rows", again.merged_rows, "", target="0",
        holds=again.merged_rows == 0,
    )  # fmt: skip


def _dataset(
    spark: SparkSession, settings: Settings, place: Path, users: int, *, nested: bool = False
) -> tuple[Dataset, RawLog, DataFrame]:
    """The log and what came of it: made unless it is there, and as it was prepared, whatever was done to it since."""
    layout = SynthLayout.NESTED if nested else SynthLayout.FLAT
    params = SynthParams.from_dict({**LOG, "users": users, "layout": layout.value})
    if (place / "written").exists():
        log, labels = (str(place / "raw" / name) for name in ("log", "labels"))
        ds = Dataset.open(spark, settings, "clicks")
        ds.rollback(PREPARED)
        return ds, RawLog.read(spark, log, schema=params.log_schema()), spark.read.parquet(labels)
    made = generate(spark, params, str(place / "raw"))
    raw = RawLog.read(spark, made.tables["log"], schema=params.log_schema())
    ds = Dataset.create(spark, settings, "clicks", raw.schema, raw, date_grain="day", buckets=4)
    ds.write(raw, gate=False)
    for name, (expressions, grain) in GROUPS.items():
        ds.features.add(name, expressions, grain=grain, gate=False)
    return ds, raw, spark.read.parquet(made.tables["labels"])


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv, scales=tuple(USERS))
    users, large = USERS[arguments.scale], arguments.scale == "large"
    report = Report("backfill", arguments.scale)
    with lake({"spark.driver.memory": "4g" if large else "2g"}, arguments.place) as (spark, settings, place):
        report.data |= {**LOG, "users": users, "impressions": users * 200}
        began = time.perf_counter()
        # As request rows a large log is written in a tenth of the time.
        ds, raw, labels = _dataset(spark, settings, place, users, nested=large)
        report.data["prepared_seconds"] = time.perf_counter() - began
        if written(arguments):
            return
        _backfills(report, ds, users, arguments.rounds)
        if large:
            report.finish(arguments.json)
            return
        report.save(arguments.json)
        _reader(report, ds, users, arguments.rounds)
        report.save(arguments.json)
        _labels(report, spark, ds, raw, labels)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

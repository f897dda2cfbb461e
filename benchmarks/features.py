"""Feature groups: what a new column writes, what reading it costs, where promoting pays, what a refresh reads.

Log: a million impressions, 20 candidates a request, two days in four buckets. Each group holds one 64-bit hash of its
key, which nothing compresses, at impression grain. Bytes come from the footers of the files that the run added;
"rewriting the table" is what adding the column to the impressions' own table writes. Read times: all impressions with
the columns of 0, 1, 5 and 20 groups, in Spark (to nowhere) and in the reader (every batch of an epoch, 8,192
impressions each); the same 20 columns after promoting them. The refresh: the same number of impressions over thirty
days, one day of them written after the group was added; rows from Spark's task metrics.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, in_turn, lake, parse_kept, read_rows, written
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features import FeatureSummary
from dedup_storage.lake.ranges import date_ranges
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthParams

LOG = {
    "users": 2_500, "requests_per_user": 20, "candidates_per_request": 20, "sequence_length": 50,
    "new_events_per_request": 5, "days": 2, "files": 8,
}  # fmt: skip
KEYS = ("user_id", "request_id", "event_date", "position")


def _dataset(spark: SparkSession, settings: Settings, place: Path, name: str, params: SynthParams) -> RawLog:
    made = generate(spark, params, str(place / name))
    return RawLog.read(spark, made.tables["log"], schema=params.log_schema())


def column_bytes(ds: Dataset, table: str) -> Counter[str]:
    """Stored bytes of each column of a table's newest snapshot, from the footers; and of its files."""
    found: Counter[str] = Counter()
    stored = ds.metadata().tables[table]
    for task in stored.scan().plan_files():
        metadata = pq.read_metadata(task.file.file_path.removeprefix("file://"))
        found["files"] += task.file.file_size_in_bytes
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(number)
                found[chunk.path_in_schema] += chunk.total_compressed_size
    return found


def _paths(ds: Dataset, version: int) -> dict[str, set[str]]:
    meta = ds.metadata()
    return {
        table: {t.file.file_path for t in meta.tables[table].scan(snapshot_id=snapshot_id).plan_files()}
        for table, snapshot_id in meta.snapshots(version).items()
    }


def _written(report: Report, ds: Dataset) -> None:
    """Bytes of one new column at each grain, and of the files that were there."""
    before = _paths(ds, 1)
    for grain, rows in (("impression", ds.impressions(features=())), ("request", ds.requests(features=()))):
        key = ", ".join(KEYS[:2] + KEYS[3:] if grain == "impression" else KEYS[:2])
        column = f"new_{grain}"
        summary = ds.features.add(f"one_{grain}", {column: f"xxhash64({key})"}, grain=grain, gate=False)
        stored = column_bytes(ds, summary.table)
        keys = sum(stored[k] for k in KEYS)
        own = "impressions" if grain == "impression" else "requests"
        whole = column_bytes(ds, own)["files"] + stored[column]
        report.add(f"{grain} grain: bytes of the column", stored[column] / rows.count(), "B/row")
        report.add(
            f"{grain} grain: bytes of its keys", keys / summary.rows, "B/row",
            target="<= 0.8" if grain == "impression" else None,
            holds=keys / summary.rows <= 0.8 if grain == "impression" else None,
        )  # fmt: skip
        ratio = summary.bytes / (stored[column] + keys)
        report.add(
            f"{grain} grain: bytes written, against the column's and its keys'", ratio, "x", target="<= 1.1",
            holds=ratio <= 1.1,
        )  # fmt: skip
        report.add(
            f"{grain} grain: bytes written, against rewriting the table", summary.bytes / 1e6, "MB",
            baseline=whole / 1e6,
        )  # fmt: skip
    after = _paths(ds, ds.versions()[-1].version)
    changed = sum(len(paths ^ after[table]) for table, paths in before.items())
    report.add("files of older tables added or removed", changed, "files", target="0", holds=changed == 0)
    for grain in ("impression", "request"):
        ds.features.drop(f"one_{grain}")


def _million(spark: SparkSession, settings: Settings, place: Path) -> Dataset:
    """The log of a million impressions, written unless it is there."""
    if (place / "written").exists():
        return Dataset.open(spark, settings, "million")
    raw = _dataset(spark, settings, place, "million", SynthParams.from_dict(LOG))
    ds = Dataset.create(spark, settings, "million", raw.schema, raw, date_grain="day", buckets=4)
    ds.write(raw, gate=False)
    return ds


def _add_groups(ds: Dataset, most: int) -> list[float]:
    """Add groups of one column each, unless they are there; seconds of each."""
    there, seconds = ds.features(), []
    for number in range(most):
        if f"g{number:02d}" not in there:
            text = f"xxhash64(user_id, request_id, position, {number})"
            source = {f"c{number:02d}": text}
            began = time.perf_counter()
            ds.features.add(f"g{number:02d}", source, grain="impression", gate=False)
            seconds.append(time.perf_counter() - began)
    return seconds


def _read_cost(report: Report, ds: Dataset, settings: Settings, rounds: int, most: int) -> None:
    """Seconds to read every impression with 0, 1, 5, 20 groups; and promoted."""
    own = [*KEYS, "item_id"]

    def spark_read(count: int) -> Any:
        names = [f"g{n:02d}" for n in range(count)]
        columns = [*KEYS[:2], "position", "item_id", *(f"c{n:02d}" for n in range(count))]

        def read() -> None:
            rows = ds.impressions(features=names).select(*columns)
            rows.write.format("noop").mode("overwrite").save()

        return read

    def reader_read(count: int) -> Any:
        columns = [*own, *(f"c{n:02d}" for n in range(count))]

        def read() -> None:
            opened = DedupDataset(ds.name, settings, columns=columns, batch_size=8_192)
            for batch in opened:
                batch.counts()

        return read

    counts = (0, 1, *(n for n in (5, 20) if n <= most))
    tasks = {}
    for count in counts:
        tasks |= {f"spark {count}": spark_read(count), f"reader {count}": reader_read(count)}
    for task in tasks.values():
        task()
    joined = in_turn(tasks, rounds)
    # Promoting one after the other would rewrite the table twenty times; one is timed, its cost is a table's rewrite.
    if ds.features()["g00"].promoted is not None:
        raise SystemExit("the group is promoted already: remove the directory of --data")
    start = time.perf_counter()
    ds.features.promote("g00")
    promotion = time.perf_counter() - start
    promoted = in_turn({"spark": spark_read(1), "reader": reader_read(1)}, rounds)
    for engine in ("spark", "reader"):
        base = joined[f"{engine} 0"]
        report.seconds(f"{engine}: impressions without features", base)
        for count in counts[1:]:
            report.seconds(f"{engine}: with {count} groups", joined[f"{engine} {count}"], base)
            report.speedup(f"{engine}: {count} groups cost", base, joined[f"{engine} {count}"])
        report.seconds(f"{engine}: with 1 promoted group", promoted[engine], base)
        saved = joined[f"{engine} 1"].median - promoted[engine].median
        report.add(f"{engine}: reads after which promoting one group pays", promotion / max(saved, 1e-9), "reads")
    report.seconds("promoting one group", Timing((promotion,)))


def _refresh(report: Report, spark: SparkSession, settings: Settings, place: Path) -> None:
    """Rows read and computed by a refresh after one new day of thirty, against computing the group again."""
    params = SynthParams.from_dict({**LOG, "days": 30, "files": 30})
    raw = _dataset(spark, settings, place, "month", params)
    ds = Dataset.create(spark, settings, "month", raw.schema, raw, date_grain="day", buckets=2)
    day = F.to_date("request_time")
    last = raw.frame.agg(F.max(day)).first()[0]  # type: ignore[index]
    older, newest = (RawLog.from_frame(raw.frame.filter(c), raw.schema) for c in (day < last, day == last))
    ds.write(older, gate=False)
    report.data["refresh"] = {"last day": date_ranges([last])[0][0]}
    ds.features.add("hits", {"seen": "array_contains(hist_item_ids, item_id)"}, grain="impression", gate=False)
    ds.write(newest, gate=False)
    done: list[FeatureSummary] = []
    new_rows = read_rows(spark, lambda: done.append(ds.features.refresh("hits", gate=False)))
    again = read_rows(spark, lambda: done.append(ds.features.refresh("hits", full=True, gate=False)))
    refreshed, full = done
    share = refreshed.rows / full.rows
    report.add("refresh: rows computed after one new day of thirty", refreshed.rows, "rows", baseline=full.rows)
    report.add("refresh: share of the rows computed", share, "x", target="<= 1/25", holds=share <= 1 / 25)
    report.add("refresh: rows read", new_rows, "rows", baseline=again)
    report.add(
        "refresh: share of the rows read", new_rows / again, "x", target="<= 1/25", holds=new_rows / again <= 1 / 25
    )
    nothing = ds.features.refresh("hits", gate=False)
    report.add(
        "refresh a second time: versions made", 0 if nothing.up_to_date else 1, "", target="0", holds=nothing.up_to_date
    )


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv, part=("all", "bytes", "refresh", "read"))
    groups = 20
    report = Report("features", arguments.scale)
    with lake({"spark.driver.memory": "2g"}, arguments.place) as (spark, settings, place):
        report.data |= {"impressions": 1_000_000, "requests": 50_000, "groups": groups}
        if arguments.part != "refresh":
            ds = _million(spark, settings, place)
        if arguments.part in ("all", "bytes"):
            _written(report, ds)
        if arguments.part in ("all", "refresh"):
            _refresh(report, spark, settings, place)
        if arguments.part in ("all", "read"):
            report.data["add"] = _add_groups(ds, groups)
            if written(arguments):
                return
            _read_cost(report, ds, settings, arguments.rounds, groups)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

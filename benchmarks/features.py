"""Feature groups: what a new column writes, what reading it costs, where promoting pays, what a refresh reads.

Log: a million impressions, 20 candidates a request, two days in four buckets. Each group holds one 64-bit hash of its
key, which nothing compresses, at impression grain. Bytes come from the footers of the files that the run added;
"rewriting the table" is what adding the column to the impressions' own table writes. Read times: all impressions with
the columns of 0, 1, 5 and 20 groups, in Spark (to nowhere) and in the reader (every batch of an epoch, 8,192
impressions each); the same 20 columns promoted (in one group), and after the 20 groups were bundled. The refresh: the
same number of impressions over thirty days, one day of them written after the group was added; rows from Spark's task
metrics.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, in_turn, lake, parse_kept, read_rows, written
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features import FeatureSummary
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
    """Seconds to read every impression with 0, 1, 5, 20 groups; with 20 bundled; with their columns promoted."""
    names = [f"g{n:02d}" for n in range(most)]
    if "same" in ds.features():
        raise SystemExit("the groups are bundled already: remove the directory of --data")
    alone = ds.metadata().current
    same = {f"p{n:02d}": f"xxhash64(user_id, request_id, position, {n})" for n in range(most)}
    ds.features.add("same", same, grain="impression", gate=False)
    promotion = _timed(lambda: ds.features.promote("same"))
    bundling = _timed(lambda: ds.features.bundle("all", names))
    together = ds.metadata().current

    def spark_read(groups: Sequence[str], columns: Sequence[str], version: int) -> Callable[[], None]:
        def read() -> None:
            rows = ds.impressions(version, features=groups).select(*KEYS[:2], "position", "item_id", *columns)
            rows.write.format("noop").mode("overwrite").save()

        return read

    def reader_read(groups: Sequence[str], columns: Sequence[str], version: int) -> Callable[[], None]:
        wanted = [*KEYS, "item_id", *columns]

        def read() -> None:
            for batch in DedupDataset(ds.name, settings, columns=wanted, batch_size=8_192, version=version):
                batch.counts()

        return read

    counts = (0, 1, *(n for n in (5, 20) if n <= most))
    own = [f"c{n:02d}" for n in range(most)]
    tasks: dict[str, Callable[[], None]] = {}
    for engine, reading in (("spark", spark_read), ("reader", reader_read)):
        for count in counts:
            tasks[f"{engine} {count}"] = reading(names[:count], own[:count], alone)
        tasks[f"{engine} bundled"] = reading(names, own, together)
        tasks[f"{engine} promoted"] = reading(["same"], list(same), together)
    for task in tasks.values():
        task()
    taken = in_turn(tasks, rounds)
    for engine, most_alone, most_bundled in (("spark", 10, 3), ("reader", 2, 2)):
        base, promoted, bundled = (taken[f"{engine} {kind}"] for kind in ("0", "promoted", "bundled"))
        report.seconds(f"{engine}: impressions without features", base)
        for count in counts[1:]:
            report.seconds(f"{engine}: with {count} groups", taken[f"{engine} {count}"], base)
            report.speedup(f"{engine}: {count} groups cost", base, taken[f"{engine} {count}"])
        report.seconds(f"{engine}: with {most} bundled groups", bundled, base)
        report.seconds(f"{engine}: with the same columns promoted", promoted, base)
        for kind, reads, bound in (
            (f"{most} groups", taken[f"{engine} {most}"], most_alone),
            (f"{most} bundled groups", bundled, most_bundled),
        ):
            times = statistics.median(r / p for r, p in zip(reads.seconds, promoted.seconds, strict=True))
            report.add(
                f"{engine}: {kind}, against the same columns promoted", times, "x", target=f"<= {bound}",
                holds=times <= bound,
            )  # fmt: skip
        for what, cost, reads in (("bundling", bundling, bundled), ("promoting", promotion, promoted)):
            saved = taken[f"{engine} {most}"].median - reads.median
            report.add(f"{engine}: reads after which {what} {most} groups pays", cost / max(saved, 1e-9), "reads")
    report.seconds(f"bundling {most} groups", Timing((bundling,)))
    report.seconds(f"promoting one group of {most} columns", Timing((promotion,)))


def _timed(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def _refresh(report: Report, spark: SparkSession, settings: Settings, place: Path) -> None:
    """Rows read and computed by a refresh after one new day of thirty, against computing the group again."""
    params = SynthParams.from_dict({**LOG, "days": 30, "files": 30})
    raw = _dataset(spark, settings, place, "month", params)
    ds = Dataset.create(spark, settings, "month", raw.schema, raw, date_grain="day", buckets=2)
    day = F.to_date("request_time")
    last = raw.frame.agg(F.max(day)).first()[0]  # type: ignore[index]
    older, newest = (RawLog.from_frame(raw.frame.filter(c), raw.schema) for c in (day < last, day == last))
    ds.write(older, gate=False)
    report.data["refresh"] = {"last day": last.isoformat()}
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

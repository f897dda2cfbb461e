"""A bucket sample of about 1 % against the same users chosen without pruning, in Spark and in the reader.

``--scale large`` has ten million impressions, ``tiny`` shows that the script runs.

The log lies in 128 buckets of one date; the sample takes one of them. The baseline keeps the same rows: in Spark by the
same bucket function in a form that Iceberg cannot prune by, in the reader by a list of the same users without their
buckets. Bytes are Spark's input metrics, and for the reader what the process read (Linux, /proc/self/io).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.samples.store import SAMPLED, SampleStore
from dedup_storage.dataset.samples.users import STRATUM
from dedup_storage.lake.engine.status import counted_reads
from dedup_storage.reader import DedupDataset
from dedup_storage.sampling.definition import SampleSpec
from dedup_storage.sampling.stored import USER_WEIGHT
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams, statistics

BUCKETS = 128
SMALL = {
    "users": 10_240, "requests_per_user": 2, "candidates_per_request": 20, "sequence_length": 2_000,
    "new_events_per_request": 20, "history": ["hist_item_ids"], "days": 1, "items": 50_000, "files": 8,
    "layout": SynthLayout.NESTED.value,
}  # fmt: skip
SCALES = {
    "tiny": {**SMALL, "users": 1_024, "sequence_length": 50, "files": 2},
    "small": SMALL,
    "full": {**SMALL, "users": 81_920, "files": 16},
    "large": {**SMALL, "users": 262_144, "sequence_length": 500, "files": 16},
}


def _dataset(spark: SparkSession, settings: Settings, place: Path, params: SynthParams) -> Dataset:
    """The log in its buckets, written unless it is there."""
    if (place / "written").exists():
        return Dataset.open(spark, settings, "log")
    raw = RawLog.read(spark, generate(spark, params, str(place / "raw")).tables["log"], schema=params.log_schema())
    ds = Dataset.create(spark, settings, "log", raw.schema, raw, date_grain="none", buckets=BUCKETS)
    ds.write(raw, gate=False)
    return ds


def _without_pruning(ds: Dataset, name: str, like: str) -> None:
    """A sample of the same users that says nothing of their buckets."""
    store = SampleStore(ds.handle)
    sample = store.load(like)
    inside = ds.tables.bucket(ds.spec).isin(*sample.chosen_buckets)
    users = ds.requests().select(ds.schema.user).distinct().filter(inside)
    rows = users.select(ds.schema.user, F.lit("all").alias(STRATUM), F.lit(True).alias(SAMPLED),
                        F.lit(128.0).alias(USER_WEIGHT))  # fmt: skip
    table, tag = store.write_users(name, rows, name)
    spec = SampleSpec(size=max(sample.users, 1))
    store.save(sample.model_copy(update={"name": name, "spec": spec, "table": table, "tag": tag, "chosen_buckets": ()}))


def _read(settings: Settings, dataset: str, sample: str) -> int:
    """An epoch through the reader, opening included; gives the requests."""
    batches = DedupDataset(dataset, settings, sample=sample, batch_size=4096, shuffle=False)
    return sum(batch.num_requests for batch in batches)


def _scanned_bytes(spark: SparkSession, task: Callable[[], object]) -> int:
    """Bytes that a task's scans read, as Spark counts them."""
    with counted_reads(spark) as reads:
        task()
    return reads.bytes


def _process_bytes(task: Callable[[], object]) -> int:
    """Bytes that this process read while a task ran."""

    def count() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))

    before = count()
    task()
    return count() - before


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv, scales=tuple(SCALES))
    report = Report("sampling", arguments.scale)
    params = SynthParams.from_dict(SCALES[arguments.scale])
    known = statistics(params)
    report.data["log"] = {
        "requests": known.requests, "impressions": known.impressions, "tokens": params.sequence_length,
        "buckets": BUCKETS,
    }  # fmt: skip
    with lake({"spark.driver.memory": "4g"}, arguments.place) as (spark, settings, place):
        began = time.perf_counter()
        ds = _dataset(spark, settings, place, params)
        report.data["prepared_seconds"] = time.perf_counter() - began
        if written(arguments):
            return
        for sample in ds.samples():
            ds.samples.drop(sample.name)
        began = time.perf_counter()
        summary = ds.samples.make("one", buckets=1, seed=1)
        report.add("making a bucket sample", time.perf_counter() - began, "s")
        _without_pruning(ds, "same", "one")
        plan = ds.samples.plan("one")
        chosen = SampleStore(ds.handle).load("one").chosen_buckets
        # As text: Spark takes a sum with 0 apart and gives Iceberg the bucket to prune by.
        bucket = F.concat(F.lit("b"), ds.tables.bucket(ds.spec).cast("string"))
        opaque = bucket.isin(*(f"b{b}" for b in chosen))
        frames = {"ours": ds.logs(sample="one"), "baseline": ds.logs().filter(opaque)}
        rows = {name: df.count() for name, df in frames.items()}
        if rows["ours"] != rows["baseline"]:
            raise SystemExit(f"the forms differ: {rows}")
        tasks = {name: df.write.format("noop").mode("overwrite").save for name, df in frames.items()}
        read = {name: _scanned_bytes(spark, task) for name, task in tasks.items()}
        readers = {
            "ours": lambda: _read(settings, "log", "one"),
            "baseline": lambda: _read(settings, "log", "same"),
        }
        counts = {name: task() for name, task in readers.items()}
        if counts["ours"] != counts["baseline"]:
            raise SystemExit(f"the forms differ: {counts}")
        moved = {name: _process_bytes(task) for name, task in readers.items()}
        report.add("users in the sample", 100 * summary.users / summary.population, "%")
        report.add(
            "bytes of the files it opens, of all", 100 * plan.share, "%", target="<= 2", holds=plan.share <= 0.02
        )
        whole = _scanned_bytes(spark, ds.logs().write.format("noop").mode("overwrite").save)
        for title, mine, base in (
            ("Spark", read["ours"], read["baseline"]),
            ("reader", moved["ours"], moved["baseline"]),
        ):
            report.add(f"{title}: bytes read", mine / 1e6, "MB", baseline=base / 1e6)
        share = read["ours"] / whole
        report.add("Spark: bytes read, of a whole read", 100 * share, "%", target="<= 2", holds=share <= 0.02)
        share = moved["ours"] / plan.all_bytes
        report.add("reader: bytes read, of all files", 100 * share, "%", target="<= 2", holds=share <= 0.02)
        for title, what in (("Spark", tasks), ("reader", readers)):
            timed = in_turn(what, arguments.rounds)
            report.seconds(f"{title}: reading the sample", timed["ours"], timed["baseline"])
            report.speedup(f"{title}: faster than without pruning", timed["ours"], timed["baseline"], 10)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

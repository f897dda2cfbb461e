"""One log on Iceberg and on Delta: stored bytes, write time, reader speed, bytes of a backfill.

Beside them Delta's own ways to lay the same flat log: as it comes, Z-ordered, and with liquid clustering, all with the
same codec, page size and dictionary settings; and Delta's own MERGE in place of a backfill. Every table is written in
one session; times are of rounds in turn.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, lake, parse
from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.demo import complete_journey
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.format import DELTA_WRITES
from dedup_storage.lake.delta.layout import bucket_column, bucket_expression
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaRef
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import DateGrain
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams

FORMATS = ("iceberg", "delta")
# Layout ``user`` has a script of its own.
LAYOUTS = (Layout.SPLIT, Layout.FLAT)
BUCKETS = 4
# Users whose rows a backfill recomputes.
FEW = 20
# Delta's Z-order and liquid clustering place rows in files and leave them in any order there, unless this is set.
SORT_WITHIN = "spark.databricks.io.skipping.mdc.sortWithinFiles"
_NUMBER = itertools.count()


def _settings(settings: Settings, table_format: str) -> Settings:
    return settings.model_copy(update={"format": table_format})


def _writer(
    spark: SparkSession, settings: Settings, raw: RawLog, layout: Layout, made: list[str]
) -> Callable[[], None]:
    """Creates a dataset (some tenths of a second, timed on both sides) and writes the log."""

    def write() -> None:
        name = f"{settings.format}_{layout.value}_{next(_NUMBER)}"
        grain = raw.schema.date_grain or DateGrain.MONTH
        created = Dataset.create(
            spark, settings, name, raw.schema, raw, layout=layout, date_grain=grain, buckets=BUCKETS
        )
        created.write(raw, gate=False)
        made.append(name)

    return write


def _delta_native(
    spark: SparkSession, place: Path, raw: RawLog, how: str, within: bool, properties: dict[str, str]
) -> DeltaRef:
    """The flat log in one Delta table, laid out by user by Delta's own means; ``plain`` leaves it in order of arrival.

    ``within``: rows are also sorted inside the files, which Delta does not do unless a session asks for it.
    """
    uri = str(place / f"native-{next(_NUMBER)}")
    columns = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in raw.frame.schema.fields)
    listed = ", ".join(f"'{k}' = '{v}'" for k, v in properties.items())
    user = f"`{raw.schema.user}`"
    cluster = f"CLUSTER BY ({user})" if how == "liquid" else ""
    spark.conf.set(SORT_WITHIN, str(within).lower())
    spark.sql(f"CREATE TABLE delta.`{uri}` ({columns}) USING delta {cluster} TBLPROPERTIES ({listed})")
    raw.frame.write.format("delta").mode("append").save(uri)
    if how == "z-order":
        spark.sql(f"OPTIMIZE delta.`{uri}` ZORDER BY ({user})").collect()
    elif how == "liquid":
        # FULL: what was just written would else be left as it is.
        spark.sql(f"OPTIMIZE delta.`{uri}` FULL").collect()
    return DeltaRef(how, uri, {})


def _stored(settings: Settings, name: str) -> int:
    return sum(t.size_bytes for t in dataset_files(settings, name).tables)


def _chosen(ds: Dataset) -> DataFrame:
    user = ds.schema.user
    return ds.requests().select(user).distinct().orderBy(F.xxhash64(user)).limit(FEW).localCheckpoint()


def _backfill_bytes(ds: Dataset, column: str) -> int:
    """Bytes that our backfill writes to recompute one request column for a few users."""
    change, some = Change(expressions={column: f"reverse({column})"}), Affected(users=_chosen(ds))
    done = ds.backfill(change, some, gate=False)
    return next(c.actual for c in done.planned_and_actual if c.quantity == "bytes")


def _merge_bytes(spark: SparkSession, ds: Dataset, column: str) -> int:
    """The same by Delta's own MERGE into the requests table, which is told the users' buckets."""
    ref = DeltaLake(ds.settings).ref(ds.name, ds.spec.anchor.name)
    before, chosen = set(live_files(ref).paths), _chosen(ds)
    buckets = sorted(r[0] for r in chosen.select(F.expr(bucket_expression(ds.spec))).distinct().collect())
    source = spark.read.format("delta").load(ref.uri)
    keys = [*ds.spec.request_key]
    changed = source.join(chosen, ds.schema.user).select(*keys, F.reverse(column).alias(column)).localCheckpoint()
    on = " AND ".join(
        [*(f"t.`{k}` <=> s.`{k}`" for k in keys), f"t.{bucket_column(ds.spec)} IN ({str(buckets)[1:-1]})"]
    )
    table = DeltaTable.forPath(spark, ref.uri).alias("t")
    table.merge(changed.alias("s"), on).whenMatchedUpdate(set={column: f"s.`{column}`"}).execute()
    after = live_files(ref)
    sizes = dict(zip(after.paths, after.table["size_bytes"].to_pylist(), strict=True))
    return sum(size for path, size in sizes.items() if path not in before)


def _rewrites(report: Report, spark: SparkSession, name: str, column: str, opened: dict[str, Dataset]) -> None:
    metric = f"{name}: backfill of {column} for {FEW} users, written"
    iceberg, delta = (_backfill_bytes(opened[f], column) / 1e6 for f in FORMATS)
    report.add(f"{metric}, Delta (baseline: Iceberg)", delta, "MB", baseline=iceberg)
    merged = _merge_bytes(spark, opened["delta"], column) / 1e6
    report.add(f"{metric}, Delta's own MERGE (baseline: ours on Delta)", merged, "MB", baseline=delta)


def _compare(
    report: Report, spark: SparkSession, settings: Settings, place: Path, name: str, raw: RawLog, rounds: int,
    *, warm: bool,
) -> None:  # fmt: skip
    both = {f: _settings(settings, f) for f in FORMATS}
    made: dict[tuple[str, Layout], list[str]] = {(f, la): [] for f in FORMATS for la in LAYOUTS}
    writes = {
        f"{f} {la.value}": _writer(spark, both[f], raw, la, made[f, la]) for la in (Layout.SPLIT,) for f in FORMATS
    }
    if warm:
        for write in writes.values():
            write()
    timed = in_turn(writes, rounds)
    report.seconds(f"{name}: write, split, Delta (baseline: Iceberg)", timed["delta split"], timed["iceberg split"])
    report.speedup(f"{name}: write, split: Iceberg faster than Delta", timed["iceberg split"], timed["delta split"])
    for f in FORMATS:
        _writer(spark, both[f], raw, Layout.FLAT, made[f, Layout.FLAT])()
    for layout in LAYOUTS:
        ice, delta = (_stored(both[f], made[f, layout][-1]) for f in FORMATS)
        report.add(f"{name}: stored, {layout.value}, Delta (baseline: Iceberg)", delta / 1e6, "MB", baseline=ice / 1e6)
    split = _stored(both["delta"], made["delta", Layout.SPLIT][-1])
    ref = DeltaLake(both["delta"]).ref(made["delta", Layout.FLAT][-1], "logs")
    properties = {k: v for k, v in ref.properties.items() if k.startswith(("parquet.", "delta.enable"))}
    for how, within in (("plain", False), *itertools.product(("z-order", "liquid"), (False, True))):
        size = live_files(_delta_native(spark, place, raw, how, within, properties)).size_bytes
        what = f"{how} by user{', sorted within files' if within else ''}" if how != "plain" else how
        metric = f"{name}: stored, flat in one Delta table, {what} (baseline: ours, split)"
        report.add(metric, size / 1e6, "MB", baseline=split / 1e6)
    readers = {f: DedupDataset(made[f, Layout.SPLIT][-1], both[f], batch_size=1024) for f in FORMATS}

    def epoch(dataset: DedupDataset) -> Callable[[], int]:
        return lambda: sum(batch.num_impressions for batch in dataset)

    epochs = {f: epoch(dataset) for f, dataset in readers.items()}
    rows = {f: run() for f, run in epochs.items()}
    report.add(f"{name}: reader: impressions of an epoch", rows["delta"], "rows", baseline=rows["iceberg"])
    read = in_turn(epochs, rounds)
    report.seconds(f"{name}: reader, an epoch, Delta (baseline: Iceberg)", read["delta"], read["iceberg"])
    report.speedup(f"{name}: reader: Delta faster than Iceberg", read["delta"], read["iceberg"])
    column = next(iter(raw.schema.sequence_columns))
    opened = {f: Dataset.open(spark, both[f], made[f, Layout.SPLIT][-1]) for f in FORMATS}
    _rewrites(report, spark, name, column, opened)


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse(str(__doc__).splitlines()[0], argv)
    report = Report("formats", arguments.scale)
    conf = {**DELTA_WRITES, "spark.driver.memory": "4g"}
    with lake(conf, table_format="delta") as (spark, settings, place):
        params = SynthParams.preset("bench").model_copy(update={"layout": SynthLayout.FLAT})
        log = generate(spark, params, str(place / "bench"))
        raw = RawLog.read(spark, log.tables["log"], schema=params.log_schema())
        _compare(report, spark, settings, place, "bench", raw, arguments.rounds, warm=True)
        report.save(arguments.json)
        share = 1.0 if arguments.scale == "full" else 0.1
        complete_journey.write_log(place / "journey", share=share, max_length=512)
        raw = RawLog.read(spark, str(place / "journey"), schema=complete_journey.log_schema())
        report.data["journey share"] = share
        _compare(report, spark, settings, place, "journey", raw, arguments.rounds, warm=False)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

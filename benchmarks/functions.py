"""Target-aware matches on R rows against the same on the expanded log.

Ours: `with_target_matches` on the split tables. Baselines, both with expressions of generated code rather than lambdas
(`array_remove`, `array_position`): on a flat table, which holds the history in every candidate's row, and on `logs()`,
which lays it beside every candidate by a join without shuffle. All three give the same columns: how often the
candidate stands in the history, and how many events ago.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, costs_in_turn, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.functions import with_target_matches
from dedup_storage.sources.generate import generate
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams, statistics

BUCKETS = 4
SMALL = {
    "users": 320, "requests_per_user": 10, "candidates_per_request": 50, "sequence_length": 2_000,
    "new_events_per_request": 20, "history": ["hist_item_ids"], "days": 1, "items": 5_000,
    "layout": SynthLayout.NESTED.value,
}  # fmt: skip
FULL = {**SMALL, "users": 1_000, "files": 8}
HISTORY = "hist_item_ids"


def expanded(rows: DataFrame, keys: tuple[str, ...]) -> DataFrame:
    """The features on B rows that hold the history each."""
    items, item = F.col(HISTORY), F.col("item_id")
    place = F.array_position(F.reverse(items), item)
    return rows.select(
        *keys,
        "item_id",
        (F.size(items) - F.size(F.array_remove(items, item))).cast("bigint").alias("match_count"),
        F.when(place > 0, place - 1).cast("int").alias("match_events_ago"),
    )


def _datasets(spark: SparkSession, settings: Settings, place: Path, params: SynthParams) -> dict[str, Dataset]:
    """The log in both layouts, written unless it is there."""
    if (place / "written").exists():
        return {layout: Dataset.open(spark, settings, layout) for layout in ("split", "flat")}
    raw = RawLog.read(spark, generate(spark, params, str(place / "raw")).tables["log"], schema=params.log_schema())
    datasets = {}
    for layout in ("split", "flat"):
        datasets[layout] = Dataset.create(
            spark, settings, layout, raw.schema, raw, layout=layout, date_grain="none", buckets=BUCKETS
        )
        datasets[layout].write(raw, gate=False)
    return datasets


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(str(__doc__).splitlines()[0], argv)
    report = Report("functions", arguments.scale)
    params = SynthParams.from_dict(SMALL if arguments.scale == "small" else FULL)
    known = statistics(params)
    report.data["log"] = {
        "requests": known.requests, "impressions": known.impressions, "tokens": params.sequence_length
    }  # fmt: skip
    with lake({"spark.driver.memory": "4g"}, arguments.place) as (spark, settings, place):
        datasets = _datasets(spark, settings, place, params)
        if written(arguments):
            return
        split, keys = datasets["split"], tuple(datasets["split"].spec.request_key)
        ours = with_target_matches(
            split.impressions().select(*keys, "item_id"), split.requests(), keys=keys, item="item_id", history=HISTORY
        )
        flat = expanded(datasets["flat"].logs(), keys)
        joined = expanded(split.logs(), keys)
        report.data["equal"] = _equal(ours, flat)
        frames = {"ours": ours, "flat": flat, "joined": joined}
        tasks = {name: df.write.format("noop").mode("overwrite").save for name, df in frames.items()}
        costs_in_turn(spark, tasks, 1)
        costs = costs_in_turn(spark, tasks, arguments.rounds)
        timed = {name: Timing(tuple(c.seconds for c in found)) for name, found in costs.items()}
        used = {name: Timing(tuple(c.processor for c in found)) for name, found in costs.items()}
        for title, base in (("a flat table", "flat"), ("the split tables' logs()", "joined")):
            report.seconds(f"matches against {title}", timed["ours"], timed[base])
            report.speedup(f"faster than on {title}", timed["ours"], timed[base], 5)
            report.seconds(f"processor time against {title}", used["ours"], used[base])
            report.speedup(f"less processor time than on {title}", used["ours"], used[base])
        moved = {name: max(c.shuffled for c in found) for name, found in costs.items()}
        report.add("bytes shuffled", moved["ours"], "B", baseline=moved["flat"], target="0", holds=moved["ours"] == 0)
        matched = ours.agg(F.avg((F.col("match_count") > 0).cast("double")).alias("m")).first()
        report.data["share of candidates seen before"] = matched["m"] if matched else None
    report.finish(arguments.json)


def _equal(left: DataFrame, right: DataFrame) -> bool:
    """Whether both hold the same rows, each as often."""
    total = [F.count(F.lit(1)).alias("n"), F.sum(F.xxhash64(*left.columns).cast("decimal(38,0)")).alias("h")]
    found = [df.select(*left.columns).agg(*total).first() for df in (left, right)]
    if found[0] != found[1]:
        raise SystemExit(f"the forms differ: {found}")
    return True


if __name__ == "__main__":
    main()

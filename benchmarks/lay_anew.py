"""What ``maintain`` gives in layout ``user`` where events come late: runs, bytes and reads.

Users' events come one after the other, 3 % of them up to sixty events late (the policy of ``windows.py``): 20 requests
a user in four days, lists of 500 in two columns. Lists are laid anew, then the events that nothing refers to dropped.
Each state is read in whole, by Spark and by the reader, three times; the fastest counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, lake, parse
from benchmarks.windows import ITEMS, REQUESTS, SLIDE, TOKENS, late
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.dataset.upkeep.maintain_summary import LaidAnew
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog

USERS = {"small": 400, "full": 2_000}
FIRST, A_DAY, TIMES = datetime(2024, 1, 1, tzinfo=UTC), 5, 3
SCHEMA = {
    "user": "u", "request": "r", "item": "item", "event_time": "ts", "labels": "y", "date_grain": "day", "buckets": 2,
    "sequences": [{"column": "seen", "group": "g"}, {"column": "at", "group": "g"}],
}  # fmt: skip


def log(users: int) -> pa.Table:
    """A request a row, with the events that a server would have shown."""
    random = np.random.default_rng(7)
    items = random.integers(0, ITEMS, (users, TOKENS + REQUESTS * SLIDE))
    lists = [(u, number, shown) for u in range(users) for number, shown in enumerate(late(random, items[u]))]
    return pa.table(
        {
            "u": pa.array([u for u, _, _ in lists], pa.int64()),
            "r": pa.array([u * 1_000 + number for u, number, _ in lists], pa.int64()),
            "ts": pa.array(
                [FIRST + timedelta(days=n // A_DAY, minutes=n) for _, n, _ in lists], pa.timestamp("us", "UTC")
            ),
            "seen": pa.array([items[u][shown] for u, _, shown in lists], pa.list_(pa.int64())),
            "at": pa.array([shown * 60 for _, _, shown in lists], pa.list_(pa.int64())),
            "item": pa.array([0] * len(lists), pa.int64()),
            "y": pa.array([0] * len(lists), pa.int32()),
        }
    )


def fastest(task: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        task()
        found.append(time.perf_counter() - start)
    return min(found)


def state(report: Report, ds: Dataset, name: str) -> None:
    """Bytes and reads of the newest version."""
    cut = ds.handle.cut()

    def epoch() -> int:
        batches = DedupDataset(ds.name, ds.settings, columns=["seen", "at"], batch_size=256, across_dates=True)
        return sum(len(batch["seen"].values) for batch in batches)

    def sums() -> object:
        return ds.requests().selectExpr("sum(aggregate(seen, 0L, (a, x) -> a + x))", "sum(size(at))").collect()

    for table in ("requests", "events_g"):
        report.add(f"{name}: {table}", cut.meta.totals(table, cut.snapshots[table]).bytes / 1e3, "kB")
    report.add(f"{name}: an epoch of the reader", fastest(epoch), "s")
    report.add(f"{name}: lists read by Spark", fastest(sums), "s")


def lay(ds: Dataset, run_id: str) -> LaidAnew:
    """The step alone."""
    return ds.maintain(run_id, runs=True, compact=False, events=False, expire=False, orphans=False).runs[0]


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse(str(__doc__).splitlines()[0], argv)
    report = Report("lay_anew", arguments.scale)
    with lake({"spark.driver.memory": "2g"}) as (spark, settings, place):
        raw_place = place / "raw"
        raw_place.mkdir()
        pq.write_table(log(USERS[arguments.scale]), raw_place / "log.parquet")
        raw = RawLog.read(spark, str(raw_place), schema=LogSchema.from_dict(SCHEMA))
        ds = Dataset.create(spark, settings, "late", raw.schema, raw, layout="user")
        ds.write(raw, gate=False)
        before = ds.requests().select("r", "seen", "at").localCheckpoint()
        state(report, ds, "as written")
        start = time.perf_counter()
        laid = lay(ds, "lay")
        report.add("laying anew", time.perf_counter() - start, "s")
        report.add("runs a request", laid.runs_after / laid.lists, "", baseline=laid.runs_before / laid.lists)
        report.add("events copied", laid.events, "")
        state(report, ds, "laid anew")
        ds.maintain("drop", orphans=False, policy=Policy(keep_versions=1, keep_days=0))
        state(report, ds, "dropped")
        again = lay(ds, "again")
        report.add("laid by a second run: requests", again.requests, "", target="= 0", holds=again.requests == 0)
        left = before.exceptAll(ds.requests().select("r", "seen", "at")).count()
        report.add("lists that differ from those that were written", left, "", target="= 0", holds=left == 0)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()

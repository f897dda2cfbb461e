"""Many writers of one dataset at once, on a REST catalog and on PostgreSQL over S3: nothing lost, nothing twice.

Writers are threads of some processes, each with a client of its own; a process has one Spark session. Beside them a
reader without Spark reads the newest version again and again, and somebody looks where main of every table is, as
another engine would.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report

# Processes, writers in each, appends of each.
SIZES = {"small": (2, 2, 2), "full": (4, 4, 5)}
REQUESTS, TRIES = 20, 10
TABLES = ("requests", "impressions")


def first_request(writer: int, turn: int) -> int:
    """Where the requests of a writer's append begin: no two bring the same. Version 1 has those from 0 on."""
    return 1_000_000 * (writer + 1) + 1_000 * turn


# -- in a worker ---------------------------------------------------------------------------------------------------


def work(config: str) -> None:
    """Create the dataset, or append to it by some writers at once, as each line of the input says."""
    from benchmarks._fleet import NAME, log_frame, log_schema, tell
    from dedup_storage import RawLog, connect

    with connect(config) as lake:
        lake.spark.sparkContext.setLogLevel("OFF")
        tell(ready=True)
        for line in sys.stdin:
            job = json.loads(line)
            if "create" in job:
                log = RawLog.from_frame(log_frame(lake.spark, 0, 0, REQUESTS), log_schema())
                lake.create(NAME, log.schema, log).write(log, run_id="first", gate=False)
                tell(created=True)
                continue
            threads = [
                threading.Thread(target=append, args=(config, lake.spark, n, job["turns"])) for n in job["writers"]
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            tell(done=True)


def append(config: str, spark: Any, writer: int, turns: int) -> None:
    """One writer, with a client of its own."""
    from benchmarks._fleet import NAME, log_frame, log_schema, tell
    from dedup_storage import RawLog, connect
    from dedup_storage.errors import DedupStorageError

    ds = connect(config, spark=spark).open(NAME)
    for turn in range(turns):
        run, began = f"w{writer}-{turn}", time.monotonic()
        for attempt in range(1, TRIES + 1):
            log = RawLog.from_frame(log_frame(spark, 0, first_request(writer, turn), REQUESTS), log_schema())
            try:
                version = ds.write(log, run_id=run, gate=False).version
            except DedupStorageError as error:
                tell(run=run, refused=f"{type(error).__name__}: {error.what}"[:300])
                continue
            tell(run=run, version=version, seconds=time.monotonic() - began, tries=attempt)
            break


# -- beside them -----------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What was seen beside the writers, until ``stop``.

    Attributes:
        versions: Version -> (requests, impressions) of each pass that read it.
        mains: Main's snapshots of all tables, where two looks in a row saw the same.
        failures: What a reader raised.
    """

    settings: Any
    name: str
    stop: threading.Event = field(default_factory=threading.Event)
    versions: dict[int, Counter[tuple[int, int]]] = field(default_factory=dict)
    mains: Counter[tuple[int | None, ...]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Read the newest version, again and again."""
        from dedup_storage.reader import DedupDataset

        # Not all the time: the writers need the processor too.
        while not self.stop.wait(1):
            try:
                dataset = DedupDataset(self.name, self.settings, splits=1, buffer_bytes=8 << 20, threads=1)
                found = [0, 0]
                for batch in dataset:
                    found[0] += batch.to_arrow("request").num_rows
                    found[1] += batch.to_arrow().num_rows
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is what is looked for
                self.failures.append(f"{type(error).__name__}: {error}"[:300])
                continue
            self.versions.setdefault(dataset.plan.version, Counter())[found[0], found[1]] += 1

    def look(self) -> None:
        """Look where main is, twice: what both looks saw was so in between."""
        from dedup_storage.lake.iceberg.metadata import Lake

        catalog, former = Lake(self.settings).catalog, None
        while not self.stop.wait(0.1):
            loaded = (catalog.load_table((self.name, table)) for table in TABLES)
            seen = tuple(table.metadata.current_snapshot_id for table in loaded)
            if seen == former:
                self.mains[seen] += 1
            former = seen


def measure(report: Report, catalog: str, processes: int, threads: int, turns: int, logs: Path) -> None:
    """All writers on one catalog, and everything compared with what they were to write."""
    import numpy as np

    from benchmarks._fleet import CANDIDATES, NAME, Worker, keys_of, placed
    from dedup_storage.config import load_settings
    from dedup_storage.lake.iceberg.metadata import Lake

    with placed(catalog) as place:
        settings = load_settings(str(place.config), place.environ)
        watch = Watch(settings, NAME)
        workers = [Worker(place, "writers.py", "writer", logs / f"{catalog}-{n}.log") for n in range(processes)]
        try:
            for worker in workers:
                worker.expect("ready")
            workers[0].ask(create=True)
            workers[0].expect("created")
            beside = [threading.Thread(target=run) for run in (watch.read, watch.look)]
            began = time.monotonic()
            for thread in beside:
                thread.start()
            for number, worker in enumerate(workers):
                worker.ask(writers=list(range(number * threads, (number + 1) * threads)), turns=turns)
            told: list[dict[str, Any]] = []
            for worker in workers:
                while "done" not in (said := worker.hear(3000) or {"ended": True}):
                    told.append(said)
                    if "ended" in said:
                        raise RuntimeError(f"a process ended; its output is in {worker.log}")
            seconds = time.monotonic() - began
        finally:
            watch.stop.set()
            for worker in workers:
                worker.end()
        for thread in beside:
            thread.join()
        meta = Lake(settings).load(NAME)
        runs = [f"w{w}-{t}" for w in range(processes * threads) for t in range(turns)]
        wanted = np.concatenate(
            [
                keys_of(0, REQUESTS),
                *(keys_of(first_request(w, t), REQUESTS) for w in range(processes * threads) for t in range(turns)),
            ]
        )
        current = meta.snapshots(meta.current)
        rows = meta.tables["impressions"].scan(snapshot_id=current["impressions"]).to_arrow()
        found = np.stack([rows["request_id"].to_numpy(), rows["item"].to_numpy()], axis=1)
        requests = meta.tables["requests"].scan(snapshot_id=current["requests"]).to_arrow()["request_id"].to_numpy()

    published = Counter(meta.claim(version)["run-id"] for version in meta.version_numbers)
    answered = {said["run"]: said for said in told if "version" in said}
    whole = {tuple(meta.snapshots(v)[table] for table in TABLES) for v in meta.version_numbers}
    parts = sum(
        times
        for version, seen in watch.versions.items()
        for counts, times in seen.items()
        if counts != (version * REQUESTS, version * REQUESTS * CANDIDATES)
    )
    distinct, many = np.unique(found, axis=0, return_counts=True)
    lost = len(wanted) - len({*map(tuple, wanted.tolist())} & {*map(tuple, distinct.tolist())})
    twice = int((many - 1).sum()) + len(requests) - len(np.unique(requests))
    foreign = len(found) - len(wanted) + lost - int((many - 1).sum())

    def add(metric: str, value: float, unit: str, *, at_most: float | None = None) -> None:
        target = None if at_most is None else f"<= {at_most:g}"
        holds = None if at_most is None else value <= at_most
        report.add(f"{catalog}: {metric}", value, unit, target=target, holds=holds)

    add("writers", processes * threads, "")
    add("appends", len(runs), "")
    add("appends that are no version, or more than one", sum(published[run] != 1 for run in runs), "", at_most=0)
    add("appends told another version than theirs", sum(
        meta.claim(said["version"])["run-id"] != run for run, said in answered.items()
    ) + len(runs) - len(answered), "", at_most=0)  # fmt: skip
    add("impressions lost", lost, "", at_most=0)
    add("impressions or requests stored twice", twice, "", at_most=0)
    add("impressions that nobody wrote", foreign, "", at_most=0)
    add("passes of a reader", sum(sum(seen.values()) for seen in watch.versions.values()), "")
    add("passes that saw part of a version", parts, "", at_most=0)
    add("passes that failed", len(watch.failures), "", at_most=0)
    add("looks at main of all tables", sum(watch.mains.values()), "")
    add("looks that saw no version", sum(n for seen, n in watch.mains.items() if seen not in whole), "")
    add("appends run again with the same run id", sum("refused" in said for said in told), "")
    add("all appends", seconds, "s")
    took = sorted(said["seconds"] for said in answered.values())
    report.add(f"{catalog}: an append, median", took[len(took) // 2], "s", spread=(took[0], took[-1]))
    report.data[catalog] = {
        "processes": processes,
        "threads": threads,
        "refused": [said["refused"] for said in told if "refused" in said],
        "failures": watch.failures[:10],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("ROLE", "CONFIG"), help=argparse.SUPPRESS)
    parser.add_argument("--scale", choices=tuple(SIZES), default="small")
    parser.add_argument("--catalogs", nargs="+", choices=("rest", "postgresql"), default=("rest", "postgresql"))
    parser.add_argument("--processes", type=int)
    parser.add_argument("--threads", type=int, help="writers of each process")
    parser.add_argument("--appends", type=int, help="of each writer")
    parser.add_argument("--logs", type=Path, help="folder for the output of the processes")
    parser.add_argument("--json", metavar="PATH")
    given = parser.parse_args(argv)
    if given.worker:
        work(given.worker[1])
        return
    size = SIZES[given.scale]
    asked = (given.processes, given.threads, given.appends)
    processes, threads, turns = (own or usual for own, usual in zip(asked, size, strict=True))
    report = Report("writers", given.scale)
    with TemporaryDirectory(prefix="dedup-storage-writers-") as folder:
        logs = given.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        for catalog in given.catalogs:
            measure(report, catalog, processes, threads, turns, logs)
            report.save(given.json)
    report.finish(given.json)
    if any(row.holds is False for row in report.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

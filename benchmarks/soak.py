"""A dataset on a REST catalog and S3 for many minutes, with processes that are killed at random.

One process writes days, merges late labels and backfills; one maintains; one reads the newest version without Spark,
again and again. Any of them is killed (SIGKILL, with its Java) at a random moment of its job, and the job is given to a
new process under the same run id. What is to be there is computed beside, in plain arrays, and compared with what every
pass of the reader saw, and in the end row by row.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks._harness import Report

MINUTES = {"small": 3.0, "full": 40.0}
REQUESTS, TRIES, LONGEST = 60, 20, 300.0
# Share of jobs whose process is killed, and of the reader's passes.
KILLED, READER_KILLED = 0.3, 0.05


def iso(day: int) -> str:
    """The event date of a day of the soak."""
    from benchmarks._fleet import FIRST_DAY

    return (dt.date(1970, 1, 1) + dt.timedelta(days=FIRST_DAY + day)).isoformat()


def first_request(day: int) -> int:
    """Where the requests of a day begin."""
    return 1_000 * day


# -- in a worker ---------------------------------------------------------------------------------------------------


def work(role: str, config: str) -> None:
    """Read, or do the jobs that the lines of the input say."""
    from benchmarks._fleet import tell
    from dedup_storage import connect
    from dedup_storage.errors import ConflictError, DedupStorageError, StorageError

    if role == "reader":
        read(config)
        return
    with connect(config) as lake:
        lake.spark.sparkContext.setLogLevel("OFF")
        tell(ready=True)
        for line in sys.stdin:
            job = json.loads(line)
            try:
                tell(run=job["run"], **done(lake, job))
            except (ConflictError, StorageError) as error:
                tell(run=job["run"], refused=f"{type(error).__name__}: {error.what}"[:400])
            except DedupStorageError as error:
                tell(run=job["run"], fault=f"{type(error).__name__}: {error}"[:1000])


def done(lake: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; gives what is to be said of it."""
    from benchmarks._fleet import NAME, log_frame, log_schema
    from dedup_storage import Affected, Change, RawLog
    from dedup_storage.dataset.upkeep import Policy

    spark, run = lake.spark, job["run"]
    if job["kind"] == "write":
        log = RawLog.from_frame(log_frame(spark, job["day"], first_request(job["day"]), REQUESTS), log_schema())
        ds = lake.create(NAME, log.schema, log)
        return {"version": ds.write(log, run_id=run, gate=False).version}
    ds = lake.open(NAME)
    if job["kind"] == "labels":
        log = log_frame(spark, job["day"], first_request(job["day"]), REQUESTS).where("request_id % 3 = 0")
        late = log.selectExpr("user_id", "request_id", "item", "2 AS y", "ts + INTERVAL 1 HOUR AS at")
        return {"version": ds.merge_labels(late, "y", "at", run_id=run, gate=False).backfill.version}
    if job["kind"] == "backfill":
        change = Change(expressions={"score": f"CAST({job['value']} AS int)"})
        some = Affected(users=job["users"], last_date=iso(job["day"]))
        return {"version": ds.backfill(change, some, run_id=run, gate=False).version}
    if job["kind"] == "maintain":
        policy = Policy(keep_versions=12, keep_days=0, orphan_days=1, abandoned_days=1)
        told = ds.maintain(run, policy=policy)
        return {"version": told.version, "expired": len(told.expired_versions)}
    status = ds.publication.status()
    return {"passed": ds.check(deep=True).passed, "stopped": len(status.runs), "pending": status.pending is not None}


def read(config: str) -> None:
    """Read the newest version, again and again, and say what it holds."""
    import pyarrow.compute as pc

    from benchmarks._fleet import NAME, tell
    from dedup_storage.config import load_settings
    from dedup_storage.reader import DedupDataset

    settings = load_settings(config)
    while True:
        try:
            dataset, found = DedupDataset(NAME, settings, splits=1, buffer_bytes=8 << 20, threads=1), [0, 0, 0, 0]
            for batch in dataset:
                rows = batch.to_arrow()
                sums = (pc.sum(rows[column]).as_py() for column in ("y", "score"))
                for place, value in enumerate((batch.to_arrow("request").num_rows, rows.num_rows, *sums)):
                    found[place] += value
        except Exception as error:  # noqa: BLE001 - whatever a reader meets is told
            tell(failed=f"{type(error).__name__}: {error}"[:600])
            time.sleep(0.5)
        else:
            tell(version=dataset.plan.version, found=found)
            # The jobs need the processor too.
            time.sleep(1)


# -- what is to be there -----------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """The dataset in plain arrays, as the jobs that are done make it."""

    rows: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty((0, 4), np.int64))
    states: dict[int, list[int]] = field(default_factory=dict)

    def take(self, job: dict[str, Any], version: int) -> None:
        """A job was published as a version."""
        from benchmarks._fleet import USERS, keys_of

        request = self.rows[:, 0]
        if job["kind"] == "write":
            keys = keys_of(first_request(job["day"]), REQUESTS)
            new = np.column_stack([keys, keys[:, 0] % 2, np.zeros(len(keys), np.int64)])
            self.rows = np.concatenate([self.rows, new])
        elif job["kind"] == "labels":
            self.rows[(request // 1_000 == job["day"]) & (request % 3 == 0), 2] = 2
        elif job["kind"] == "backfill":
            self.rows[np.isin(request % USERS, job["users"]) & (request // 1_000 <= job["day"]), 3] = job["value"]
        counts = [len(np.unique(self.rows[:, 0])), len(self.rows)]
        self.states[version] = [*counts, int(self.rows[:, 2].sum()), int(self.rows[:, 3].sum())]

    def at(self, version: int) -> list[int] | None:
        """Requests, impressions, sums of label and score in a version; maintenance changes none of them."""
        own = [known for known in self.states if known <= version]
        return self.states[max(own)] if own else None


def data_jobs(chance: random.Random) -> Iterator[dict[str, Any]]:
    """Days, one after the other, with labels of the day before and backfills of a quarter of the users."""
    from benchmarks._fleet import USERS

    day = 0
    while True:
        yield {"kind": "write", "day": day, "run": f"day-{day}"}
        beside = [{"kind": "labels", "day": day - 1, "run": f"labels-{day - 1}"}] if day else []
        if day % 3 == 2:
            users = sorted(chance.sample(range(USERS), USERS // 4))
            back = {"kind": "backfill", "day": day, "users": users, "value": day, "run": f"backfill-{day}"}
            beside.insert(chance.randrange(len(beside) + 1), back)
        yield from beside
        day += 1


# -- the processes -------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """Gives jobs to processes, and kills some of these.

    Attributes:
        place: Where they work.
        logs: Folder for their output.
        until: When no new job begins, by the monotonic clock.
        chance: The seed's.
    """

    place: Any
    logs: Path
    until: float
    seed: int
    expected: Expected = field(default_factory=Expected)
    kinds: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seen: list[tuple[int, list[int]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def start(self, role: str) -> Any:
        from benchmarks._fleet import Worker

        worker = Worker(self.place, "soak.py", role, self.logs / f"{role}.log")
        if role != "reader":
            worker.expect("ready")
        return worker

    def perform(self, role: str, worker: Any, job: dict[str, Any], chance: random.Random) -> tuple[Any, dict[str, Any]]:
        """Have a job done, by as many processes as it takes; gives the last of them and what it said."""
        longest, tries = 12.0, 0
        while tries < TRIES:
            tries += 1
            worker.ask(**job)
            kill_after = chance.uniform(0, longest) if chance.random() < KILLED else None
            said = worker.hear(kill_after if kill_after is not None else LONGEST)
            if said is None and kill_after is not None:
                worker.kill()
                self.kills[role] += 1
                worker = self.start(role)
                continue
            if said is None or "ended" in said:
                self.faults.append(f"{job['run']}: the process {'hangs' if said is None else 'ended by itself'}")
                worker.kill()
                worker = self.start(role)
                continue
            if "refused" in said:
                self.refused[f"{job['kind']}: {said['refused']}"] += 1
                continue
            if "fault" in said:
                self.faults.append(f"{job['run']}: {said['fault']}")
                continue
            return worker, said
        self.faults.append(f"{job['run']}: not done after {tries} tries")
        return worker, {}

    def data(self) -> None:
        """Write, label, backfill."""
        chance = random.Random(self.seed)
        worker = self.start("data")
        for job in data_jobs(chance):
            if time.monotonic() > self.until:
                break
            worker, said = self.perform("data", worker, job, chance)
            if "version" not in said:
                break
            self.kinds[job["kind"]] += 1
            self.expected.take(job, said["version"])
        worker.end()

    def upkeep(self) -> None:
        """Maintain."""
        chance, worker, number = random.Random(self.seed + 1), self.start("upkeep"), 0
        while time.monotonic() < self.until:
            if not self.expected.states:
                time.sleep(1)
                continue
            worker, said = self.perform("upkeep", worker, {"kind": "maintain", "run": f"tidy-{number}"}, chance)
            self.kinds["maintain"] += "version" in said
            self.kinds["expired versions"] += said.get("expired", 0)
            number += 1
        worker.end()

    def reader(self) -> None:
        """Read."""
        chance, worker = random.Random(self.seed + 2), None
        while time.monotonic() < self.until:
            if not self.expected.states:
                time.sleep(1)
                continue
            worker = worker or self.start("reader")
            said = worker.hear(LONGEST) or {"ended": True}
            if "failed" in said:
                self.failed.append(said["failed"])
            elif "version" in said:
                self.seen.append((said["version"], said["found"]))
            if "ended" in said or chance.random() < READER_KILLED:
                self.kills["reader"] += 1
                worker.kill()
                worker = None
        if worker is not None:
            worker.kill()

    def run(self) -> None:
        """All three, until the time is over."""
        threads = [threading.Thread(target=part) for part in (self.data, self.upkeep, self.reader)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def left_over(place: Any, meta: Any) -> tuple[int, int, int]:
    """Files of the dataset in the store, those of them that nothing in its tables names, and bytes of these."""
    import pyarrow.fs as pafs

    named: set[str] = set()
    for table in meta.tables.values():
        named |= {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
        manifests: dict[str, Any] = {}
        for snapshot in table.metadata.snapshots:
            named.add(snapshot.manifest_list)
            manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
        for path, manifest in manifests.items():
            named |= {path, *(e.data_file.file_path for e in manifest.fetch_manifest_entry(table.io))}
    stored = place.store.files.get_file_info(pafs.FileSelector(place.bucket, recursive=True))
    files = {f"s3://{info.path}": info.size for info in stored if info.is_file}
    left = [size for path, size in files.items() if path not in named]
    return len(files), len(left), sum(left)


def measure(report: Report, minutes: float, seed: int, logs: Path) -> None:
    """Soak, then compare."""
    from benchmarks._fleet import NAME, placed
    from dedup_storage.config import load_settings
    from dedup_storage.errors import DedupStorageError
    from dedup_storage.lake.iceberg.metadata import Lake
    from dedup_storage.reader import DedupDataset

    with placed("rest") as place:
        soak = Soak(place, logs, time.monotonic() + 60 * minutes, seed)
        soak.run()
        worker = soak.start("data")
        worker.ask(kind="check", run="check")
        check = worker.expect("passed", 600)
        worker.end()
        settings = load_settings(str(place.config), place.environ)
        batches = []
        try:
            dataset = DedupDataset(NAME, settings, splits=1, buffer_bytes=8 << 20, threads=1)
            batches = [batch.to_arrow().select(["request_id", "item", "y", "score"]) for batch in dataset]
        except DedupStorageError as error:
            soak.faults.append(f"the newest version cannot be read: {error}")
        meta = Lake(settings).load(NAME)
        stored, left, left_bytes = left_over(place, meta)
        newest, kept = meta.current, len(meta.version_numbers)
    columns = (np.column_stack([column.to_numpy() for column in rows.columns]) for rows in batches)
    found = np.concatenate([np.empty((0, 4), np.int64), *columns])
    found = found[np.lexsort(found.T[::-1])]
    wanted = soak.expected.rows[np.lexsort(soak.expected.rows.T[::-1])]
    differing = max(len(found), len(wanted))
    if found.shape == wanted.shape:
        differing = int((found != wanted).any(axis=1).sum())
    wrong = [(version, sums) for version, sums in soak.seen if sums != soak.expected.at(version)]

    def add(metric: str, value: float, unit: str, *, none: bool = False) -> None:
        report.add(metric, value, unit, target="0" if none else None, holds=value == 0 if none else None)

    add("time", minutes, "min")
    for kind in ("write", "labels", "backfill", "maintain", "expired versions"):
        add({"write": "days written", "labels": "late labels merged", "backfill": "backfills"}.get(kind, kind),
            soak.kinds[kind], "")  # fmt: skip
    for role in ("data", "upkeep", "reader"):
        add(f"processes killed: {role}", soak.kills[role], "")
    add("versions published", newest, "")
    add("versions kept", kept, "")
    add("impressions in", len(wanted), "")
    add("impressions out", len(found), "")
    add("rows that differ", differing, "", none=True)
    add("passes of the reader", len(soak.seen), "")
    add("versions that it saw", len({version for version, _ in soak.seen}), "")
    add("passes that saw something else than was published", len(wrong), "", none=True)
    add("passes that failed", len(soak.failed), "", none=True)
    add("jobs told to run again", sum(soak.refused.values()), "")
    add("faults", len(soak.faults) + (not check["passed"]) + check["pending"], "", none=True)
    add("stopped runs that hold something", check["stopped"], "")
    add("files in the store", stored, "")
    add("leftover files: nothing names them; maintenance takes them after a day", left, "")
    add("leftover files", left_bytes / 1e6, "MB")
    report.data |= {
        "seed": seed,
        "refused": dict(soak.refused),
        "faults": soak.faults[:50],
        "failed": dict(Counter(soak.failed).most_common(20)),
        "wrong": wrong[:20],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Soak, print, save; the exit status tells whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("ROLE", "CONFIG"), help=argparse.SUPPRESS)
    parser.add_argument("--scale", choices=tuple(MINUTES), default="small")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="folder for the output of the processes")
    parser.add_argument("--json", metavar="PATH")
    given = parser.parse_args(argv)
    if given.worker:
        work(*given.worker)
        return
    report = Report("soak", given.scale)
    with TemporaryDirectory(prefix="dedup-storage-soak-") as folder:
        logs = given.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        measure(report, given.minutes or MINUTES[given.scale], given.seed, logs)
    report.finish(given.json)
    if any(row.holds is False for row in report.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

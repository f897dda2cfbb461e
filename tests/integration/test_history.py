"""A history of real processes: writers that are killed, readers, maintenance, and another tool's expiry and compaction.

What is checked is told by the versions alone: each is the one before and the rows of its run, each read is one whole
published version, versions are in order for every reader, and no run is lost or there twice. It goes on until enough
has happened: processes start as fast as the machine lets them. ``make test-slow`` lets it go on for 90 seconds at
least, and ``HISTORY`` for any time: seconds, writers, readers, and the processes that the writers share, as in
``HISTORY=1800,16,8,4``. ``--log-cli-level=INFO`` tells of it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError
from tests.integration.crash_jobs import log
from tests.integration.history_process import REPLACING, SAW, first_request
from tests.integration.processes import start
from tests.spark.helpers import RARELY

pytestmark = [pytest.mark.crash, pytest.mark.timeout(3600)]

_DEFAULT = "90,2,1" if hypothesis.settings().max_examples >= 1000 else "0,2,1"
SECONDS, WRITERS, READERS, *SHARED = (int(n) for n in os.environ.get("HISTORY", _DEFAULT).split(","))
PROCESSES = SHARED[0] if SHARED else WRITERS
# Readers do not take all of the machine from the writers.
PAUSE = 0.5 * (READERS - 1)
# For how long a history waits for what it must have seen.
LONGEST = 600
logger = logging.getLogger(__name__)
REQUESTS, CANDIDATES = 5, 3


class Told:
    """A process, and the lines that it has said so far: nobody waits for somebody who listens to it."""

    def __init__(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.process, self.lines = process, lines
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait(self) -> int:
        """Wait for the process; gives its exit status."""
        status = self.process.wait(timeout=300)
        self._ear.join(timeout=60)
        return status


@dataclass
class Writers:
    """Writers that share a process: that of now, and what all of theirs said."""

    ds: Dataset
    numbers: list[int]
    end: Path
    lines: list[str] = field(default_factory=list)
    began: int = 0
    told: Told = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Go on with the run of each writer after its last one that they told of."""
        self.began, turns = len(self.runs), [f"{number}={self.turn(number)}" for number in self.numbers]
        given = ["--dataset", self.ds.name, "--writers", ",".join(turns)]
        process = start(self.ds.settings, "history_process", *given, "--end", str(self.end), memory="700m")
        self.told = Told(process, self.lines)

    @property
    def runs(self) -> list[list[str]]:
        """Run and outcome of each run that they told of."""
        return [line.split()[1:] for line in self.lines if line.startswith("RAN")]

    def turn(self, number: int) -> int:
        """A writer's run that comes after its last one that was published."""
        done = [run for run, outcome in self.runs if outcome != "conflict" and run.startswith(f"w{number}-")]
        return int(done[-1].rpartition("-")[2]) + 1 if done else 0


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """A file by whose being there the processes end, also where the test fails."""
    file = tmp_path / "end"
    yield file
    file.touch()


@pytest.mark.parametrize(
    ("table_format", "kills", "versions"),
    [
        pytest.param("iceberg", 1, 4, id="iceberg-begun"),
        pytest.param("iceberg", 3, 5, id="iceberg", marks=RARELY),
        pytest.param("delta", 3, 5, id="delta", marks=pytest.mark.slow),
    ],
)
def test_a_history_of_many_processes(
    spark: SparkSession, settings: Settings, name: str, end: Path, table_format: str, kills: int, versions: int
) -> None:
    """It must have seen so many kills and so many versions."""
    lake = settings.model_copy(update={"format": table_format})
    raw = log(spark, [31])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    chance, began = random.Random(20), time.monotonic()
    given = ["--dataset", name, "--pause", str(PAUSE), "--end", str(end)]
    readers = [Told(start(lake, "history_process", *given), []) for _ in range(READERS)]
    writers = [Writers(ds, list(range(first, WRITERS, PROCESSES)), end) for first in range(PROCESSES)]
    killed = 0
    while (lasted := time.monotonic() - began) < SECONDS or (
        lasted < LONGEST and (killed < kills or len(ds.versions()) < versions)
    ):
        time.sleep(chance.uniform(1, 4))
        # A process that has published something since it began is at its next run, somewhere.
        busy = [each for each in writers if len(each.runs) > each.began]
        if busy:
            victim = chance.choice(busy)
            victim.told.process.send_signal(signal.SIGKILL)
            # One that ended by itself has failed.
            assert victim.told.wait() == -signal.SIGKILL, "".join(victim.lines[-20:])
            victim.begin()
            killed += 1
            logger.info("%.0f s: %s killed, version %s", lasted, victim.numbers, ds.metadata().current)
        beside(ds, chance)
    end.touch()
    for each in writers:
        assert each.told.wait() == 0, "".join(each.lines[-20:])
    for reader in readers:
        assert reader.wait() == 0, "".join(reader.lines[-20:])

    ds.tables.settle(ds.spec)
    expected = contents(ds)
    assert killed >= kills
    assert len(expected) >= versions
    told = {run: outcome for each in writers for run, outcome in each.runs}
    published = {info.run_id for info in ds.versions()}
    assert {run for run, outcome in told.items() if outcome != "conflict"} <= published
    all_seen: list[int] = []
    for reader in readers:
        seen = [json.loads(line.removeprefix(SAW)) for line in reader.lines if line.startswith(SAW)]
        read = [version for version, _ in seen]
        all_seen += read
        assert len(read) > 2
        assert read == sorted(read)
        for version, counts in seen:
            assert dict(counts) == expected[version], f"version {version}"
    conflicts = sum(outcome == "conflict" for each in writers for _, outcome in each.runs)
    logger.info("%s versions, %s kills, %s conflicts", len(expected), killed, conflicts)
    logger.info("%s reads of %s versions", len(all_seen), len(set(all_seen)))
    assert ds.check(deep=True).passed


def beside(ds: Dataset, chance: random.Random) -> None:
    """What else goes on: maintenance, another tool's expiry, another tool's compaction."""
    table = chance.choice(["requests", "impressions"])
    if chance.random() < 0.2:
        try:
            ds.maintain(policy=Policy(keep_versions=500, keep_days=30))
        except ConflictError:
            return
    elif ds.settings.format == "delta":
        ds.spark.sql(f"OPTIMIZE delta.`{ds.settings.warehouse_uri}/{ds.name}/{table}`")
    elif chance.random() < 0.7:
        try:
            ds.spark.sql(
                f"CALL {ds.settings.catalog.name}.system.expire_snapshots(table => '{ds.name}.{table}', "
                "older_than => TIMESTAMP '2037-01-01', retain_last => 1)"
            )
        except IllegalArgumentException as refusal:
            # Iceberg refuses to take a snapshot that a writer came to hold while it looked.
            if "Still referenced by refs" not in str(refusal):
                raise
    else:
        ds.spark.sql(f"CALL {ds.settings.catalog.name}.system.rewrite_data_files(table => '{ds.name}.{table}')")


def contents(ds: Dataset) -> dict[int, dict[int, int]]:
    """Version -> request -> impressions, as the runs that were published make them one after the other."""
    found: dict[int, dict[int, int]] = {}
    now: dict[int, int] = {}
    for info in ds.versions():
        if info.run_id == "first":
            now = of(range(REQUESTS))
        elif info.job == "write":
            number, turn = (int(part) for part in info.run_id.removeprefix("w").split("-"))
            begin = first_request(number, turn)
            if turn % REPLACING == REPLACING - 1:
                now = {request: count for request, count in now.items() if request // 100_000 != number + 1}
            now = {**now, **of(range(begin, begin + REQUESTS))}
        found[info.version] = now
    return found


def of(requests: Iterable[int]) -> dict[int, int]:
    return dict.fromkeys(requests, CANDIDATES)

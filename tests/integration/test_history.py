"""A history of real processes: writers that are killed, readers, maintenance, and another tool's expiry and compaction.

What is checked is told by the versions alone: each is the one before and the rows of its run, each read is one whole
published version, versions are in order for every reader, and no run is lost or there twice. It goes on until enough
has happened: processes start as fast as the machine lets them. ``make test-slow`` lets it go on for 90 seconds at
least, and ``HISTORY`` for any time: seconds, writers, readers, as in ``HISTORY=1800,16,8``.
"""

from __future__ import annotations

import json
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
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError
from tests.integration.crash_jobs import log
from tests.integration.history_process import REPLACING, SAW, first_request
from tests.integration.processes import start

pytestmark = [pytest.mark.crash, pytest.mark.timeout(3600)]

_DEFAULT = "90,2,1" if hypothesis.settings().max_examples >= 1000 else "0,2,1"
SECONDS, WRITERS, READERS = (int(n) for n in os.environ.get("HISTORY", _DEFAULT).split(","))
# What a history must have seen, and for how long it waits for that.
KILLS, VERSIONS, LONGEST = 3, 5, 600
REQUESTS, CANDIDATES = 5, 3


@dataclass
class Writer:
    """One writer: its process of now, and what all its processes said."""

    ds: Dataset
    number: int
    end: Path
    lines: list[str] = field(default_factory=list)
    began: int = 0
    process: subprocess.Popen[str] = field(init=False)
    _ear: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Go on with the run after the last one that it told of."""
        self.began, turn = len(self.runs), self.turn
        given = ["--dataset", self.ds.name, "--writer", str(self.number), "--turn", str(turn)]
        self.process = start(self.ds.settings, "history_process", *given, "--end", str(self.end), memory="700m")
        self._ear = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self._ear.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines.extend(iter(process.stdout.readline, ""))

    def wait(self) -> int:
        """Wait for the process; gives its exit status."""
        status = self.process.wait(timeout=300)
        self._ear.join(timeout=60)
        return status

    @property
    def runs(self) -> list[list[str]]:
        """Run and outcome of each run that it told of."""
        return [line.split()[1:] for line in self.lines if line.startswith("RAN")]

    @property
    def turn(self) -> int:
        """The run that comes after the last one that was published."""
        done = [run for run, outcome in self.runs if outcome != "conflict"]
        return int(done[-1].rpartition("-")[2]) + 1 if done else 0


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """A file by whose being there the processes end, also where the test fails."""
    file = tmp_path / "end"
    yield file
    file.touch()


@pytest.mark.parametrize("table_format", ["iceberg", pytest.param("delta", marks=pytest.mark.slow)])
def test_a_history_of_many_processes(
    spark: SparkSession, settings: Settings, name: str, end: Path, table_format: str
) -> None:
    lake = settings.model_copy(update={"format": table_format})
    raw = log(spark, [31])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    chance, began = random.Random(20), time.monotonic()
    readers = [
        start(lake, "history_process", "--dataset", name, "--end", str(end), memory="500m") for _ in range(READERS)
    ]
    writers = [Writer(ds, number, end) for number in range(WRITERS)]
    killed = 0
    while (lasted := time.monotonic() - began) < SECONDS or (
        lasted < LONGEST and (killed < KILLS or len(ds.versions()) < VERSIONS)
    ):
        time.sleep(chance.uniform(1, 4))
        # A process that has published something since it began is at its next run, somewhere.
        busy = [each for each in writers if len(each.runs) > each.began]
        if busy:
            victim = chance.choice(busy)
            victim.process.send_signal(signal.SIGKILL)
            victim.wait()
            victim.begin()
            killed += 1
        beside(ds, chance)
    end.touch()
    for each in writers:
        assert each.wait() == 0, "".join(each.lines[-20:])
    reads = [r.communicate(timeout=300)[0].splitlines() for r in readers]
    assert all(r.returncode == 0 for r in readers), "\n".join(line for lines in reads for line in lines[-20:])

    ds.tables.settle(ds.spec)
    expected = contents(ds)
    assert killed >= KILLS
    assert len(expected) >= VERSIONS
    told = {run: outcome for each in writers for run, outcome in each.runs}
    published = {info.run_id for info in ds.versions()}
    assert {run for run, outcome in told.items() if outcome != "conflict"} <= published
    for lines in reads:
        seen = [json.loads(line.removeprefix(SAW)) for line in lines if line.startswith(SAW)]
        versions = [version for version, _ in seen]
        assert len(versions) > 2
        assert versions == sorted(versions)
        for version, counts in seen:
            assert dict(counts) == expected[version], f"version {version}"
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
        ds.spark.sql(
            f"CALL {ds.settings.catalog.name}.system.expire_snapshots(table => '{ds.name}.{table}', "
            "older_than => TIMESTAMP '2037-01-01', retain_last => 1)"
        )
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

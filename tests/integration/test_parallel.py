"""Processes that write to one dataset at the same time: each run is published or refused by name, and what is stored in
the end is what the published ones give one after the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.crash_jobs import log
from tests.integration.processes import start
from tests.integration.worker import DONE, MODULUS, RAN, first_request, value
from tests.spark.helpers import flat_rows, frame, multiset, same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WRITERS = 5
Crew = Callable[[Dataset, str, int, int], dict[str, str]]


@pytest.fixture(scope="module")
def crew(settings: Settings) -> Iterator[Crew]:
    """Does a job to a dataset in some processes at once; gives what became of each run. They start once a file."""
    workers: list[subprocess.Popen[str]] = []

    def work(ds: Dataset, job: str, processes: int, runs: int) -> dict[str, str]:
        while len(workers) < processes:
            workers.append(start(settings, "worker", memory="700m", stdin=subprocess.PIPE))
        for number, worker in enumerate(workers[:processes]):
            task = {"job": job, "dataset": ds.name, "format": ds.settings.format, "number": number, "runs": runs}
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(task) + "\n")
            worker.stdin.flush()
        return {run: outcome for worker in workers[:processes] for run, outcome in outcomes(worker)}

    yield work
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0


def outcomes(worker: subprocess.Popen[str]) -> Iterator[list[str]]:
    """Run and outcome of each run of the job at hand."""
    assert worker.stdout is not None
    lines: list[str] = []
    for line in worker.stdout:
        lines.append(line)
        if line.startswith(RAN):
            yield line.split()[1:]
        elif line.startswith(DONE):
            return
    pytest.fail("a process ended early:\n" + "".join(lines[-40:]))


def prepared(spark: SparkSession, settings: Settings, name: str, table_format: str, users: int) -> Dataset:
    raw = log(spark, [1], users=users)
    ds = Dataset.create(spark, settings.model_copy(update={"format": table_format}), name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    return ds


@pytest.mark.parametrize(
    ("table_format", "processes", "runs"),
    [("iceberg", 3, 4), ("delta", 3, 3), pytest.param("iceberg", WRITERS, 10, marks=pytest.mark.exhaustive)],
)
def test_many_append(
    spark: SparkSession, settings: Settings, name: str, crew: Crew, table_format: str, processes: int, runs: int
) -> None:
    ds = prepared(spark, settings, name, table_format, users=5)
    published = crew(ds, "append", processes, runs)
    turns = [(number, turn) for number in range(processes) for turn in range(runs)]
    assert set(published) == {f"w{number}-{turn}" for number, turn in turns}
    expected = multiset(frame(spark, flat_rows([1])))
    for each in turns:
        expected += multiset(frame(spark, flat_rows([2], first_request=first_request(*each))))
    assert multiset(ds.logs()) == expected
    versions = {v.run_id: str(v.version) for v in ds.versions()}
    assert versions == {"first": "1", **published}
    assert sorted(map(int, versions.values())) == list(range(1, processes * runs + 2))


@pytest.mark.parametrize(
    ("table_format", "runs"),
    [("iceberg", 3), ("delta", 1), pytest.param("iceberg", 10, marks=pytest.mark.exhaustive)],
)
def test_backfills_are_some_serial_order(
    spark: SparkSession, settings: Settings, name: str, crew: Crew, table_format: str, runs: int
) -> None:
    ds = prepared(spark, settings, name, table_format, users=WRITERS + 1)
    outcomes = crew(ds, "backfill", WRITERS, runs)
    assert set(outcomes) == {f"b{n}-{turn}" for n in range(WRITERS) for turn in range(runs)}

    published = {run: int(version) for run, version in outcomes.items() if version != "ConflictError"}
    versions = {v.run_id: v.version for v in ds.versions()}
    assert versions == {"first": 1, **published}
    assert sorted(versions.values()) == list(range(1, len(published) + 2))
    # Some run wins every race, so no more than all but one of a round can be refused.
    assert len(published) >= runs

    rows = flat_rows([1], users=WRITERS + 1)
    labels = {(*row[:2], row[5]): row[6] for row in rows}
    for run in sorted(published, key=published.__getitem__):
        number, turn = map(int, run.removeprefix("b").split("-"))
        for key, label in labels.items():
            if key[0] in (number, number + 1):
                labels[key] = (label * 2 + value(number, turn)) % MODULUS
    expected = [(*row[:6], labels[(*row[:2], row[5])]) for row in rows]
    same_rows(ds.logs(), frame(spark, expected))
    assert [branch for table in ds.metadata().tables for branch in ds.tables.branches(name, table)] == []

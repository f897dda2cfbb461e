"""A process of its own that writes and backfills as it is told, for tests in which many do so at once.

Each line of its input is a JSON object: the job, the dataset, the format, this writer's number, how many runs. It
prints a line for each run: its id, and its version or the name of the refusal; and DONE when the job is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConflictError
from dedup_storage.lake.session import get_spark
from tests.integration.crash_jobs import log
from tests.integration.processes import embedded_settings

__all__ = ["DONE", "MODULUS", "RAN", "first_request", "value"]

RAN, DONE = "RAN", "DONE"
MODULUS = 1_000_003


def first_request(number: int, turn: int) -> int:
    """Where the requests of a writer's run begin: no two runs bring the same."""
    return 1000 * (number + 1) + 10 * turn


def value(number: int, turn: int) -> int:
    """What a writer's run adds to twice the label: no two runs add the same."""
    return 100 * number + turn + 1


def append(ds: Dataset, number: int, turn: int) -> int:
    """Bring five requests of the second day."""
    raw = log(ds.spark, [2], first_request(number, turn))
    return ds.write(raw, run_id=f"w{number}-{turn}", gate=False).version


def backfill(ds: Dataset, number: int, turn: int) -> int:
    """Change labels of the users ``number`` and ``number + 1``; the order of the runs can be told from the result."""
    strategies = [s for s in Strategy if ds.tables.marks_rows or s is not Strategy.MERGE_ON_READ]
    strategy = strategies[(number + turn) % len(strategies)]
    change = Change(expressions={"y": f"cast((y * 2 + {value(number, turn)}) % {MODULUS} as int)"})
    some = Affected(users=[number, number + 1])
    return ds.backfill(change, some, run_id=f"b{number}-{turn}", strategy=strategy, gate=False).version


JOBS: Mapping[str, tuple[str, Callable[[Dataset, int, int], int]]] = {
    "append": ("w", append),
    "backfill": ("b", backfill),
}


def work(ds: Dataset, job: str, number: int, runs: int) -> None:
    """Do a job some times in a row."""
    prefix, run = JOBS[job]
    for turn in range(runs):
        try:
            outcome = str(run(ds, number, turn))
        except ConflictError:
            outcome = "ConflictError"
        print(RAN, f"{prefix}{number}-{turn}", outcome, flush=True)  # noqa: T201
    print(DONE, flush=True)  # noqa: T201


def main() -> None:
    """Do what each line of the input says, until there is no more."""
    spark = None
    for line in sys.stdin:
        task = json.loads(line)
        settings = embedded_settings(os.environ).model_copy(update={"format": task["format"]})
        spark = spark or get_spark(settings, "worker")
        work(Dataset.open(spark, settings, task["dataset"]), task["job"], task["number"], task["runs"])
    if spark is not None:
        spark.stop()


if __name__ == "__main__":
    main()

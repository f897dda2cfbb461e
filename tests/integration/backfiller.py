"""A process of its own that backfills, maintains or erases, for tests that kill it or run many at once."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import ConflictError
from dedup_storage.faults import VARIABLE
from dedup_storage.spark.backfill import Affected, Change, Strategy
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.maintain import Policy
from dedup_storage.spark.session import get_spark
from tests.spark.helpers import day

ROOT = Path(__file__).resolve().parents[2]
LATE_TYPES = "user_id bigint, request_id bigint, item bigint, y int, at timestamp"
MODULUS = 1_000_003
LATE = [(1, 1, 31, 3, day(9)), (2, 2, 12, 4, day(9)), (5, 777, 1, 1, day(9))]


def act(ds: Dataset, action: str, run_id: str) -> object:
    """What both the killed process and the one that goes on do; gives the job's summary."""
    if action == "overwrite" or action == "merge-on-read":
        change, some = Change(expressions={"y": "y + 10"}), Affected(users=[1, 5])
        return ds.backfill(change, some, run_id=run_id, strategy=Strategy(action), part_segments=2, gate=False)
    if action == "late-labels":
        return ds.merge_labels(ds.spark.createDataFrame(LATE, LATE_TYPES), "y", "at", run_id=run_id, gate=False)
    if action == "maintain":
        return ds.maintain(run_id, policy=Policy(keep_versions=1, keep_days=0), orphans=False)
    return ds.forget_users([1, 5], run_id)


def value(number: int, turn: int) -> int:
    """What a writer's run adds to twice the label: no two runs add the same."""
    return 100 * number + turn + 1


def rounds(ds: Dataset, number: int, count: int) -> None:
    """Backfills in a row for the users ``number`` and ``number + 1``; their order can be told from the result.

    Prints what became of each: a line with the run id and its version, or the name of the refusal.
    """
    for turn in range(count):
        run_id = f"b{number}-{turn}"
        change = Change(expressions={"y": f"cast((y * 2 + {value(number, turn)}) % {MODULUS} as int)"})
        some = Affected(users=[number, number + 1])
        try:
            strategy = list(Strategy)[(number + turn) % len(Strategy)]
            outcome = str(ds.backfill(change, some, run_id=run_id, strategy=strategy, gate=False).version)
        except ConflictError:
            outcome = "ConflictError"
        print(f"RAN {run_id} {outcome}", flush=True)  # noqa: T201


def start(settings: Settings, *arguments: str, fault: str = "", memory: str = "1g") -> subprocess.Popen[str]:
    """Start this module on the suite's lake; ``fault`` names the point at which the process is killed."""
    environ = {
        **os.environ,
        "DEDUP_STORAGE_WAREHOUSE": settings.warehouse,
        "DEDUP_STORAGE_SPARK__MASTER": "local[1]",
        # Most of such a process is starting up, which the JVM's first compiler does fastest.
        "DEDUP_STORAGE_SPARK__CONF": "{spark.sql.shuffle.partitions: '1', spark.ui.enabled: 'false', "
        f"spark.driver.memory: {memory}, spark.ui.showConsoleProgress: 'false', "
        "spark.driver.extraJavaOptions: '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC'}",
        VARIABLE: fault,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.integration.backfiller", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> None:
    """Do ``--action`` to ``--dataset`` under ``--run-id``, or ``--rounds`` backfills as writer ``--number``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--action", default="rounds")
    parser.add_argument("--run-id", default="")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    given = parser.parse_args()
    settings = load_settings(ROOT / "conf" / "local.yaml", os.environ)
    spark: SparkSession = get_spark(settings, given.action)
    ds = Dataset.open(spark, settings, given.dataset)
    work: Callable[[], object] = (
        (lambda: rounds(ds, given.number, given.rounds))
        if given.action == "rounds"
        else (lambda: act(ds, given.action, given.run_id))
    )
    work()
    spark.stop()


if __name__ == "__main__":
    main()

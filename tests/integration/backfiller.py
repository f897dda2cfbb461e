"""A process of its own that backfills, maintains or erases, for tests that kill it or run many at once."""

from __future__ import annotations

import argparse

from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError
from tests.integration.processes import opened
from tests.spark.helpers import day

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
    choices = [s for s in Strategy if ds.tables.marks_rows or s is not Strategy.MERGE_ON_READ]
    for turn in range(count):
        run_id = f"b{number}-{turn}"
        change = Change(expressions={"y": f"cast((y * 2 + {value(number, turn)}) % {MODULUS} as int)"})
        some = Affected(users=[number, number + 1])
        try:
            strategy = choices[(number + turn) % len(choices)]
            outcome = str(ds.backfill(change, some, run_id=run_id, strategy=strategy, gate=False).version)
        except ConflictError:
            outcome = "ConflictError"
        print(f"RAN {run_id} {outcome}", flush=True)  # noqa: T201


def main() -> None:
    """Do ``--action`` to ``--dataset`` under ``--run-id``, or ``--rounds`` backfills as writer ``--number``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--action", default="rounds")
    parser.add_argument("--run-id", default="")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    given = parser.parse_args()
    ds = opened(given.dataset, given.action)
    if given.action == "rounds":
        rounds(ds, given.number, given.rounds)
    else:
        act(ds, given.action, given.run_id)
    ds.spark.stop()


if __name__ == "__main__":
    main()

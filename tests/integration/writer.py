"""A process of its own that writes days into a dataset, for tests that kill it or run many at once."""

from __future__ import annotations

import argparse

from dedup_storage.sources.raw import RawLog
from tests.integration.processes import opened
from tests.spark.helpers import flat_rows, flat_schema, frame


def main() -> None:
    """Write ``--appends`` runs; each brings the requests of one day, numbered from ``--first-request``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--mode", default="append")
    parser.add_argument("--day", type=int, default=2)
    parser.add_argument("--first-request", type=int, default=100)
    parser.add_argument("--appends", type=int, default=1)
    parser.add_argument("--gate", action="store_true")
    given = parser.parse_args()
    dataset = opened(given.dataset, given.run_id)
    spark = dataset.spark
    for i in range(given.appends):
        rows = flat_rows([given.day], first_request=given.first_request + 10 * i)
        run_id = given.run_id if given.appends == 1 else f"{given.run_id}-{i}"
        raw = RawLog.from_frame(frame(spark, rows), flat_schema())
        dataset.write(raw, run_id=run_id, mode=given.mode, gate=given.gate)
    spark.stop()


if __name__ == "__main__":
    main()

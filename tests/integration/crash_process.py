"""A process of its own that does one of the jobs to a dataset, for tests that kill it."""

from __future__ import annotations

import argparse

from tests.integration.crash_jobs import JOBS
from tests.integration.processes import opened


def main() -> None:
    """Do ``--job`` to ``--dataset``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--job", choices=sorted(JOBS), required=True)
    options = parser.parse_args()
    ds = opened(options.dataset, options.job)
    JOBS[options.job].act(ds)
    ds.spark.stop()


if __name__ == "__main__":
    main()

"""A process of its own that converts a dataset, for tests that kill it."""

from __future__ import annotations

import argparse

from tests.integration.processes import opened


def main() -> None:
    """Convert ``--dataset`` into split layout in a table format, as the run ``turn``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--format", required=True)
    given = parser.parse_args()
    dataset = opened(given.dataset, "convert")
    dataset.convert(given.target, format=given.format, layout="split", run_id="turn")
    dataset.spark.stop()


if __name__ == "__main__":
    main()

"""A process of its own that works on feature groups, for tests that kill it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dedup_storage.config import load_settings
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.session import get_spark

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Do ``--action`` to the group ``age`` of ``--dataset``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--action", choices=("add", "refresh", "promote"), required=True)
    given = parser.parse_args()
    settings = load_settings(ROOT / "conf" / "local.yaml", os.environ)
    spark = get_spark(settings, given.action)
    dataset = Dataset.open(spark, settings, given.dataset)
    if given.action == "add":
        dataset.add_features("age", {"length": "size(hist)"}, run_id="add", gate=False)
    elif given.action == "refresh":
        dataset.refresh_features("age", run_id="refresh", gate=False)
    else:
        dataset.promote_features("age", run_id="promote")
    spark.stop()


if __name__ == "__main__":
    main()

"""A process of its own that makes, refreshes or drops a named sample, for tests that kill it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dedup_storage.config import load_settings
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.session import get_spark

ROOT = Path(__file__).resolve().parents[2]
# Half of the users of each country, whose strata are stored.
SPEC = {"fraction": 0.5, "seed": 3, "strata": [{"name": "country", "column": "country"}]}


def main() -> None:
    """Do ``--action`` to the sample ``half`` of ``--dataset``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--action", choices=("make", "refresh", "drop"), required=True)
    given = parser.parse_args()
    settings = load_settings(ROOT / "conf" / "local.yaml", os.environ)
    spark = get_spark(settings, given.action)
    dataset = Dataset.open(spark, settings, given.dataset)
    if given.action == "make":
        dataset.sample("half", SPEC)
    elif given.action == "refresh":
        dataset.refresh_sample("half")
    else:
        dataset.drop_sample("half")
    spark.stop()


if __name__ == "__main__":
    main()

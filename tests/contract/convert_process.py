"""A process of its own that converts a dataset, for tests that kill it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dedup_storage.config import load_settings
from dedup_storage.layout import Layout
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.session import get_spark

ROOT = Path(__file__).resolve().parents[2]


def main(dataset: str, target: str, table_format: str) -> None:
    """Convert to split layout in a table format, as the run ``turn``."""
    settings = load_settings(ROOT / "conf" / "local.yaml", os.environ)
    spark = get_spark(settings, "convert")
    Dataset.open(spark, settings, dataset).convert(target, format=table_format, layout=Layout.SPLIT, run_id="turn")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

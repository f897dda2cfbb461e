"""What a version costs in the metadata files of its tables, which every load of a table reads: bytes by their part.

``-rP --log-level=INFO`` prints them; docs/operations.md states them.
"""

from __future__ import annotations

import json
import logging
from itertools import pairwise

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from tests.integration.crash_jobs import log

logger = logging.getLogger(__name__)
# Parts of a table's metadata that grow with its versions; former metadata files are 100 at most.
PARTS = ("refs", "properties", "snapshots", "snapshot-log", "metadata-log")


def sizes(ds: Dataset) -> dict[str, dict[str, int]]:
    """Table -> part of its metadata file -> bytes, as Iceberg writes it."""
    found = {}
    for name, table in ds.metadata().tables.items():
        with table.io.new_input(table.metadata_location).open() as stream:
            stored = json.loads(stream.read())
        found[name] = {part: len(json.dumps(stored.get(part, {}), separators=(",", ":"))) for part in PARTS}
    return found


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {name: {part: after[name][part] - before[name][part] for part in PARTS} for name in after}


@pytest.mark.long
def test_bytes_of_a_versions_references(spark: SparkSession, settings: Settings, name: str) -> None:
    raw = log(spark, [1])
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    taken = []
    for number in range(11, 15):
        ds.write(log(spark, [number], 100 * number), run_id=f"day-{number}", gate=False)
        taken.append(sizes(ds))
    each = [grown(before, after) for before, after in pairwise(taken[1:])]
    for table, parts in ((table, parts) for growth in each for table, parts in growth.items()):
        logger.info("a version in %s: %s, %s bytes", table, parts, sum(parts.values()))
    for growth in each:
        for table, parts in growth.items():
            # A tag that names the version; on the anchor a second one, and what the claim says of the members.
            anchor = table == ds.spec.anchor.name
            assert parts["refs"] == pytest.approx(114 if anchor else 54, abs=6)
            assert (150 < parts["properties"] < 600) if anchor else parts["properties"] == 0
            assert parts["snapshots"] < 3_000
    ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False, orphans=False)
    for table, parts in grown(taken[0], sizes(ds)).items():
        logger.info("three expired versions of four in %s: %s", table, parts)
        # What keeps a run id spent is all that stays.
        assert parts["refs"] <= 4
        assert parts["snapshots"] < 100

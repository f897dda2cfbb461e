"""Late labels: any order of arrival gives what a rebuild from all rows gives; what is not known is kept aside."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.contract.upkeep import USERS, files, left_behind, log, made
from tests.spark.helpers import frame, same_rows
from tests.spark.test_late_labels import TYPES, late, rebuilt


def aside(ds: Dataset) -> DataFrame:
    """Rows kept aside, as the newest version has them."""
    meta = ds.metadata()
    return ds.tables.read(ds.name, "labels_unknown", meta.snapshots(meta.current)["labels_unknown"])


@pytest.mark.slow
def test_any_order_of_arrival_equals_a_rebuild(spark: SparkSession, lake: Settings, name: str) -> None:
    ds, rows = made(spark, lake, name), late(40, users=USERS)
    before = files(ds, "requests", 1)
    unknown = 0
    for number, part in enumerate((rows[20:], rows[:25])):
        summary = ds.merge_labels(frame(spark, part, TYPES), "y", "at", run_id=f"l{number}", gate=False)
        assert summary.input_rows == len(part)
        assert summary.backfill.sequence_bytes_written == 0
        unknown += summary.unknown_rows
    same_rows(ds.logs(), rebuilt(spark, rows, users=USERS))
    same_rows(ds.logs(1), log(spark, [1, 2]).frame)
    assert files(ds, "requests", 3) == before
    kept = aside(ds).collect()
    assert len(kept) == unknown > 0
    given = {(user, request, str(item), str(y), at) for user, request, item, y, at in rows if user >= 900}
    assert {(r.user_id, r.request_id, r.position_or_item, r.value, r.label_time) for r in kept} <= {
        (*key, at.astimezone().replace(tzinfo=None)) for *key, at in given
    }
    # The same run again, and the same rows by another run, change no label.
    same = frame(spark, rows[20:], TYPES)
    assert ds.merge_labels(same, "y", "at", run_id="l0").backfill.already_published
    assert ds.merge_labels(same, "y", "at", run_id="again", gate=False).merged_rows == 0
    same_rows(ds.logs(), rebuilt(spark, rows, users=USERS))
    assert left_behind(ds) == []
    ds.rollback(1)
    same_rows(ds.logs(), log(spark, [1, 2]).frame)

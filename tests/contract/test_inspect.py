"""Files, segments and history from metadata, against what reading the same version gives."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from pyspark.sql import functions as F

from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import VersionNotFoundError


@pytest.mark.long
def test_files_and_segments_are_those_of_the_version(two_days: Dataset) -> None:
    ds = two_days
    segments = ds.inspect.segments().collect()
    bucket = ds.tables.bucket(ds.spec)
    rows: Counter[tuple[str, str, int]] = Counter()
    for table, frame in (("requests", ds.requests()), ("impressions", ds.logs())):
        day = F.date_format("ts", "yyyy-MM-dd")
        for row in frame.select(day.alias("date"), bucket.alias("bucket")).collect():
            rows[(table, row["date"], row["bucket"])] += 1
    assert {(s["table"], s["date"], s["bucket"]): s["rows"] for s in segments} == rows
    assert {s["hidden_rows"] for s in segments} == {0}
    files = ds.inspect.files().collect()
    assert sum(f["rows"] for f in files) == 10 + 30
    assert len(files) == sum(s["files"] for s in segments)
    assert sum(f["bytes"] for f in files) == sum(s["bytes"] for s in segments) > 0
    assert {s["date"] for s in ds.inspect.segments(1).collect()} == {"2024-01-01"}
    with pytest.raises(VersionNotFoundError, match="no version 9"):
        ds.inspect.files(9)


@pytest.mark.long
def test_history_tells_what_a_rollback_left_out(two_days: Dataset) -> None:
    ds = two_days
    ds.rollback(1, run_id="undo")
    history = ds.inspect.history()
    assert [(h.version, h.job, h.run_id, h.parent, h.is_ancestor) for h in history] == [
        (1, "write", "day-1", 0, True),
        (2, "write", "day-2", 1, False),
        (3, "rollback", "undo", 1, True),
    ]
    created = [h.created for h in history]
    assert all(moment is not None and moment.tzinfo is dt.UTC for moment in created)
    assert created == sorted(created, key=str)

"""Joins: Iceberg's stay inside their buckets; Delta's shuffle, and the explanation says so and how much."""

from __future__ import annotations

import pytest

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.joins import Cause, explain_join
from dedup_storage.dataset.joins.model import StepKind
from dedup_storage.dataset.joins.tables import table_frame
from dedup_storage.errors import ShuffleRefusedError
from tests.spark.helpers import multiset

pytestmark = pytest.mark.usefixtures("compiled")

WANTED = ("item", "hist")


def test_what_a_join_of_the_own_tables_moves(lake: Settings, two_days: Dataset) -> None:
    ds = two_days
    left = table_frame(ds.handle, "impressions", columns=["item"])
    right = table_frame(ds.handle, "requests", columns=["hist"])
    found = explain_join(left, right)
    join = found.joins[0]
    assert (join.left.rows, join.right.rows) == (30, 10)
    assert join.left.stored_bytes
    assert join.right.row_bytes
    moved = [s for s in found.steps if s.kind is StepKind.SHUFFLE]
    if lake.format == "iceberg":
        assert found.shuffle_free
        assert moved == []
        result = ds.join(columns=WANTED)
    else:
        assert not found.shuffle_free
        # Slots of 8 bytes for keys, date and the bucket that a Delta read brings along; 8 for each element of a list,
        # and for an empty list.
        elements = sum(max(len(r["hist"]), 1) for r in ds.requests().select("hist").collect())
        assert join.right.row_bytes == 10 * 4 * 8 + 8 * elements
        assert {r.cause for r in join.reasons} == {Cause.DELTA}
        assert [s.row_bytes for s in moved] == [join.left.row_bytes, join.right.row_bytes]
        assert "refuses" in str(found.bucket_join)
        with pytest.raises(ShuffleRefusedError, match="is a Delta table"):
            ds.join(columns=WANTED)
        with pytest.warns(UserWarning, match="moves rows"):
            result = ds.join(columns=WANTED, exchange="warn")
    plain = left.join(right, ["user_id", "request_id", "event_date"]).select(result.columns)
    assert multiset(result) == multiset(plain)

"""A backfill makes those feature groups out of date that read its columns, or of which nobody knows what they read."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.outdated import stale_cells
from tests.contract.conftest import MakeLog
from tests.spark.helpers import halves

EXPRESSIONS = {
    "len": "size(hist)",
    "dane": "country = 'DK'",
    "every": "hash(struct(*))",
    "seen": "array_contains(hist, item)",
    "double": "y * 2",
    "more": "len + 1",
    "both": "concat(COUNTRY, string(y))",
}
IMPRESSIONS = ("seen", "double", "both")


def counted(rows: DataFrame) -> DataFrame:
    """A function of frames: nobody sees which columns it reads."""
    return rows.selectExpr("user_id", "request_id", "event_date", "size(hist) AS counted")


def stale(ds: Dataset, overwritten: str = "") -> set[str]:
    """Groups that are out of date; the values of all others are those that their expressions give now.

    Args:
        overwritten: A group whose own values a backfill replaced.
    """
    meta = ds.handle.metadata()
    found = {n for n, g in ds.features().items() if stale_cells(meta, meta.spec, meta.current, g)}
    # One query for all groups: to plan it takes most of its time.
    right = EXPRESSIONS.keys() - found - {"every", overwritten}
    if right:
        differ = {name: F.count_if(F.expr(f"NOT ({name} <=> ({EXPRESSIONS[name]}))")) for name in right}
        assert ds.logs().select(*(rows.alias(name) for name, rows in differ.items())).first() == (0,) * len(right)
    return found


def again(ds: Dataset, *names: str) -> None:
    for name in names:
        ds.features.refresh(name, counted if name == "counted" else None, gate=False)


@pytest.mark.long
@pytest.mark.parametrize(("table_format", "whole"), halves("iceberg"), indirect=["table_format"])
def test_what_a_backfill_makes_out_of_date(ds: Dataset, make_log: MakeLog, whole: bool) -> None:
    for name, text in EXPRESSIONS.items():
        grain = "impression" if name in IMPRESSIONS else "request"
        ds.features.add(name, {name: text}, grain=grain, uses=["len"] if name == "more" else (), gate=False)
    ds.features.add("counted", counted, gate=False)
    assert stale(ds) == set()

    def backfill(column: str, value: str, *users: int) -> None:
        ds.backfill(Change(expressions={column: value}), Affected(users=list(users)), gate=False)

    backfill("country", "'SE'", 1, 3)
    assert stale(ds) == {"dane", "every", "both", "counted"}
    # One that came before a second change is not forgotten by it.
    backfill("y", "y + 1", 2)
    assert stale(ds) == {"dane", "every", "both", "counted", "double"}
    again(ds, "dane", "every", "both", "counted", "double")
    assert stale(ds) == set()

    backfill("len", "len + 10", 1)
    assert stale(ds, "len") == {"more"}
    if not whole:
        return
    ds.features.refresh("len", full=True, gate=False)
    again(ds, "more")
    ds.features.promote("len")
    assert stale(ds) == set()
    backfill("len", "len + 10", 1)
    # It is a column of the requests by now, which functions and stars get.
    assert stale(ds, "len") == {"more", "counted", "every"}
    ds.features.refresh("len", full=True, gate=False)
    again(ds, "more", "counted", "every")

    ds.features.bundle("two", ["dane", "more"])
    backfill("dane", "true", 1)
    assert stale(ds, "dane") == set()
    ds.write(make_log([2], first_request=100), gate=False)
    assert stale(ds) == {*EXPRESSIONS, "counted"}

"""Maintenance that dies while it drops events that nothing refers to, on both formats, then is gone on with."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, compaction, odd_log
from tests.integration.images import BEFORE, Images
from tests.integration.processes import kill
from tests.spark.helpers import ICEBERG_DAILY
from tests.spark.odd_lists import bits

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

EVENTS = ["events_g", "events_words"]
STEPS = {
    "iceberg": compaction("iceberg", *EVENTS, "impressions", "requests", restaged=EVENTS),
    "delta": compaction("delta", *EVENTS, "requests", restaged=EVENTS),
}
# The others are those of a compaction, which goes the same way.
OWN = {"maintain:part", "maintain:rewritten", "publish:after-claim"}
# Events are dropped alike on both formats; test_upkeep_crash kills the compactions of each.
DAILY = "iceberg"


@pytest.mark.parametrize("table_format", ICEBERG_DAILY)
def test_every_step_is_tested(recorded: Recorded, table_format: str) -> None:
    # Which table comes first is the catalog's order.
    assert sorted(recorded("drop", table_format).points) == sorted(STEPS[table_format])


@pytest.mark.parametrize(
    ("table_format", "point"),
    [case(f, point, alike=f != DAILY or point not in OWN) for f, steps in STEPS.items() for point in steps],
)
def test_drop_crashes(recorded: Recorded, table_format: str, point: str) -> None:
    """Afterwards there is one version, with the same lists, and the events that they need."""
    images = recorded("drop", table_format)
    if images.first_like(point) != point:
        return  # Nothing was stored in between: what is asserted there holds here.
    logged, wanted = whole(images)
    dropped(images.restore(point), logged, wanted)


@pytest.mark.parametrize("table_format", ICEBERG_DAILY)
def test_requests_that_come_after_a_crash(recorded: Recorded, table_format: str) -> None:
    """They stand in events that the dead run had left out already: it does not go on from there."""
    ds = recorded("drop", table_format).restore("maintain:rewritten")
    logged, again = bits(ds.logs()), odd_log(ds.spark, [2], first=9000)
    ds.write(again, run_id="again", gate=False)
    done = JOBS["drop"].act(ds)
    assert done.kept_versions[-1] == ds.versions()[-1].version
    assert bits(ds.logs()) == logged + bits(again.frame)
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []
    assert all(c.passed for c in ds.check().checks if ".lists." in c.name)


@pytest.mark.slow
def test_a_killed_drop(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["drop"].prepare(spark, settings.model_copy(update={"format": "delta"}), name)
    logged, before = bits(ds.logs()), positions(ds)
    kill(ds, "drop", "maintain:rewritten")
    JOBS["drop"].act(ds)
    assert bits(ds.logs()) == logged
    assert positions(ds).total() < before.total()


@cache
def whole(images: Images) -> tuple[Counter[str], Counter[Any]]:
    """What was logged, and the events that are left by a run that nothing stops."""
    ds = images.restore(BEFORE)
    logged, before = bits(ds.logs()), positions(ds)
    JOBS["drop"].act(ds)
    assert positions(ds).total() < before.total()
    return logged, positions(ds)


def positions(ds: Dataset) -> Counter[Any]:
    cut = ds.handle.cut()
    found = ((table, row) for table in EVENTS for row in cut.stored(table).select("u", "position").collect())
    return Counter((table, row["u"], row["position"]) for table, row in found)


def dropped(ds: Dataset, logged: Counter[str], wanted: Counter[Any]) -> None:
    assert bits(ds.logs()) == logged
    done = JOBS["drop"].act(ds)
    assert bits(ds.logs()) == logged
    assert positions(ds) == wanted
    assert done.kept_versions == (3,)
    assert [v.run_id for v in ds.versions()] == ["drop"]
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []
    assert JOBS["drop"].act(ds).already_published

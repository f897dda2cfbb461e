"""Maintenance that dies while it lays lists anew, on both formats, then is gone on with."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, decided, publication
from tests.integration.images import BEFORE, Images
from tests.integration.processes import kill
from tests.spark.helpers import ICEBERG_DAILY
from tests.spark.odd_lists import bits

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

COPIED = ["events_g", "events_words", "fe0_age"]
STAGED = ["part-staged", "anew-requests", *(f"anew-{table}" for table in COPIED), "anew-proved"]
STEPS = {
    table_format: [
        *(f"maintain:{step}" for step in STAGED),
        "publish:restaged-requests",
        "publish:before-claim",
        *publication(table_format, *COPIED, *others, "requests"),
        "maintain:anew-published",
    ]
    for table_format, others in (("iceberg", ["impressions"]), ("delta", []))
}
# The others are those of a backfill, which goes the same way.
OWN = {"maintain:anew-requests", "maintain:anew-events_g", "maintain:anew-proved", "publish:after-claim"}
# Lists are laid anew alike on both formats; test_backfill_crash kills the publications of each.
DAILY = "iceberg"


@pytest.mark.parametrize("table_format", ICEBERG_DAILY)
def test_every_step_is_tested(recorded: Recorded, table_format: str) -> None:
    # Which table comes first is the catalog's order.
    assert sorted(recorded("anew", table_format).points) == sorted(STEPS[table_format])


@pytest.mark.parametrize(
    ("table_format", "point"),
    [case(f, point, alike=f != DAILY or point not in OWN) for f, steps in STEPS.items() for point in steps],
)
def test_crashes(recorded: Recorded, table_format: str, point: str) -> None:
    """Before, and after the run is gone on with, every list is there; in the end of the same runs, copied once."""
    images = recorded("anew", table_format)
    if images.first_like(point) != point:
        return  # Nothing was stored in between: what is asserted there holds here.
    logged, wanted = whole(images)
    gone_on_with(images.restore(point), logged, wanted, finished=decided(point))


@pytest.mark.slow
def test_a_killed_run(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["anew"].prepare(spark, settings.model_copy(update={"format": "delta"}), name)
    logged = bits(ds.logs(features=()))
    kill(ds, "anew", "maintain:anew-proved")
    done = JOBS["anew"].act(ds)
    assert bits(ds.logs(features=())) == logged
    assert all(one.runs_after < one.runs_before for one in done.runs)


@cache
def whole(images: Images) -> tuple[Counter[str], Counter[Any]]:
    """What was logged, and what is stored by a run that nothing stops."""
    ds = images.restore(BEFORE)
    logged = bits(ds.logs())
    JOBS["anew"].act(ds)
    return logged, stored(ds)


def stored(ds: Dataset) -> Counter[Any]:
    cut = ds.handle.cut()
    rows = ((table, row) for table in COPIED for row in cut.stored(table).select("u", "position").collect())
    found = Counter((table, row["u"], row["position"]) for table, row in rows)
    for row in cut.stored("requests").select("u", "r", "g_runs", "words_runs").collect():
        found[repr(row)] += 1
    return found


def gone_on_with(ds: Dataset, logged: Counter[str], wanted: Counter[Any], *, finished: bool) -> None:
    assert bits(ds.logs()) == logged
    done = JOBS["anew"].act(ds)
    assert bits(ds.logs()) == logged
    assert stored(ds) == wanted
    assert (done.runs == ()) == finished
    assert [v.run_id for v in ds.versions()][::2] == ["first", "lay-runs"]
    assert [b for table in ds.metadata().tables for b in ds.tables.branches(ds.name, table)] == []
    assert JOBS["anew"].act(ds).runs == ()
    assert all(check.passed for check in ds.check().checks if ".lists." in check.name)

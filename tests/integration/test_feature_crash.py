"""A feature group's addition, refresh, promotion and bundling that die at any step, on both formats, then go on."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, decided, publication, visible
from tests.integration.images import BEFORE, Images
from tests.integration.processes import kill
from tests.spark.helpers import multiset, same_rows

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

STAGED = ["features:staged", "features:staged-anchor", "features:audited", "publish:before-claim"]
BEFORE_DECISION = {
    "add": ["features:created", *STAGED],
    "refresh": STAGED,
    "refresh-events": STAGED,
    "promote": ["features:columns-added", "features:folded", "features:staged-anchor", "publish:before-claim"],
    "bundle": [
        "features:created",
        "features:bundled",
        "features:emptied",
        "features:staged-anchor",
        "publish:before-claim",
    ],
}
# Runs whose versions are there before the job.
EARLIER = {
    "add": ["first"],
    "refresh": ["first", "add", "second"],
    "refresh-events": ["first", "add", "second"],
    "promote": ["first", "add", "second", "refresh"],
    "bundle": ["first", "add", "second"],
}
# On Iceberg each version names all tables; on Delta only those that it changes.
TABLES = {"iceberg": ["fg_age", "impressions", "requests"], "delta": ["fg_age", "requests"]}
BUNDLED = ["fb_both", "fg_age", "fg_place"]


def members(job: str, tables: list[str]) -> list[str]:
    """Tables that get a version, in this order."""
    if job == "bundle":
        return BUNDLED + tables[1:]
    if job == "refresh-events":
        return [*(["events_hist"] if "impressions" in tables else []), "fe0_age", *tables[1:]]
    return tables


STEPS = {
    (job, table_format): [*before, *publication(table_format, *members(job, tables))]
    for job, before in BEFORE_DECISION.items()
    for table_format, tables in TABLES.items()
}
# The others are the publication's, which a write goes through as well, or much like one of these. Where none is a
# format's own, what the job stages there is told by its other jobs and by the other format.
OWN = {
    ("add", "iceberg"): ["features:staged-anchor", "publish:after-pick-fg_age"],
    ("add", "delta"): ["features:staged-anchor"],
    ("refresh", "iceberg"): ["features:staged", "publish:after-pick-fg_age"],
    ("refresh", "delta"): ["publish:after-pick-fg_age"],
    ("refresh-events", "iceberg"): ["features:staged", "publish:after-pick-fe0_age"],
    ("refresh-events", "delta"): [],
    ("promote", "iceberg"): ["features:folded", "publish:after-pick-fg_age"],
    ("promote", "delta"): [],
    ("bundle", "iceberg"): [
        "features:bundled",
        "features:emptied",
        "publish:after-pick-fb_both",
        "publish:after-pick-fg_age",
    ],
    ("bundle", "delta"): [],
}
CASES = [case(*job, point, alike=point not in OWN[job]) for job, steps in STEPS.items() for point in steps]


@pytest.mark.parametrize(("job", "table_format"), [case(*job, alike=not OWN[job]) for job in STEPS])
def test_every_step_is_tested(recorded: Recorded, job: str, table_format: str) -> None:
    assert recorded(job, table_format).points == STEPS[job, table_format]


@pytest.mark.parametrize(("job", "table_format", "point"), CASES)
def test_a_crash_at_every_step(recorded: Recorded, job: str, table_format: str, point: str) -> None:
    images = recorded(job, table_format)
    if (first := images.first_like(point)) != point:
        # Nothing was stored in between: what is asserted there holds here, if it is the same.
        assert (decided(first), visible(first)) == (decided(point), visible(point))
        return
    before = rows_before(images)
    goes_on(images.restore(point), job, point, before)


@cache
def rows_before(images: Images) -> Counter[Any]:
    return multiset(images.restore(BEFORE).logs())


@pytest.mark.slow
def test_a_killed_process(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["add"].prepare(spark, settings, name)
    before = multiset(ds.logs())
    kill(ds, "add", "publish:after-pick-fg_age")
    goes_on(ds, "add", "publish:after-pick-fg_age", before)


def goes_on(ds: Dataset, job: str, point: str, before: Counter[Any]) -> None:
    runs = [*EARLIER[job], *([job] if visible(point) else [])]
    assert [v.run_id for v in ds.versions()] == runs
    if not visible(point):
        assert multiset(ds.logs()) == before

    done = JOBS[job].act(ds)
    assert done.already_published == decided(point)
    assert [v.run_id for v in ds.versions()] == [*EARLIER[job], job]
    value = F.transform("hist", lambda x: x * 2) if job == "refresh-events" else F.size("hist")
    wanted = ds.logs(features=()).withColumn("length", value)
    same_rows(ds.logs(), wanted.withColumn("place", F.upper("country")) if job == "bundle" else wanted)
    made = BUNDLED if job == "bundle" else ["fe0_age"] if job == "refresh-events" else ["fg_age"]
    assert sorted(table for table in ds.metadata().tables if table.startswith("f")) == made

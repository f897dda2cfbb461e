"""A change of the number of buckets that dies at any step, on both formats, then is run again, or gives way."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConflictError
from tests.contract.test_rebucket import in_segments
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, decided, log, publication, visible
from tests.integration.processes import kill
from tests.spark.helpers import same_rows

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

TABLES = ["fg_age", "impressions", "requests"]
STEPS = {
    table_format: [
        *(f"rebucket:staged-{table}" for table in TABLES),
        "rebucket:staged",
        "publish:before-claim",
        *publication(table_format, *TABLES),
        "rebucket:published",
    ]
    for table_format in ("iceberg", "delta")
}
# The others lead the same way. Rows are staged by what both formats share; each brings them in by itself.
OWN = {
    "iceberg": ("rebucket:staged-impressions", "publish:after-claim", "publish:after-pick-fg_age"),
    "delta": ("publish:after-pick-impressions",),
}
CASES = [case(kind, point, alike=point not in OWN[kind]) for kind, steps in STEPS.items() for point in steps]


@pytest.mark.parametrize("table_format", list(STEPS))
def test_every_step_is_tested(recorded: Recorded, table_format: str) -> None:
    points = recorded("rebucket", table_format).points
    assert sorted(points) == sorted(STEPS[table_format])
    assert [p for p in points if p.startswith("publish:")] == [p for p in STEPS[table_format] if p[:8] == "publish:"]


@pytest.mark.parametrize(("table_format", "point"), CASES)
def test_a_crash_at_every_step(recorded: Recorded, table_format: str, point: str) -> None:
    images = recorded("rebucket", table_format)
    goes_on(images.restore(point), point)
    another_run_goes_on(images.restore(point), point)


@pytest.mark.slow
@pytest.mark.parametrize("table_format", list(STEPS))
def test_a_killed_process(spark: SparkSession, settings: Settings, name: str, table_format: str) -> None:
    ds = JOBS["rebucket"].prepare(spark, settings.model_copy(update={"format": table_format}), name)
    kill(ds, "rebucket", "publish:after-pick-impressions")
    goes_on(ds, "publish:after-pick-impressions")


def goes_on(ds: Dataset, point: str) -> None:
    """The version of before is whole until the new one is there; the run again makes it, once."""
    raw = log(ds.spark, [1])
    assert ds.spec.buckets == (7 if visible(point) else 4)
    assert [v.version for v in ds.versions()] == ([1, 2, 3] if visible(point) else [1, 2])
    same_rows(ds.logs(features=()), raw.frame)
    done = JOBS["rebucket"].act(ds)
    assert (done.already_published, done.version, done.buckets) == (decided(point), 3, 7)
    assert [v.run_id for v in ds.versions()] == ["first", "add", "rebucket"]
    same_rows(ds.logs(features=()), raw.frame)
    same_rows(ds.logs(1), raw.frame)
    in_segments(ds, 7)
    in_segments(ds, 4, 2)
    assert ds.logs(features=["age"]).filter("NOT (length <=> size(hist))").isEmpty()


def another_run_goes_on(ds: Dataset, point: str) -> None:
    """A write that comes next completes what was decided, says so, and is run again; of all else it knows nothing."""
    raw = log(ds.spark, [2], 100)
    if decided(point) and not visible(point):
        with pytest.raises(ConflictError, match="changed from 4 to 7 in version 3, after it was opened"):
            ds.write(raw, run_id="next", gate=False)
        ds = Dataset.open(ds.spark, ds.settings, ds.name)
    ds.write(raw, run_id="next", gate=False)
    same_rows(ds.logs(features=()), log(ds.spark, [1]).frame.unionByName(raw.frame))
    in_segments(ds, 7 if decided(point) else 4)

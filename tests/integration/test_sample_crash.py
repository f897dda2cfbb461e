"""A named sample that dies while it is stored, refreshed, dropped, on both formats."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, SAMPLE
from tests.integration.images import BEFORE
from tests.integration.processes import kill

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

STEPS = {
    "sample": ["sample:users-stored", "sample:before-record"],
    "refresh-sample": ["sample:users-stored", "sample:before-record"],
    "drop-sample": ["sample:record-dropped"],
}
FORMATS = ("iceberg", "delta")
Users = set[tuple[int, str, float]]


def chosen(ds: Dataset, name: str = "half") -> Users:
    return {(r["user_id"], r["stratum"], r["user_weight"]) for r in ds.samples.users(name).collect()}


# The same steps store a sample in both formats; its refresh, and what a drop leaves, rest on the tables themselves: on
# Delta, a refresh in the end.
ALIKE = {
    ("sample", "sample:users-stored"),
    ("sample", "sample:before-record"),
    ("refresh-sample", "sample:users-stored"),
}
CASES = [
    case(job, point, table_format, alike=table_format == "delta" and (job, point) in ALIKE)
    for job, points in STEPS.items()
    for point in points
    for table_format in FORMATS
]


@pytest.mark.parametrize(
    ("job", "table_format"),
    [case(job, f, alike=(job, f) == ("sample", "delta")) for job in STEPS for f in FORMATS],
)
def test_every_step_is_tested(recorded: Recorded, table_format: str, job: str) -> None:
    assert recorded(job, table_format).points == STEPS[job]


@pytest.mark.parametrize(("job", "point", "table_format"), CASES)
def test_a_crash_at_every_step(recorded: Recorded, table_format: str, job: str, point: str) -> None:
    images = recorded(job, table_format)
    assert images.first_like(point) == point
    before = chosen(images.restore(BEFORE)) if job == "refresh-sample" else set()
    goes_on(images.restore(point), job, before)


@pytest.mark.slow
def test_a_killed_process(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["refresh-sample"].prepare(spark, settings, name)
    before = chosen(ds)
    kill(ds, "refresh-sample", "sample:before-record")
    goes_on(ds, "refresh-sample", before)


def goes_on(ds: Dataset, job: str, before: Users) -> None:
    # A sample is there whole, as it was, or not at all.
    assert [sample.name for sample in ds.samples()] == (["half"] if job == "refresh-sample" else [])
    if job == "refresh-sample":
        assert chosen(ds) == before
        refreshed = ds.samples.refresh("half")
        assert refreshed.version == 2
        assert {u for u, _, _ in chosen(ds)} > {u for u, _, _ in before}
    else:
        ds.samples.make("half", SAMPLE)
    # The same as one that nothing interrupted, users and weights.
    ds.samples.make("again", SAMPLE)
    assert chosen(ds) == chosen(ds, "again")
    assert chosen(ds)
    ds.samples.drop("half")
    ds.samples.drop("again")
    assert ds.samples() == []

"""Backfills and late labels that die at any step, on both formats, then are gone on with."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.contract.upkeep import left_behind
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, LATE, decided, log, publication, visible
from tests.integration.processes import kill
from tests.spark.helpers import same_rows

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

# How a part is stored; a part that only hides rows is not staged first.
PART = {
    "overwrite": ["backfill:part-staged", "backfill:part"],
    "merge-on-read": ["backfill:part"],
    "late-labels": ["late-labels:part-staged", "backfill:part"],
}
STAGED = [
    "backfill:rewritten",
    "backfill:audited",
    "backfill:beside",
    "publish:restaged-impressions",
    "publish:before-claim",
]
JOB_TABLES = {
    ("overwrite", "iceberg"): ["impressions", "requests"],
    ("merge-on-read", "iceberg"): ["impressions", "requests"],
    ("overwrite", "delta"): ["impressions", "requests"],
    ("late-labels", "iceberg"): ["impressions", "label_times", "labels_unknown", "requests"],
    ("late-labels", "delta"): ["impressions", "label_times", "labels_unknown", "requests"],
}
STEPS = {
    (job, table_format): [
        *PART[job],
        *STAGED,
        *publication(table_format, *tables),
        "backfill:published",
    ]
    for (job, table_format), tables in JOB_TABLES.items()
}
# Segments that were finished before the crash, where not all four were.
FINISHED = {"backfill:part-staged": 0, "backfill:part": 2}
# Where files of no version are left: those of a part that no commit names yet, and those of late labels' own tables.
LEAVING = {
    ("overwrite", "backfill:part-staged"),
    *(("late-labels", p) for p in ("late-labels:part-staged", "backfill:beside", *STAGED[-2:])),
}
# The others are the publication's, which a write goes through as well, or much like one of these.
OWN = {
    ("overwrite", "iceberg"): ["backfill:part-staged", "backfill:part", "backfill:audited", "publish:after-claim"],
    ("merge-on-read", "iceberg"): [
        "backfill:rewritten",
        "publish:restaged-impressions",
        "publish:after-pick-impressions",
        "backfill:published",
    ],
    ("overwrite", "delta"): ["backfill:part", "publish:after-claim"],
    ("late-labels", "iceberg"): ["backfill:beside", "publish:after-pick-label_times"],
    ("late-labels", "delta"): [],
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
    goes_on(images.restore(point), job, point)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table_format", "job", "point"),
    [("delta", "overwrite", "backfill:part"), ("iceberg", "late-labels", "backfill:beside")],
)
def test_a_killed_process(
    spark: SparkSession, settings: Settings, name: str, table_format: str, job: str, point: str
) -> None:
    ds = JOBS[job].prepare(spark, settings.model_copy(update={"format": table_format}), name)
    kill(ds, job, point)
    goes_on(ds, job, point)


def goes_on(ds: Dataset, job: str, point: str) -> None:
    plain = log(ds.spark, [1, 2], users=8).frame
    expected = labelled(plain) if job == "late-labels" else with_y(plain, "user_id in (1, 5)", "y + 10")
    if visible(point):
        same_rows(ds.logs(1), plain)
    same_rows(ds.logs(), expected if visible(point) else plain)
    assert [v.run_id for v in ds.versions()] == ["first", job][: 1 + visible(point)]

    done = JOBS[job].act(ds)
    if job != "late-labels":
        assert done.already_published == decided(point)
        assert done.resumed_segments == (0 if decided(point) else FINISHED.get(point, 4))
    same_rows(ds.logs(), expected)
    same_rows(ds.logs(1), plain)
    if job == "late-labels":
        # The labels, their times and the rows set aside became visible together, each once.
        assert (rows(ds, "label_times").count(), rows(ds, "labels_unknown").count()) == (2, 1)
    assert [v.run_id for v in ds.versions()] == ["first", job]
    assert [branch for table in ds.metadata().tables for branch in ds.tables.branches(ds.name, table)] == []
    if ds.settings.format == "delta" and (job, point) not in LEAVING:
        assert left_behind(ds) == []


def rows(ds: Dataset, table: str) -> DataFrame:
    """A table of the newest version."""
    meta = ds.metadata()
    return ds.tables.read(ds.name, table, meta.snapshots(meta.current)[table])


def with_y(df: DataFrame, condition: str, value: str) -> DataFrame:
    return df.withColumn("y", F.expr(f"cast(if({condition}, {value}, y) as int)"))


def labelled(df: DataFrame) -> DataFrame:
    """The rows with the labels that come late."""
    for user, request, item, label, _ in LATE[:2]:
        at = f"user_id = {user} and request_id = {request} and item = {item}"
        assert df.filter(at).count() == 1
        df = with_y(df, at, str(label))
    return df

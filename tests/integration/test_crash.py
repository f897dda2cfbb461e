"""A write that dies at any step of it and of its publication, on both formats; and a recovery that dies as well."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.publish import APP
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, decided, log, publication, visible
from tests.integration.images import Images, record
from tests.integration.processes import kill
from tests.spark.helpers import same_rows

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

BEFORE_DECISION = [
    "write:staged-requests",
    "write:staged-impressions",
    "write:staged",
    "write:audited",
    "publish:before-claim",
]
AFTER_DECISION = {f: publication(f, "impressions", "requests") for f in ("iceberg", "delta")}
STEPS = {table_format: [*BEFORE_DECISION, *after] for table_format, after in AFTER_DECISION.items()}
EVENTS = "events_hist"
OF_USERS = {
    f: [BEFORE_DECISION[0], f"write:staged-{EVENTS}", *BEFORE_DECISION[1:],
        *publication(f, EVENTS, "impressions", "requests")]
    for f in STEPS
}  # fmt: skip
MODES = ("append", "replace", "append-user")


def steps(mode: str, table_format: str) -> list[str]:
    """Points that a write reaches."""
    return (OF_USERS if mode == "append-user" else STEPS)[table_format]


# An append is killed everywhere. The others differ from it in what they stage, in what a publication brings in first,
# and in what comes of that: on one format as on the other. On Delta a replacement's recovery is killed as well, below.
OWN = {
    ("replace", "iceberg"): ["write:staged-impressions", "publish:after-claim", "publish:after-pick-impressions"],
    ("replace", "delta"): [],
    ("append-user", "iceberg"): [f"write:staged-{EVENTS}", "publish:after-claim", f"publish:after-pick-{EVENTS}"],
    ("append-user", "delta"): [],
}
CASES = [
    case(mode, table_format, point, alike=point not in OWN.get((mode, table_format), steps(mode, table_format)))
    for mode in MODES
    for table_format in STEPS
    for point in steps(mode, table_format)
]


@pytest.mark.parametrize(
    ("mode", "table_format"),
    [case(mode, f, alike=(mode, f) == ("append-user", "delta")) for mode in MODES for f in STEPS],
)
def test_every_step_is_tested(recorded: Recorded, table_format: str, mode: str) -> None:
    assert recorded(mode, table_format).points == steps(mode, table_format)


@pytest.mark.parametrize(("mode", "table_format", "point"), CASES)
def test_a_crash_at_every_step(recorded: Recorded, mode: str, table_format: str, point: str) -> None:
    images = recorded(mode, table_format)
    if (first := images.first_like(point)) != point:
        # Nothing was stored in between: what is asserted there holds here, if it is the same.
        assert (decided(first), visible(first)) == (decided(point), visible(point))
        return
    goes_on(images.restore(point), mode, point)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table_format", "mode", "point"),
    [("iceberg", "append", "publish:after-pick-impressions"), ("delta", "replace", "publish:after-claim")],
)
def test_a_killed_process(
    spark: SparkSession, settings: Settings, name: str, table_format: str, mode: str, point: str
) -> None:
    ds = JOBS[mode].prepare(spark, settings.model_copy(update={"format": table_format}), name)
    kill(ds, mode, point)
    goes_on(ds, mode, point)


def goes_on(ds: Dataset, mode: str, point: str) -> None:
    """After a crash everything is as it was, or is as it will be; the run goes on, or has nothing to do."""
    spark = ds.spark
    first, second = log(spark, [1]).frame, log(spark, [1 if mode == "replace" else 2], 100).frame
    expected = second if mode == "replace" else first.unionByName(second)
    if visible(point):
        same_rows(ds.logs(1), first)
    assert [v.run_id for v in ds.versions()] == ["first", "second"][: 1 + visible(point)]
    same_rows(ds.logs(), expected if visible(point) else first)

    summary = JOBS[mode].act(ds)
    assert summary.version == 2
    assert summary.already_published == decided(point)
    same_rows(ds.logs(), expected)
    same_rows(ds.logs(1), first)
    assert [v.run_id for v in ds.versions()] == ["first", "second"]
    if ds.settings.format == "delta":
        assert applied(ds, "requests") == applied(ds, "impressions") == [1, 2]


def applied(ds: Dataset, table: str) -> list[int]:
    """Dataset versions whose application transaction is in a table's log, one entry a commit."""
    ref = DeltaLake(ds.settings).ref(ds.name, table)
    marks = [ref.load(v).transaction_version(APP) for v in range(ref.load().version() + 1)]
    return [m for before, m in zip([None, *marks], marks, strict=False) if m is not None and m != before]


def crash_again(recorded: Recorded, mode: str, points: list[str]) -> Dataset:
    """A write to Delta that dies at a point, goes on from there, dies at the next one, and so on."""
    images, job = recorded(mode, "delta"), JOBS[mode].act
    ds = images.restore(points[0])
    for number, point in enumerate(points[1:]):
        assert [v.run_id for v in ds.versions()] == ["first"], point
        same_rows(ds.logs(), log(ds.spark, [1]).frame)
        images = Images(ds.spark, ds.settings, images.place / str(number), images.names)
        record(images, lambda ds=ds: job(ds))
        ds = images.restore(point)
    return ds


def test_a_recovery_that_crashes(recorded: Recorded) -> None:
    """However often a write was begun and completed, each table got the version's files in one commit."""
    ds = crash_again(recorded, "append", ["write:staged-requests", *AFTER_DECISION["delta"]])
    first, second = log(ds.spark, [1]).frame, log(ds.spark, [2], 100).frame
    assert [v.run_id for v in ds.versions()] == ["first", "second"]
    same_rows(ds.logs(), first.unionByName(second))
    summary = JOBS["append"].act(ds)
    assert (summary.version, summary.already_published) == (2, True)
    same_rows(ds.logs(1), first)
    same_rows(ds.logs(), first.unionByName(second))
    assert applied(ds, "requests") == applied(ds, "impressions") == [1, 2]


def test_a_recovery_by_another_run(recorded: Recorded) -> None:
    """A replacement that died twice is finished by whoever writes next."""
    ds = crash_again(recorded, "replace", ["publish:before-claim", "publish:after-pick-requests"])
    assert [v.run_id for v in ds.versions()] == ["first"]
    first, again, other = log(ds.spark, [1]).frame, log(ds.spark, [1], 100).frame, log(ds.spark, [2], 500)
    same_rows(ds.logs(), first)
    assert ds.write(other, run_id="other", gate=False).version == 3
    assert [v.run_id for v in ds.versions()] == ["first", "second", "other"]
    same_rows(ds.logs(1), first)
    same_rows(ds.logs(2), again)
    same_rows(ds.logs(), again.unionByName(other.frame))
    assert JOBS["replace"].act(ds).already_published
    assert applied(ds, "requests") == applied(ds, "impressions") == [1, 2, 3]

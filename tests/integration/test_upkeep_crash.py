"""Maintenance and erasure that die at any step, on both formats, then are gone on with."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.contract.test_forget import KEPT, stored_users, told
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import (
    CHANGE,
    FIRST,
    GONE,
    HIT,
    JOBS,
    RESTORED,
    compaction,
    erasable_rows,
    log,
    publication,
)
from tests.integration.images import BEFORE, Images, record
from tests.integration.processes import kill
from tests.spark.helpers import flat_schema, multiset

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

STEPS = {
    ("maintain", "iceberg"): compaction("iceberg", "impressions", "requests", restaged=["impressions"]),
    ("maintain", "delta"): compaction("delta", "impressions", "requests", restaged=["impressions", "requests"]),
    ("forget", "iceberg"): [
        "forget:written",
        "forget:part",
        "publish:restaged-requests",
        "publish:restaged-impressions",
        "publish:before-claim",
        *publication("iceberg", "impressions", "requests"),
        "forget:published",
        "forget:remembered",
        "forget:made",
        "forget:renamed",
        "forget:manifests",
        "forget:cleared",
        "forget:removed",
    ],
    ("forget", "delta"): [
        "forget:written",
        "publish:before-claim",
        "publish:after-claim",
        "relay:made",
        "publish:after-pick-impressions",
        "publish:after-pick-requests",
        "publish:after-tag-requests",
        "forget:published",
        "forget:deleted",
        "relay:checkpoint",
        "forget:removed",
    ],
}
# The others are the publication's, which a write goes through as well. Delta's erasure is killed again and again below.
OWN = {
    ("maintain", "iceberg"): {*RESTORED, "publish:after-claim", *STEPS["maintain", "iceberg"][-5:]},
    ("maintain", "delta"): {"maintain:part", "maintain:unnamed"},
    ("forget", "iceberg"): {"forget:part", "publish:after-claim", *STEPS["forget", "iceberg"][-7:]},
    ("forget", "delta"): {"forget:deleted"},
}
# Points of an expiry, after which runs of expired versions must be known all the same.
REMEMBERED = {"maintain:remembered", "maintain:unnamed"}
Rows = dict[int, Counter[Any]]


def cases(name: str) -> list[Any]:
    """Format and point of every step of a job."""
    found = ((job, f, point) for (job, f), steps in STEPS.items() for point in steps)
    return [case(f, point, alike=point not in OWN[job, f]) for job, f, point in found if job == name]


@pytest.mark.parametrize(("job", "table_format"), list(STEPS))
def test_every_step_is_tested(recorded: Recorded, job: str, table_format: str) -> None:
    # Which table comes first is the catalog's order.
    assert sorted(recorded(job, table_format).points) == sorted(STEPS[job, table_format])


# -- maintenance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table_format", "point"), cases("maintain"))
def test_maintain_crashes(recorded: Recorded, table_format: str, point: str) -> None:
    """Afterwards there is one version, sorted, with the same rows."""
    images = recorded("maintain", table_format)
    if images.first_like(point) != point:
        return  # Nothing was stored in between: what is asserted there holds here.
    maintained(images.restore(point), rows_before(images), thorough=point in REMEMBERED)


@pytest.mark.slow
def test_a_killed_maintain(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["maintain"].prepare(spark, settings.model_copy(update={"format": "delta"}), name)
    expected = multiset(ds.logs())
    kill(ds, "maintain", "maintain:part")
    maintained(ds, expected)


@cache
def rows_before(images: Images) -> Counter[Any]:
    return multiset(images.restore(BEFORE).logs())


def maintained(ds: Dataset, expected: Counter[Any], *, thorough: bool = True) -> None:
    """The run is done; what comes after it, where it is ``thorough``, rests on what the run left, not on the crash."""
    assert multiset(ds.logs()) == expected
    done = JOBS["maintain"].act(ds)
    assert multiset(ds.logs()) == expected
    assert done.kept_versions == (4,)
    assert [(v.version, v.run_id) for v in ds.versions()] == [(4, "maintain")]
    assert sum(g.hidden_rows_after + g.overlapping_files_after for g in done.compaction) == 0
    assert branches(ds) == []
    if not thorough:
        return
    # Runs of expired versions are still known.
    again = JOBS["maintain"].act(ds)
    assert (again.version, again.compacted, again.already_published) == (4, 4, True)
    if ds.settings.format == "iceberg":
        # A killed attempt leaves at most files too young for the removal of orphans.
        assert live_files(ds) <= parquet_files(ds)
        assert ds.backfill(CHANGE, HIT, run_id="b2", gate=False).already_published
    else:
        assert all(g.files_after == 2 for g in done.compaction)
        third = log(ds.spark, [3], 300, users=8, date_grain="month", buckets=2)
        assert ds.write(third, run_id="b2", gate=False).already_published


def branches(ds: Dataset) -> list[str]:
    return [branch for table in ds.metadata().tables for branch in ds.tables.branches(ds.name, table)]


def parquet_files(ds: Dataset) -> set[Path]:
    return set((Path(str(ds.settings.local_warehouse)) / ds.name).rglob("*.parquet"))


def live_files(ds: Dataset) -> set[Path]:
    """Data files that some snapshot of an Iceberg table holds."""
    found: set[Path] = set()
    for table in ds.metadata().tables:
        place = f"{ds.settings.catalog.name}.{ds.name}.{table}.all_data_files"
        rows = ds.spark.read.table(place).select("file_path").distinct().collect()
        found |= {Path(row["file_path"].removeprefix("file:")) for row in rows}
    return found


# -- erasure ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table_format", "point"), cases("forget"))
def test_forget_crashes(recorded: Recorded, table_format: str, point: str) -> None:
    """Two versions, one pinned: afterwards all of them without the users, and no file with them."""
    images = recorded("forget", table_format)
    if images.first_like(point) != point:
        return  # Nothing was stored in between: what is asserted there holds here.
    erased(images.restore(point), kept_before(images))


@pytest.mark.parametrize(
    ("table_format", "point"),
    [
        case("iceberg", "forget:part", alike=True),
        case("iceberg", "forget:made", alike=False),
        case("delta", "forget:written", alike=True),
        case("delta", "publish:after-tag-requests", alike=True),
    ],
)
def test_a_stopped_forget_is_not_in_the_way_of_the_next(recorded: Recorded, table_format: str, point: str) -> None:
    """Another erasure takes away what it left, rows of the next user among it; then it is finished itself."""
    ds, next_user = recorded("forget", table_format).restore(point), FIRST + 5
    others = {n: multiset(ds.logs(n).filter(KEPT).filter(f"user_id <> {next_user}")) for n in (1, 2)}
    next_one = ds.forget_users([next_user], "next")
    assert next_one.clean is True
    assert next_user not in stored_users(ds)
    assert branches(ds) == []
    assert ds.publication.status().runs == ()
    done = JOBS["forget"].act(ds)
    assert (done.clean, done.users, done.not_found) == (True, 2, 0)
    assert {number: multiset(ds.logs(number)) for number in (1, 2)} == others
    assert multiset(ds.logs()) == others[2]
    assert not {*GONE, next_user} & stored_users(ds)
    assert told(ds) == set()
    assert ds.verify_erasure(done, GONE).clean
    assert ds.check().passed


@pytest.mark.slow
def test_a_killed_forget(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["forget"].prepare(spark, settings, name)
    before = kept_rows(ds)
    kill(ds, "forget", "forget:made")
    erased(ds, before)


def kept_rows(ds: Dataset) -> Rows:
    """What each of the first two versions has of the users that stay."""
    return {number: multiset(ds.logs(number).filter(KEPT)) for number in (1, 2)}


@cache
def kept_before(images: Images) -> Rows:
    return kept_rows(images.restore(BEFORE))


def erased(ds: Dataset, before: Rows) -> None:
    assert kept_rows(ds) == before
    done = JOBS["forget"].act(ds)
    assert done.clean is True
    assert [v.run_id for v in ds.versions()] == ["first", "second", "gdpr"]
    for number, expected in (before | {3: before[2]}).items():
        assert multiset(ds.logs(number)) == expected
    assert ds.versions()[0].pins == ("paper",)
    assert branches(ds) == []
    assert not set(GONE) & stored_users(ds)
    assert told(ds) == set()


def test_an_erasure_that_crashes_again_on_delta(recorded: Recorded) -> None:
    """Dead before it is decided, in the middle of its publication and while files are removed; others go on."""
    images = recorded("forget", "delta")
    before = kept_before(images)
    ds = images.restore("forget:written")
    for number, point in enumerate(("relay:made", "relay:checkpoint")):
        assert [v.run_id for v in ds.versions()][:2] == ["first", "second"]
        images = Images(ds.spark, ds.settings, images.place / str(number), images.names)
        record(images, lambda ds=ds: JOBS["forget"].act(ds))
        ds = images.restore(point)
        if point == "relay:made":
            assert [v.run_id for v in ds.versions()] == ["first", "second"]
            assert kept_rows(ds) == before
            # Decided: whoever comes next completes it. Their rows come back with nothing.
            third = RawLog.from_frame(erasable_rows(ds.spark, [3], 500).filter(KEPT), flat_schema(buckets=2))
            assert ds.write(third, run_id="third", gate=False).version == 4
            assert [v.run_id for v in ds.versions()] == ["first", "second", "gdpr", "third"]
            assert {number: multiset(ds.logs(number)) for number in (1, 2)} == before
    done = ds.forget_users(GONE, "gdpr")
    assert (done.version, done.clean) == (4, True)
    assert not set(GONE) & stored_users(ds)
    assert told(ds) == set()
    assert {number: multiset(ds.logs(number)) for number in (1, 2)} == before
    assert multiset(ds.logs()) == before[2] + multiset(third.frame)

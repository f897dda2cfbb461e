"""Real processes, killed with SIGKILL at every step of backfills, maintenance and erasure, then gone on with."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.iceberg.metadata import tags
from dedup_storage.sources.raw import RawLog
from tests.integration.backfiller import LATE, act
from tests.integration.processes import kill
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset, same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HIT = "user_id in (1, 5)"


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows(days, users=8, first_request=first_request)), flat_schema())


def with_y(df: DataFrame, condition: str, value: str) -> DataFrame:
    return df.withColumn("y", F.expr(f"cast(if({condition}, {value}, y) as int)"))


def written(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    raw = log(spark, [1, 2])
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    return ds


def die(ds: Dataset, action: str, point: str) -> None:
    """Run an action in a process that dies at a point."""
    kill(ds.settings, "backfiller", "--dataset", ds.name, "--action", action, "--run-id", action, point=point)


def branches(ds: Dataset) -> list[str]:
    return [tag for table in ds.metadata().tables.values() for tag in tags(table) if tag.startswith("run-")]


def parquet_files(ds: Dataset) -> set[Path]:
    return set((Path(str(ds.settings.local_warehouse)) / ds.name).rglob("*.parquet"))


def live_files(ds: Dataset) -> set[Path]:
    """Data files that some snapshot holds."""
    found: set[Path] = set()
    for table in ds.metadata().tables:
        place = f"{ds.settings.catalog.name}.{ds.name}.{table}.all_data_files"
        rows = ds.spark.read.table(place).select("file_path").distinct().collect()
        found |= {Path(row["file_path"].removeprefix("file:")) for row in rows}
    return found


@pytest.mark.parametrize(
    ("action", "point", "resumed"),
    [
        ("overwrite", "backfill:part-staged", 0),
        ("overwrite", "backfill:part", 2),
        ("merge-on-read", "backfill:rewritten", 4),
        ("overwrite", "backfill:audited", 4),
        ("merge-on-read", "publish:restaged-impressions", 4),
        ("overwrite", "publish:after-claim", None),
        ("merge-on-read", "publish:after-pick-impressions", None),
        ("merge-on-read", "backfill:published", None),
    ],
)
def test_backfill(
    spark: SparkSession, settings: Settings, name: str, action: str, point: str, resumed: int | None
) -> None:
    """``resumed`` segments were finished before the kill; ``None`` when the version was decided already."""
    ds, plain = written(spark, settings, name), log(spark, [1, 2]).frame
    expected = with_y(plain, HIT, "y + 10")
    die(ds, action, point)
    same_rows(ds.logs(1), plain)
    same_rows(ds.logs(), expected if point == "backfill:published" else plain)

    done = act(ds, action, action)
    assert done.already_published == (resumed is None)  # type: ignore[attr-defined]
    assert done.resumed_segments == (resumed or 0)  # type: ignore[attr-defined]
    same_rows(ds.logs(), expected)
    same_rows(ds.logs(1), plain)
    assert [v.run_id for v in ds.versions()] == ["first", action]
    assert branches(ds) == []


@pytest.mark.parametrize("point", ["backfill:beside", "publish:after-tag-label_times"])
def test_late_labels(spark: SparkSession, settings: Settings, name: str, point: str) -> None:
    """The labels, their times and the rows set aside become visible together, each once."""
    ds, plain = written(spark, settings, name), log(spark, [1, 2]).frame
    expected = plain
    for user, request, item, label, _ in LATE[:2]:
        at = f"user_id = {user} and request_id = {request} and item = {item}"
        assert plain.filter(at).count() == 1
        expected = with_y(expected, at, str(label))
    die(ds, "late-labels", point)
    same_rows(ds.logs(), plain)
    act(ds, "late-labels", "late-labels")
    same_rows(ds.logs(), expected)
    times, unknown = (
        spark.read.table(f"{settings.catalog.name}.{name}.{t}") for t in ("label_times", "labels_unknown")
    )
    assert (times.count(), unknown.count()) == (2, 1)
    assert [v.run_id for v in ds.versions()] == ["first", "late-labels"]
    assert branches(ds) == []


@pytest.mark.parametrize(
    "point",
    [
        "maintain:part",
        "maintain:rewritten",
        "publish:after-claim",
        pytest.param("maintain:published", marks=pytest.mark.exhaustive),
        "maintain:remembered",
        pytest.param("maintain:unnamed", marks=pytest.mark.exhaustive),
        "maintain:untagged",
        "maintain:cleaned",
    ],
)
def test_maintain(spark: SparkSession, settings: Settings, name: str, point: str) -> None:
    """Three versions, hidden rows in the last: afterwards one version, sorted, with the same rows."""
    ds, plain = written(spark, settings, name), log(spark, [1, 2]).frame
    for number in (2, 3):
        change, some = Change(expressions={"y": "y + 10"}), Affected(users=[1, 5])
        ds.backfill(change, some, run_id=f"b{number}", strategy=Strategy.MERGE_ON_READ, gate=False)
    expected = with_y(plain, HIT, "y + 20")
    die(ds, "maintain", point)
    same_rows(ds.logs(), expected)

    done = act(ds, "maintain", "maintain")
    same_rows(ds.logs(), expected)
    assert done.kept_versions == (4,)  # type: ignore[attr-defined]
    assert [v.version for v in ds.versions()] == [4]
    assert sum(g.hidden_rows_after + g.overlapping_files_after for g in done.compaction) == 0  # type: ignore[attr-defined]
    assert branches(ds) == []
    # A killed attempt leaves at most files too young for the removal of orphans.
    assert live_files(ds) <= parquet_files(ds)
    # Runs of expired versions are still known.
    assert ds.backfill(change, some, run_id="b2", gate=False).already_published
    assert ds.maintain("maintain", expire=False, orphans=False).version == 4


@pytest.mark.parametrize(
    "point",
    [
        "forget:written",
        pytest.param("forget:part", marks=pytest.mark.exhaustive),
        "publish:after-claim",
        "forget:published",
        pytest.param("forget:remembered", marks=pytest.mark.exhaustive),
        "forget:made",
        pytest.param("forget:renamed", marks=pytest.mark.exhaustive),
        "forget:manifests",
        pytest.param("forget:cleared", marks=pytest.mark.exhaustive),
        "forget:removed",
    ],
)
def test_forget(spark: SparkSession, settings: Settings, name: str, point: str) -> None:
    """Two versions and a pinned one: afterwards all of them without the users, and no file with them."""
    ds = written(spark, settings, name)
    change, some = Change(expressions={"y": "y + 10"}), Affected(users=[1, 2])
    ds.backfill(change, some, run_id="b", strategy=Strategy.MERGE_ON_READ, gate=False)
    ds.pin(1, "paper")
    before = {n: multiset(ds.logs(n).filter(f"not ({HIT})")) for n in (1, 2)}
    die(ds, "forget-user", point)
    for number, expected in before.items():
        assert multiset(ds.logs(number).filter(f"not ({HIT})")) == expected

    done = act(ds, "forget-user", "forget-user")
    assert done.clean is True  # type: ignore[attr-defined]
    assert [v.run_id for v in ds.versions()] == ["first", "b", "forget-user"]
    for number, expected in (before | {3: before[2]}).items():
        assert multiset(ds.logs(number)) == expected
    assert ds.versions()[0].pins == ("paper",)
    assert branches(ds) == []
    for path in parquet_files(ds):
        assert not {1, 5} & set(pq.read_table(path, columns=["user_id"])["user_id"].to_pylist())

"""A dry run changes no byte of the warehouse, catalog included, and says what the run then does."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.adopt import adopt
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.errors import DedupStorageError, UnknownColumnError, UsageError
from tests.contract.conftest import MakeLog
from tests.contract.test_adopt import lay, schema
from tests.spark.helpers import ICEBERG_DAILY, day, frame, halves

# What only the run itself tells, or names it.
UNTOLD = {"version", "dry_run", "run_id", "gate", "docs", "seconds", "hints", "already_published"}
KEYS = ("user_id", "request_id", "event_date")
Summary = TypeVar("Summary", bound=BaseModel)


def content(lake: Settings) -> dict[str, str]:
    """Digest of every file of the warehouse, the embedded catalog among them; not of the memory that its readers share,
    where they say what they read."""
    files = (path for path in Path(lake.warehouse).rglob("*") if path.is_file() and path.suffix != ".db-shm")
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def agrees(lake: Settings, step: Callable[[bool], Summary]) -> Summary:
    """Do a step dry, then in earnest; gives what the dry run said."""
    before = content(lake)
    planned = step(True)
    assert content(lake) == before
    done = step(False)
    # What is written takes so much on disk as it does.
    sizes = {"bytes", "files"} if isinstance(planned, FeatureSummary) else {"tables", "dedup_factor"}
    told, seen = (summary.model_dump(exclude=UNTOLD | sizes) for summary in (planned, done))
    assert told == seen
    assert (getattr(planned, "dry_run", None), getattr(done, "dry_run", None)) == (True, False)
    return planned


def refuses(lake: Settings, step: Callable[[], object], error: type[DedupStorageError]) -> None:
    before = content(lake)
    with pytest.raises(error):
        step()
    assert content(lake) == before


@pytest.mark.long
@pytest.mark.parametrize(("table_format", "whole"), halves("iceberg"), indirect=["table_format"])
def test_features(ds: Dataset, lake: Settings, make_log: MakeLog, whole: bool) -> None:
    features, log = ds.features, {"length": "size(hist)", "dk": "country = 'DK'"}
    refuses(lake, lambda: features.add("age", {"item": "1"}, dry_run=True), DedupStorageError)
    refuses(lake, lambda: features.add("age", {"a": "nothing + 1"}, dry_run=True), DedupStorageError)
    refuses(lake, lambda: features.add("age", log, uses=["nobody"], dry_run=True), UnknownColumnError)
    refuses(lake, lambda: features.refresh("age", dry_run=True), UnknownColumnError)
    added = agrees(lake, lambda dry: features.add("age", log, run_id="one", dry_run=dry))
    assert (added.rows, added.version, added.gate) == (5, 1, "not asked")
    again = features.add("age", log, run_id="one", dry_run=True)
    assert (again.already_published, again.version) == (True, 2)
    refuses(lake, lambda: features.add("age", {"other": "1"}, run_id="one", dry_run=True), UsageError)
    refuses(lake, lambda: features.add("age", {"other": "1"}, dry_run=True), UsageError)
    seen = {"seen": "array_contains(hist, item)"}
    assert agrees(lake, lambda dry: features.add("seen", seen, grain="impression", gate=False, dry_run=dry)).rows == 15
    # Which rows a function gives, and nobody judges, it alone tells.
    made = features.add(
        "some", lambda rows: rows.selectExpr(*KEYS, "1 AS one"), gate=False, missing="null", dry_run=True
    )
    assert (made.rows, made.shown()["columns"]) == (None, ("one",))

    assert features.refresh("age", dry_run=True).up_to_date
    ds.write(make_log([2], first_request=100), gate=False)
    fresh = agrees(lake, lambda dry: features.refresh("age", gate=False, dry_run=dry))
    assert (fresh.rows, fresh.dates, fresh.replaced) == (5, (("2024-01-02", "2024-01-03"),), False)
    ds.backfill(Change(expressions={"country": "'SE'"}), Affected(users=[1]), gate=False)
    assert agrees(lake, lambda dry: features.refresh("age", gate=False, dry_run=dry)).replaced
    if not whole:
        return

    refuses(lake, lambda: features.rename("age", "seen", dry_run=True), UsageError)
    agrees(lake, lambda dry: features.rename("age", "lengths", dry_run=dry))
    assert agrees(lake, lambda dry: features.promote("lengths", dry_run=dry)).rows == 10
    refuses(lake, lambda: features.promote("lengths", dry_run=True), UsageError)
    ds.write(make_log([3], first_request=200), gate=False)
    folded = agrees(lake, lambda dry: features.refresh("lengths", gate=False, dry_run=dry))
    assert (folded.rows, folded.replaced) == (5, True)
    refuses(lake, lambda: features.drop("nobody", dry_run=True), UnknownColumnError)
    agrees(lake, lambda dry: features.drop("seen", dry_run=dry))
    assert list(features()) == ["lengths"]


@pytest.mark.long
@pytest.mark.parametrize("table_format", ICEBERG_DAILY, indirect=True)
def test_samples(ds: Dataset, lake: Settings, make_log: MakeLog, name: str) -> None:
    strata = [{"name": "country", "column": "country"}]
    equal: dict[str, Any] = {"size": 2, "allocation": "equal", "strata": strata}
    refuses(lake, lambda: ds.samples.make("few", size=99, allocation="equal", strata=strata, dry_run=True), UsageError)
    refuses(lake, lambda: ds.samples.drop("half", dry_run=True), UsageError)
    half = agrees(lake, lambda dry: ds.samples.make("half", fraction=0.5, dry_run=dry))
    assert ds.samples.make("half", fraction=0.5, dry_run=True).unchanged
    refuses(lake, lambda: ds.samples.make("half", fraction=0.4, dry_run=True), UsageError)
    agrees(lake, lambda dry: ds.samples.make("few", equal, dry_run=dry))
    ds.write(make_log([2], first_request=100), gate=False)
    for sample in ("half", "few"):
        agrees(lake, lambda dry, sample=sample: ds.samples.refresh(sample, dry_run=dry))
    before = content(lake)
    divided = ds.samples.split({"train": 0.5, "test": 0.5}, dry_run=True)
    ds.samples.drop("few", dry_run=True)
    assert content(lake) == before
    assert [s.model_copy(update={"dry_run": False}) for s in divided] == ds.samples.split({"train": 0.5, "test": 0.5})
    copied = agrees(lake, lambda dry: ds.samples.materialise("half", f"{name}_half", gate=False, dry_run=dry))
    assert (copied.requests, half.users) == (2 * half.users, half.users)


@pytest.mark.long
def test_labels_and_backfills(ds: Dataset, lake: Settings, spark: SparkSession) -> None:
    rows = [(u, u, i, 9, day(3)) for u in range(1, 4) for i in range(2)] + [(1, 1, 77, 9, day(3))]
    late = frame(spark, rows, "user_id bigint, request_id bigint, position int, y int, at timestamp")
    before = content(lake)
    planned = ds.plan_labels(late, "y", "at", "late")
    assert content(lake) == before
    refuses(lake, lambda: ds.plan_labels(late, "country", "at"), UsageError)
    done = ds.merge_labels(late, "y", "at", "late", gate=False)
    assert planned.model_dump(exclude={"backfill"}) == done.model_dump(exclude={"backfill"})
    (told,) = (p for p in done.backfill.planned_and_actual if p.quantity == "rows")
    assert (planned.backfill.affected_rows, planned.backfill.rows_written) == (planned.merged_rows, told.planned)
    again = ds.plan_labels(late, "y", "at", "late")
    assert (again.backfill.published, again.backfill.segments) == (done.version, ())
    other = late.filter("user_id = 1")
    refuses(lake, lambda: ds.plan_labels(other, "y", "at", "late"), UsageError)

    change, who = Change(expressions={"country": "'SE'"}), Affected(users=[1, 2])
    before = content(lake)
    plan = ds.plan_backfill(change, who, run_id="b")
    assert content(lake) == before
    assert (plan.published, plan.resumed_segments, plan.affected_rows) == (None, 0, 2)
    ds.backfill(change, who, run_id="b", gate=False)
    assert ds.plan_backfill(change, who, run_id="b").published == done.version + 1
    refuses(lake, lambda: ds.plan_backfill(change, Affected(users=[3]), run_id="b"), UsageError)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_adoptions(spark: SparkSession, lake: Settings, name: str, tmp_path: Path, kind: str) -> None:
    source = lay(spark, lake, kind, name, tmp_path)
    refuses(lake, lambda: adopt(spark, lake, name, schema(), f"{source}_2", dry_run=True), DedupStorageError)
    found = sorted(tmp_path.rglob("*"))
    planned = agrees(lake, lambda dry: adopt(spark, lake, name, schema(), source, "take", dry_run=dry))
    assert (planned.version, planned.rows) == (0, 30)
    assert planned.files > 1
    assert planned.stored_bytes > 1000
    assert sorted(tmp_path.rglob("*")) == found
    assert adopt(spark, lake, name, schema(), source, "take", dry_run=True).already_published

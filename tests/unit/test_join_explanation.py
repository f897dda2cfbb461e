"""An explanation's text and JSON, without Spark."""

from __future__ import annotations

import io

import pytest
from pydantic import ValidationError
from rich.console import Console

from dedup_storage.dataset.joins.explain import explain_join
from dedup_storage.dataset.joins.explanation import JoinExplanation
from dedup_storage.dataset.joins.model import (
    Cause,
    ExplainedJoin,
    JoinSide,
    PlanStep,
    Reason,
    StepKind,
)
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, ONE_SIDE
from dedup_storage.errors import UsageError
from dedup_storage.lake.scans import ScanSize

SIDE = JoinSide(
    tables=("lake.clicks.requests",), partitions=("event_date", "bucket[16] of user_id"), buckets=16, rows=400_000,
    stored_bytes=21_000_000, row_bytes=640_000_000, files=32, skew=5.25,
)  # fmt: skip
EXPLANATION = JoinExplanation(
    shuffle_free=False,
    verdict="The join moves rows.",
    joins=(
        ExplainedJoin(
            how="left",
            algorithm="SortMergeJoin",
            on=("user_id", "request_id"),
            shuffle_free=False,
            left=SIDE,
            right=JoinSide(tables=()),
            reasons=(
                Reason(cause=Cause.NOT_ICEBERG, text="one side reads no table", fix="Write it."),
                Reason(cause=Cause.SKEW, text="a bucket is large", fix="More buckets.", blocks=False),
            ),
        ),
    ),
    steps=(PlanStep(kind=StepKind.SHUFFLE, detail="by user_id", tables=SIDE.tables, rows=400_000, row_bytes=10**9),),
)


def test_it_is_shown() -> None:
    text = io.StringIO()
    Console(width=200, file=text).print(EXPLANATION)
    lines = text.getvalue()
    for needle in (
        "The join moves rows.", "1. left join on user_id, request_id (SortMergeJoin)", "lake.clicks.requests",
        "event_date, bucket[16] of user_id", "400,000", "21.0 MB", "640.0 MB", "5.2x", "no Iceberg table",
        "moves because: one side reads no table.", "do: Write it.", "note: a bucket is large.", "1.0 GB",
    ):  # fmt: skip
        assert needle in lines, needle


def test_it_is_json_and_comes_back() -> None:
    assert JoinExplanation.model_validate_json(EXPLANATION.model_dump_json()) == EXPLANATION
    with pytest.raises(ValidationError):
        EXPLANATION.verdict = "changed"  # type: ignore[misc]


def test_skew_is_the_largest_bucket_over_the_median() -> None:
    assert ScanSize(1, 1, 1, 1, buckets=(10, 20, 90)).skew == 4.5
    assert ScanSize(1, 1, 1, 1, buckets=(10,)).skew is None
    assert ScanSize(1, 1, 1, 1, buckets=(0, 0, 7)).skew is None


def test_settings_known_to_lose_rows_are_off() -> None:
    off = {
        key.removeprefix("spark.sql.sources.v2.bucketing.") for key, value in BUCKET_JOIN.items() if value == "false"
    }
    assert {"partiallyClusteredDistribution.enabled", "allowJoinKeysSubsetOfPartitionKeys.enabled"} <= off
    assert not set(ONE_SIDE) & set(BUCKET_JOIN)


def test_keys_of_a_query_alone_are_refused() -> None:
    with pytest.raises(UsageError, match="keys are given, and no right side"):
        explain_join("lake.clicks.requests", on="user_id")

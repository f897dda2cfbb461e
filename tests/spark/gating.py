"""A clean dataset for the gate, and the gate over changed copies of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.quality import GateFacts, Verdict, run_gate
from dedup_storage.schema import DateGrain, LogSchema
from tests.audited import AUDITED_SCHEMA, AUDITED_TYPES
from tests.spark.helpers import frame as plain_frame

__all__ = ["FLAT_DDL", "NOON", "USERS", "Gate", "failed", "frame", "spec_of"]


# Identifiers that no count, name or page could hold by chance.
USERS = ("wanda-7f3e", "bruno-91ac")
REQUEST_DDL = (
    "user_id string, request_id bigint, event_date date, ts timestamp, country string, "
    "hist array<bigint>, hist_ts array<timestamp>"
)
IMPRESSION_DDL = "user_id string, request_id bigint, event_date date, position int, item bigint, price double, y int"
FLAT_DDL = REQUEST_DDL + ", position int, item bigint, price double, y int"
SCHEMA = {
    **AUDITED_SCHEMA,
    "checks": {
        "price": {"minimum": 0, "maximum": 10},
        "y": {"allowed": [0, 1], "not_null": True},
        "country": {"allowed": ["DK", "SE"]},
    },
}
NOON = dt.datetime(2024, 1, 2, 12, tzinfo=dt.UTC)
Row = dict[str, Any]


def spec_of(layout: Layout) -> DatasetSpec:
    """The dataset that the frames belong to."""
    schema = LogSchema.from_dict(SCHEMA)
    return DatasetSpec.build("gated", schema, AUDITED_TYPES, layout=layout, date_grain=DateGrain.DAY, buckets=4)


def clean_requests() -> list[Row]:
    """Four requests of two users, with an empty, a missing and two full histories."""
    histories: list[tuple[list[int] | None, list[dt.datetime] | None]] = [
        ([], []),
        (None, None),
        ([1, 2, 3], [NOON - dt.timedelta(hours=h) for h in (3, 2, 1)]),
        ([4], [NOON]),
    ]
    return [
        {
            "user_id": USERS[i // 2],
            "request_id": i,
            "event_date": NOON.date(),
            "ts": NOON,
            "country": "DK",
            "hist": hist,
            "hist_ts": times,
        }
        for i, (hist, times) in enumerate(histories)
    ]


def clean_impressions() -> list[Row]:
    """Three candidates of each request."""
    return [
        {
            "user_id": USERS[i // 2],
            "request_id": i,
            "event_date": NOON.date(),
            "position": p,
            "item": 100 + p,
            "price": 1.5 * p,
            "y": p % 2,
        }
        for i in range(4)
        for p in range(3)
    ]


def frame(spark: SparkSession, rows: list[Row], ddl: str) -> DataFrame:
    """The rows under their schema."""
    names = [column.strip().split(" ")[0] for column in ddl.split(", ")]
    return plain_frame(spark, [tuple(row[n] for n in names) for row in rows], ddl)


class Gate:
    """Runs the gate over changed copies of the clean dataset."""

    def __init__(self, spark: SparkSession, docs: Path) -> None:
        self.spark, self.docs = spark, docs
        self.requests, self.impressions = clean_requests(), clean_impressions()
        self.settings = Settings.model_validate({"quality": {"docs": str(docs)}})

    def own(self, text: str) -> None:
        """Add expectations of the user's own."""
        path = self.docs / "own.yaml"
        path.write_text(text, encoding="utf-8")
        self.settings = Settings.model_validate({"quality": {"docs": str(self.docs), "expectations": str(path)}})

    def split(self, **facts: int) -> Verdict:
        """The verdict on the split dataset."""
        return run_gate(
            spec=spec_of(Layout.SPLIT),
            settings=self.settings,
            run_id="run-1",
            facts=GateFacts(**facts),
            requests=frame(self.spark, self.requests, REQUEST_DDL),
            impressions=frame(self.spark, self.impressions, IMPRESSION_DDL),
        )

    def flat(self, logs: list[Row] | None = None, **facts: int) -> Verdict:
        """The verdict on the flat dataset."""
        return run_gate(
            spec=spec_of(Layout.FLAT),
            settings=self.settings,
            run_id="run-1",
            facts=GateFacts(**facts),
            logs=frame(self.spark, self.logs() if logs is None else logs, FLAT_DDL),
        )

    def logs(self) -> list[Row]:
        """The flat log of both frames."""
        return [{**self.requests[i["request_id"]], **i} for i in self.impressions]


def failed(verdict: Verdict) -> dict[str, int | None]:
    """Failing checks with their counts."""
    return {c.name: c.unexpected_count for c in verdict.failures}

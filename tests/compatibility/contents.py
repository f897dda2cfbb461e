"""What the kept datasets hold, and their rows in a form that can be compared and kept as JSON."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import CatalogSettings, Settings
from dedup_storage.dataset.backfill import Strategy
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import FLAT_TYPES, flat_rows, flat_schema, frame

__all__ = ["CATALOG", "COLUMNS", "KINDS", "USERS", "Kind", "canonical", "plain"]

CATALOG, USERS = "kept", 8
# The log's columns, in its order.
COLUMNS = ("user_id", "request_id", "ts", "country", "hist", "item", "y")


@dataclass(frozen=True)
class Kind:
    """One kept dataset.

    Attributes:
        name: Its name.
        format, layout, date_grain: How it is laid.
        strategy: Of its backfill.
        text_users: Whether user ids are texts.
    """

    name: str
    format: str
    layout: str
    date_grain: str
    strategy: Strategy
    text_users: bool = False

    def user(self, number: int) -> int | str:
        """The id of a user."""
        return f"usér-{number}" if self.text_users else number

    def settings(self, settings: Settings, place: Path) -> Settings:
        """Some settings, for the kept lake under a catalog name of its own."""
        changes = {"warehouse": str(place), "format": self.format, "catalog": CatalogSettings(name=CATALOG)}
        return settings.model_copy(update=changes)

    def log(self, spark: SparkSession, days: list[int], first_request: int = 0, users: int = USERS) -> RawLog:
        """Two impressions for each user and day."""
        rows = flat_rows(days, users=users, candidates=2, first_request=first_request)
        rows = [(self.user(user), *rest) for user, *rest in rows]
        schema = flat_schema(date_grain=self.date_grain, buckets=2)
        return RawLog.from_frame(frame(spark, rows, self._types(FLAT_TYPES)), schema)

    def late(self, spark: SparkSession, rows: list[tuple[int, int, int, int, dt.datetime]]) -> DataFrame:
        """Late labels: user's number, request, item, label, time ``at``."""
        types = self._types("user_id bigint, request_id bigint, item bigint, y int, at timestamp")
        return frame(spark, [(self.user(user), *rest) for user, *rest in rows], types)

    def _types(self, types: str) -> str:
        return types.replace("user_id bigint", "user_id string") if self.text_users else types


KINDS = {
    kind.name: kind
    for kind in (
        Kind("iceberg_split", "iceberg", "split", "day", Strategy.MERGE_ON_READ),
        Kind("iceberg_flat", "iceberg", "flat", "month", Strategy.MERGE_ON_READ, text_users=True),
        Kind("delta_split", "delta", "split", "day", Strategy.OVERWRITE),
    )
}


def plain(value: Any) -> Any:
    """A cell as JSON has it; a moment in UTC."""
    if isinstance(value, dt.datetime):
        # Spark gives moments in this machine's time, without a zone.
        return value.astimezone(dt.UTC).isoformat()
    return list(value) if isinstance(value, (list, tuple)) else value


def canonical(df: DataFrame) -> dict[str, Any]:
    """A frame as JSON has it: columns with their types, and all rows, in an order of their own."""
    rows = [[plain(value) for value in row] for row in df.collect()]
    return {"columns": [list(pair) for pair in df.dtypes], "rows": sorted(rows, key=json.dumps)}

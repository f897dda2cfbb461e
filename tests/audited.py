"""The log that the quality gate's tests audit: two parallel histories, one of them of times."""

from __future__ import annotations

from typing import Any

__all__ = ["AUDITED_SCHEMA", "AUDITED_TYPES"]

AUDITED_TYPES = {
    "user_id": "string",
    "request_id": "bigint",
    "ts": "timestamp",
    "country": "string",
    "hist": "array<bigint>",
    "hist_ts": "array<timestamp>",
    "item": "bigint",
    "price": "double",
    "y": "int",
}
AUDITED_SCHEMA: dict[str, Any] = {
    "user": "user_id",
    "request": "request_id",
    "item": "item",
    "event_time": "ts",
    "labels": "y",
    "columns": {"country": "request", "price": "impression"},
    "sequences": [
        {"column": "hist", "group": "h", "max_length": 3},
        {"column": "hist_ts", "group": "h", "times": True},
    ],
}

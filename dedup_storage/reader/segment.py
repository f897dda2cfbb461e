"""Segments: the partitions that a version's files are grouped by."""

from __future__ import annotations

from typing import Any

__all__ = ["SegmentKey", "segment_text"]

# Partition field and value of each, as ``(("event_date", date), ("bucket[8](user_id)", 3))``.
SegmentKey = tuple[Any, ...]


def segment_text(segment: SegmentKey) -> str:
    """A segment, for messages."""
    return ", ".join(f"{field}={value}" for field, value in segment) or "the whole table"

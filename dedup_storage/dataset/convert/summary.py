"""What a conversion reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ConvertSummary", "PartCheck"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartCheck(_Frozen):
    """One part of a conversion: equal in source and target.

    Attributes:
        part: Event date or month, or user bucket.
        requests, impressions: Rows.
        request_sum, impression_sum: Sums of 64-bit hashes of all values of each row.
    """

    part: str
    requests: int
    impressions: int
    request_sum: int
    impression_sum: int


class ConvertSummary(_Frozen):
    """What a conversion did.

    Attributes:
        source, source_version, source_format, source_layout: What was read.
        target, version, target_format, target_layout, date_grain, buckets: What was written; version 0 for none yet.
        epoch_grain: Layout ``user``: by what the target's events are partitioned beside buckets.
        dry_run: Nothing was done: what would be.
        parts: The parts, each verified by row counts and checksums.
        already_done: How many of them an earlier attempt of the run had written.
        requests, impressions: Rows.
        source_bytes, target_bytes: Stored bytes of both versions.
        features, samples: Feature groups and named samples that came along.
        left: What did not, a sentence each.
        hints: What to do next.
        seconds: Wall time by step.
    """

    source: str
    source_version: int
    source_format: str
    source_layout: str
    target: str
    version: int
    target_format: str
    target_layout: str
    date_grain: str
    buckets: int
    epoch_grain: str | None = None
    run_id: str
    dry_run: bool = False
    parts: tuple[PartCheck, ...] = ()
    already_done: int = 0
    requests: int = 0
    impressions: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    features: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    seconds: dict[str, float] = {}

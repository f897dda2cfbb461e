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
        target, version, target_format, target_layout: What was written.
        parts: The parts, each verified by row counts and checksums.
        already_done: How many of them an earlier attempt of the run had written.
        requests, impressions: Rows.
        source_bytes, target_bytes: Stored bytes of both versions.
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
    run_id: str
    parts: tuple[PartCheck, ...]
    already_done: int
    requests: int
    impressions: int
    source_bytes: int
    target_bytes: int
    seconds: dict[str, float]

"""What maintenance found, did, and gained."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dedup_storage.lake.bundles import BundlePlan
from dedup_storage.lake.upkeep import TableExpiry

__all__ = ["Gain", "LaidAnew", "MaintainSummary"]


class Gain(BaseModel):
    """One table before and after compaction; hidden and unreferenced rows and overlapping files are those of all its
    segments.

    Attributes:
        segments, decayed_segments: Of the table.
        unreferenced_rows_before, unreferenced_rows_after: In layout ``user``, events (or their features) that no
            request of a kept version refers to; what is missing of them afterwards was dropped.
        skipped: Why nothing was rewritten though something has decayed, or was not looked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    segments: int
    decayed_segments: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    hidden_rows_before: int
    hidden_rows_after: int
    overlapping_files_before: int
    overlapping_files_after: int
    unreferenced_rows_before: int = 0
    unreferenced_rows_after: int = 0
    skipped: str | None = None


class LaidAnew(BaseModel):
    """Lists of one sequence group before and after users' lists were laid anew, in layout ``user``.

    Attributes:
        group: The sequence group.
        lists: Lists of requests that are runs of their users' lists.
        runs_before, runs_after: Their runs, all together; equal where nothing is gained by another order.
        users, requests: Whose lists were laid anew.
        events: Copied for that; they take the place of as many, which go when no kept version refers to them.
        event_bytes: Of the copies and of their features; in a dry run about so many.
        skipped: Why nothing was laid anew, or looked at, though there are many runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    lists: int
    runs_before: int
    runs_after: int
    users: int
    requests: int
    events: int
    event_bytes: int
    skipped: str | None = None


class MaintainSummary(BaseModel):
    """What maintenance did; with ``dry_run``, what it would do.

    Attributes:
        dataset, run_id: Which.
        version: The current version afterwards.
        already_published: The run's compaction was published before: nothing was bundled and compacted now.
        compacted: The version of the run's compaction; ``None`` where it compacted nothing.
        dry_run: Nothing was changed.
        bundles: Feature groups that were brought into one table, one entry for each grain that had many.
        runs: In layout ``user`` one entry for each sequence group; none where that step was not taken, or was before.
        compaction: One entry for each table; in a dry run ``after`` repeats ``before``.
        expired_versions, kept_versions: By the policy; kept for their age or number, a pin, or work on them.
        abandoned_branches: Of runs that were stopped long ago and never went on.
        expiry: One entry for each table.
        stored_bytes_before, stored_bytes_after: All files that the tables' snapshots name.
        seconds: Wall time by step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    version: int
    already_published: bool = False
    compacted: int | None = None
    dry_run: bool
    bundles: tuple[BundlePlan, ...] = ()
    runs: tuple[LaidAnew, ...] = ()
    compaction: tuple[Gain, ...] = ()
    expired_versions: tuple[int, ...] = ()
    kept_versions: tuple[int, ...] = ()
    abandoned_branches: tuple[str, ...] = ()
    expiry: tuple[TableExpiry, ...] = ()
    stored_bytes_before: int = 0
    stored_bytes_after: int = 0
    seconds: dict[str, float] = {}

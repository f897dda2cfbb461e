"""What keeps a run's staged snapshots until they are published: a tag on each, from staging on.

A staged snapshot lies on no branch, so any expiry may take it. Its hold keeps it, tells which run it belongs to, and
decides whether it can still be published: the commit that brings it onto main takes the hold away, and so does the
commit that gives the run up. One of the two comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from dedup_storage.lake.iceberg.snapshots import snapshot_summary, tags
from dedup_storage.layout import PROPERTY_PREFIX

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

    from dedup_storage.lake.iceberg.metadata import IcebergMetadata

__all__ = [
    "ATTEMPT",
    "HOLD_PREFIX",
    "Hold",
    "back_tag",
    "deciding_attempt",
    "held",
    "hold_tag",
    "holds",
    "newest_staged",
    "pending_attempt",
]

HOLD_PREFIX = "hold-"
# Iceberg's own name for what publishes a snapshot that was staged.
ATTEMPT = "wap.id"


@dataclass(frozen=True)
class Hold:
    """One held snapshot.

    Attributes:
        table: Its table.
        tag: The hold's name.
        snapshot: What it holds.
        attempt, run_id, job: Of the run that staged it.
        since_ms: When it was staged, in milliseconds since the epoch (UTC).
        rows: Rows that it adds.
    """

    table: str
    tag: str
    snapshot: int
    attempt: str
    run_id: str
    job: str
    since_ms: int
    rows: int


def hold_tag(attempt: str) -> str:
    """The tag that holds what an attempt staged; an attempt's name may hold characters that a tag may not."""
    return HOLD_PREFIX + sha256(attempt.encode()).hexdigest()[:20]


def back_tag(attempt: str) -> str:
    """The tag that holds what a rollback brings back."""
    return hold_tag(attempt) + "-back"


def deciding_attempt(meta: IcebergMetadata, version: int) -> str | None:
    """The attempt that decided a version; ``None`` where its claim is no longer there."""
    staged = meta.claim(version).get("staged")
    claimed = meta.anchor.snapshot_by_id(int(staged)) if staged is not None else None
    return snapshot_summary(claimed).get(ATTEMPT) if claimed is not None else None


def pending_attempt(meta: IcebergMetadata) -> str | None:
    """The attempt whose version is decided and not complete."""
    return None if meta.pending is None else deciding_attempt(meta, meta.pending)


def held(table: Table, attempt: str) -> Snapshot | None:
    """The snapshot that an attempt staged in a table and still holds."""
    snapshot_id = tags(table).get(hold_tag(attempt))
    return table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None


def newest_staged(table: Table, attempt: str) -> Snapshot | None:
    """The newest snapshot that an attempt staged in a table, held or not; a rebased one is newer."""
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot_summary(snapshot).get(ATTEMPT) == attempt:
            return snapshot
    return None


def holds(tables: Mapping[str, Table]) -> Iterator[Hold]:
    """Every hold of a dataset's tables."""
    for name, table in tables.items():
        for tag, snapshot_id in tags(table).items():
            if not tag.startswith(HOLD_PREFIX):
                continue
            snapshot = table.snapshot_by_id(snapshot_id)
            summary = snapshot_summary(snapshot) if snapshot is not None else {}
            yield Hold(
                table=name,
                tag=tag,
                snapshot=snapshot_id,
                attempt=summary.get(ATTEMPT, ""),
                run_id=summary.get(f"{PROPERTY_PREFIX}run-id", ""),
                job=summary.get(f"{PROPERTY_PREFIX}job", ""),
                since_ms=snapshot.timestamp_ms if snapshot is not None else 0,
                rows=int(summary.get("added-records", 0)),
            )

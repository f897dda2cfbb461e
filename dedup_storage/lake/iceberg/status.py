"""What is under way on an Iceberg dataset, from references alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby

from dedup_storage.lake import branch as neutral
from dedup_storage.lake.branch import BRANCH_PREFIX
from dedup_storage.lake.iceberg.holds import back_tag, hold_tag, holds, pending_attempt
from dedup_storage.lake.iceberg.metadata import ABANDONED_PREFIX, IcebergMetadata
from dedup_storage.lake.iceberg.snapshots import ancestors, begun_ms, snapshot_summary, tags
from dedup_storage.lake.status import COMPLETE, GONE, HELD, PublicationStatus, RunAtWork, status_of
from dedup_storage.layout import PROPERTY_PREFIX, version_tag

__all__ = ["iceberg_status"]

_PART = PROPERTY_PREFIX + neutral.PART


def iceberg_status(meta: IcebergMetadata) -> PublicationStatus:
    """The status of a dataset; no data file is opened, no Spark is needed."""
    properties = meta.anchor.properties
    given_up = {v: json.loads(properties[ABANDONED_PREFIX + version_tag(v)]) for v in meta.abandoned}
    return status_of(meta, _states(meta), (*_staged(meta), *_parts(meta)), given_up)


def _states(meta: IcebergMetadata) -> dict[str, str]:
    attempt = pending_attempt(meta)
    members = meta.members(meta.pending) if meta.pending is not None else None
    if meta.pending is None or members is None or attempt is None:
        return {}
    found = {}
    for name in members.staged:
        names = tags(meta.tables[name]) if name in meta.tables else {}
        if version_tag(meta.pending) in names:
            found[name] = COMPLETE
        else:
            found[name] = HELD if hold_tag(attempt) in names or back_tag(attempt) in names else GONE
    return found


def _staged(meta: IcebergMetadata) -> Iterator[RunAtWork]:
    decided = pending_attempt(meta)
    of_runs = (hold for hold in holds(meta.tables) if hold.attempt and hold.attempt != decided)
    for _, group in groupby(sorted(of_runs, key=lambda hold: hold.attempt), key=lambda hold: hold.attempt):
        held = list(group)
        yield RunAtWork(
            run_id=held[0].run_id,
            job=held[0].job,
            tables=tuple(sorted({hold.table for hold in held})),
            holds="rows",
            since_ms=min(hold.since_ms for hold in held),
            rows=sum(hold.rows for hold in held),
        )


def _parts(meta: IcebergMetadata) -> Iterator[RunAtWork]:
    begun: dict[str, list[tuple[str, str, int]]] = {}
    for name, table in meta.tables.items():
        for tag, snapshot_id in tags(table).items():
            if not tag.startswith(BRANCH_PREFIX):
                continue
            parts = [s for s in ancestors(table, snapshot_id) if _PART in snapshot_summary(s)]
            oldest = parts[-1] if parts else table.snapshot_by_id(snapshot_id)
            run_id = snapshot_summary(parts[-1]).get(f"{PROPERTY_PREFIX}run-id", "") if parts else ""
            since = oldest.timestamp_ms if oldest is not None else 0
            begun.setdefault(tag, []).append((name, run_id, begun_ms(table, tag) or since))
    for tag, listed in begun.items():
        yield RunAtWork(
            run_id=next((run_id for _, run_id, _ in listed if run_id), tag),
            job="",
            tables=tuple(sorted(name for name, _, _ in listed)),
            holds="parts",
            since_ms=min(since for _, _, since in listed),
        )

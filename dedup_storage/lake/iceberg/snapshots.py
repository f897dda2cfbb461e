"""What snapshots of an Iceberg table say, as PyIceberg loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = [
    "NO_GROUP",
    "STANDS_FOR",
    "ancestors",
    "begun_ms",
    "begun_property",
    "definition_text",
    "is_empty",
    "live_rows",
    "snapshot_summary",
    "tags",
]

# Of a snapshot that was made anew in place of another one: which.
STANDS_FOR = PROPERTY_PREFIX + "stands-for"
# Of a snapshot that empties a feature group's table: it is made from the one with the definition, and has none.
NO_GROUP = {PROPERTY_PREFIX + DEFINITION: ""}


def begun_property(branch: str) -> str:
    """The property of a table that says when a branch was begun, in milliseconds since the epoch: until its first part
    it names a version's snapshot, which may be old."""
    return f"{PROPERTY_PREFIX}begun.{branch}"


def begun_ms(table: Table, branch: str) -> int:
    """When a branch was begun, 0 where a release that did not say so made it."""
    return int(table.properties.get(begun_property(branch), 0))


def tags(table: Table) -> dict[str, int]:
    """Tag and branch name -> snapshot id."""
    return {name: ref.snapshot_id for name, ref in table.metadata.refs.items()}


def snapshot_summary(snapshot: Snapshot) -> dict[str, str]:
    """A snapshot's summary with its operation."""
    if snapshot.summary is None:
        return {}
    return {"operation": snapshot.summary.operation.value, **snapshot.summary.additional_properties}


def ancestors(table: Table, snapshot_id: int | None) -> list[Snapshot]:
    """The snapshot and those it was made from, newest first, as far as they are kept."""
    by_id = {s.snapshot_id: s for s in table.metadata.snapshots}
    line = []
    while snapshot_id is not None and snapshot_id in by_id:
        snapshot = by_id[snapshot_id]
        line.append(snapshot)
        snapshot_id = snapshot.parent_snapshot_id
    return line


def live_rows(table: Table, snapshot_id: int | None) -> int:
    """Rows of a snapshot, hidden ones left out, from its own counts."""
    snapshot = table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None
    summary = snapshot_summary(snapshot) if snapshot is not None else {}
    return int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0))


def is_empty(table: Table) -> bool:
    """Whether main names no data file, from its own counts."""
    main = table.current_snapshot()
    return main is None or snapshot_summary(main).get("total-data-files") == "0"


def definition_text(table: Table, snapshot_id: int) -> str | None:
    """The definition (JSON) that a snapshot of a feature group's table has, its own or that of the one it was made
    from."""
    key = PROPERTY_PREFIX + DEFINITION
    for snapshot in ancestors(table, snapshot_id):
        summary = snapshot_summary(snapshot)
        picked = summary.get("source-snapshot-id")
        if key not in summary and picked is not None:
            # Iceberg's cherry-pick leaves the picked snapshot's properties behind.
            source = table.snapshot_by_id(int(picked))
            summary = {**summary, **(snapshot_summary(source) if source is not None else {})}
        if key in summary:
            return summary[key]
    return table.properties.get(key) or None

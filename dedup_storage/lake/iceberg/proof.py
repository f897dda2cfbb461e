"""Proves a published Iceberg version whole, from what its claim said: tables, lineage, rows, files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyiceberg.manifest import DataFileContent

from dedup_storage.lake.facts import ERASING
from dedup_storage.lake.iceberg.metadata import IcebergMetadata
from dedup_storage.lake.iceberg.origin import open_access
from dedup_storage.lake.iceberg.snapshots import STANDS_FOR, ancestors, live_rows, snapshot_summary
from dedup_storage.lake.iceberg.whole import live_files, lost_files
from dedup_storage.lake.members import Member
from dedup_storage.lake.wholeness import Damage, StoredFiles
from dedup_storage.layout import PROPERTY_PREFIX

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

__all__ = ["iceberg_damages", "iceberg_files"]


def iceberg_damages(meta: IcebergMetadata, version: int) -> Iterator[Damage]:
    """What is wrong with a version.

    Args:
        meta: The dataset's tables.
        version: A published version.
    """
    snapshots, members = meta.snapshots(version), meta.members(version)
    restored = meta.claim(version).get("kind") == "rollback"
    for name in members.tables if members is not None else ():
        if name not in snapshots:
            yield Damage("tables", name, "the table, tagged with the version", "no such table or tag")
    for name, snapshot_id in snapshots.items():
        table = meta.tables[name]
        member = members.staged.get(name) if members is not None else None
        if member is not None:
            yield from _against_claim(table, name, snapshot_id, member, restored=restored)
        yield from _files(table, name, snapshot_id)
        if version == meta.current:
            yield from _after(table, name, snapshot_id)


def iceberg_files(meta: IcebergMetadata, version: int) -> Iterator[StoredFiles]:
    """Data files of each table of a version."""
    for name, snapshot_id in meta.snapshots(version).items():
        table = meta.tables[name]
        snapshot = table.snapshot_by_id(snapshot_id)
        if snapshot is not None:
            files = (file for file in live_files(table, snapshot) if file.content is DataFileContent.DATA)
            yield StoredFiles(name, {file.file_path: file.record_count for file in files}, open_access(table))


def _against_claim(table: Table, name: str, snapshot_id: int, member: Member, *, restored: bool) -> Iterator[Damage]:
    anew = False
    for snapshot in ancestors(table, snapshot_id):
        summary = snapshot_summary(snapshot)
        if str(member.snapshot) in (str(snapshot.snapshot_id), summary.get("source-snapshot-id")):
            break
        if summary.get("operation") == "replace":
            continue
        if STANDS_FOR in summary:
            # By an erasure, without some rows, whichever snapshot it stands for; or staged again over a compaction,
            # with all of them.
            anew = summary.get(f"{PROPERTY_PREFIX}job") == ERASING or summary[STANDS_FOR] != str(member.snapshot)
            break
        found = f"snapshot {snapshot.snapshot_id} of run {summary.get(f'{PROPERTY_PREFIX}run-id', 'unknown')}"
        yield Damage("lineage", name, f"what was staged as snapshot {member.snapshot}", found)
        return
    rows = live_rows(table, snapshot_id)
    fewer = (anew or restored) and member.total is not None and rows < member.total
    if member.total is not None and rows != member.total and not fewer:
        yield Damage("rows", name, f"{member.total:,} rows", f"{rows:,}")


def _files(table: Table, name: str, snapshot_id: int) -> Iterator[Damage]:
    snapshot = table.snapshot_by_id(snapshot_id)
    files = list(live_files(table, snapshot)) if snapshot is not None else []
    # Deletion vectors of many data files share one file.
    data = [file for file in files if file.content is DataFileContent.DATA]
    for place, found in lost_files(table, _whole_files(files)):
        yield Damage("files", name, f"the file {place}", found)
    hidden = sum(file.record_count for file in files if file.content is not DataFileContent.DATA)
    counted = sum(file.record_count for file in data) - hidden
    if counted != live_rows(table, snapshot_id):
        yield Damage("counts", name, f"{live_rows(table, snapshot_id):,} rows", f"{counted:,} in its files")


def _whole_files(files: list[DataFile]) -> list[DataFile]:
    """Files whose recorded length is the file's own; of a deletion vector it is that of the file it lies in."""
    return list({file.file_path: file for file in files}.values())


def _after(table: Table, name: str, snapshot_id: int) -> Iterator[Damage]:
    """Commits to main after the newest version that change rows: they belong to no version."""
    for snapshot in ancestors(table, table.metadata.current_snapshot_id):
        if snapshot.snapshot_id == snapshot_id:
            return
        summary = snapshot_summary(snapshot)
        if summary.get("operation") != "replace":
            found = f"snapshot {snapshot.snapshot_id} ({summary.get('operation')})"
            yield Damage("main", name, "no commit after the version", found)

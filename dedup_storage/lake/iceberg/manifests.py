"""Manifests that tell of no file but those their snapshot holds.

An ordinary commit lists the files it takes out, with the least and the greatest value of each of their columns. Where
such a value must not stay, as after an erasure, the manifests are written without these entries
(``IcebergTable.rewrite_manifests`` on main, ``IcebergTable.lay_anew`` on a branch).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import ManifestContent, ManifestEntryStatus, ManifestFile
from pyiceberg.table import Table
from pyiceberg.types import PrimitiveType

__all__ = ["BOUND_LENGTH", "lists_removed", "named_files", "removed_bounds"]

# Characters that Iceberg keeps of a text as a bound; the last one of an upper bound is the next after the text's own.
BOUND_LENGTH = 16


def lists_removed(table: Table, snapshot_id: int) -> bool:
    """Whether a snapshot's manifests still list data files that were taken out."""
    return any(manifest.deleted_files_count for manifest in _data_manifests(table, snapshot_id))


def named_files(table: Table, snapshot_ids: Collection[int]) -> dict[str, set[int]]:
    """Places of the data files that snapshots hold -> those of the snapshots; a manifest they share is read once."""
    read: dict[str, list[str]] = {}
    found: dict[str, set[int]] = {}
    for snapshot_id in snapshot_ids:
        for manifest in _data_manifests(table, snapshot_id):
            if manifest.manifest_path not in read:
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                read[manifest.manifest_path] = [entry.data_file.file_path for entry in entries]
            for place in read[manifest.manifest_path]:
                found.setdefault(place, set()).add(snapshot_id)
    return found


def removed_bounds(table: Table, snapshot_ids: Collection[int], column: str) -> set[str]:
    """The least and the greatest values of a column, as texts, that manifests give of files that were taken out."""
    field = table.schema().find_field(column)
    manifests = {m.manifest_path: m for s in snapshot_ids for m in _data_manifests(table, s) if m.deleted_files_count}
    found: set[str] = set()
    for manifest in manifests.values():
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
            if entry.status is not ManifestEntryStatus.DELETED:
                continue
            for bounds in (entry.data_file.lower_bounds, entry.data_file.upper_bounds):
                if bounds and field.field_id in bounds:
                    found.add(str(from_bytes(cast(PrimitiveType, field.field_type), bounds[field.field_id])))
    cut = {text for text in found if len(text) == BOUND_LENGTH}
    return found | {text[:-1] + chr(max(ord(text[-1]) - 1, 0)) for text in cut}


def _data_manifests(table: Table, snapshot_id: int) -> Iterator[ManifestFile]:
    snapshot = table.snapshot_by_id(snapshot_id)
    for manifest in snapshot.manifests(table.io) if snapshot is not None else ():
        if manifest.content is ManifestContent.DATA:
            yield manifest

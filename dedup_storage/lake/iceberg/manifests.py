"""Manifests that tell of no file but those their snapshot holds.

An ordinary commit lists the files it takes out, with the least and the greatest value of each of their columns. Where
such a value must not stay, as after an erasure, the manifests are written without these entries
(``IcebergTable.rewrite_manifests`` on main, ``IcebergTable.lay_anew`` on a branch).
"""

from __future__ import annotations

from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table

__all__ = ["lists_removed"]


def lists_removed(table: Table, snapshot_id: int) -> bool:
    """Whether a snapshot's manifests still list data files that were taken out."""
    snapshot = table.snapshot_by_id(snapshot_id)
    manifests = snapshot.manifests(table.io) if snapshot is not None else []
    return any(m.content is ManifestContent.DATA and m.deleted_files_count for m in manifests)

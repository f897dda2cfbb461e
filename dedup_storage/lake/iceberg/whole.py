"""Whether the files that a snapshot names are there, with their lengths: other tools may have removed some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pyiceberg.manifest import ManifestEntryStatus

from dedup_storage.lake.iceberg.metadata import IcebergMetadata
from dedup_storage.lake.runs import files_lost

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["added_files", "live_files", "lost_files", "refuse_lost_files"]

# Requests at a time to an object store that answers each in some 20 ms.
_THREADS = 16


def added_files(table: Table, snapshot: Snapshot) -> Iterator[DataFile]:
    """Files that a snapshot added itself, deletion vectors among them."""
    for manifest in snapshot.manifests(table.io):
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            if entry.status is ManifestEntryStatus.ADDED:
                yield entry.data_file


def live_files(table: Table, snapshot: Snapshot) -> Iterator[DataFile]:
    """Files that a snapshot holds, deletion vectors among them."""
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def lost_files(table: Table, files: Iterable[DataFile]) -> list[tuple[str, str]]:
    """Files that are not there as they were written: place, and what was found."""
    lengths = {file.file_path: file.file_size_in_bytes for file in files}

    def found(place: str) -> str | None:
        try:
            length = len(table.io.new_input(place))
        except FileNotFoundError:
            return "no file"
        return None if length == lengths[place] else f"{length:,} bytes instead of {lengths[place]:,}"

    with ThreadPoolExecutor(_THREADS) as pool:
        listed = list(zip(lengths, pool.map(found, lengths), strict=True))
    return [(place, text) for place, text in listed if text is not None]


def refuse_lost_files(meta: IcebergMetadata, name: str, staged: Snapshot, run_id: str) -> None:
    """Refuse to decide a version whose files another tool removed.

    Raises:
        StorageError: names the first file.
    """
    table = meta.tables[name]
    lost = lost_files(table, added_files(table, staged))
    if lost:
        raise files_lost(f"{meta.spec.name}.{name}", run_id, lost)

"""Proves a published Delta version whole: tables, rows, files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pyiceberg.io import load_file_io

from dedup_storage.errors import StorageError
from dedup_storage.lake.credentials import FileAccess
from dedup_storage.lake.delta.files import LiveFiles, live_files
from dedup_storage.lake.delta.metadata import HARMLESS, DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import changed_files
from dedup_storage.lake.wholeness import Damage, StoredFiles

__all__ = ["delta_damages", "delta_files"]


def delta_damages(meta: DeltaMetadata, version: int) -> Iterator[Damage]:
    """What is wrong with a version.

    Args:
        meta: The dataset's tables.
        version: A published version.
    """
    snapshots, rows, members = meta.snapshots(version), meta.rows(version), meta.members(version)
    for name in members.tables if members is not None else ():
        if name not in snapshots:
            yield Damage("tables", name, "the table, named by the version", "no such table")
    for name, number in snapshots.items():
        ref = meta.tables.get(name)
        if ref is None:
            yield Damage("tables", name, "the table", "no such table")
            continue
        try:
            files = live_files(ref, number)
        except StorageError as error:
            yield Damage("lineage", name, f"the table at Delta version {number}", error.what)
            continue
        if name in rows and files.rows != rows[name]:
            yield Damage("rows", name, f"{rows[name]:,} rows", f"{files.rows:,}")
        yield from _lost(ref, name, files)
        if version == meta.current:
            yield from _after(meta, ref, name, number)


def _lost(ref: DeltaRef, name: str, files: LiveFiles) -> Iterator[Damage]:
    # An adopted table names files where they lie, all others lie in its own folder.
    folders: dict[str, dict[str, int]] = {}
    for path, size in zip(files.paths, files.table["size_bytes"].to_pylist(), strict=True):
        place = ref.place(path)
        inside = place.startswith(f"{ref.uri}/")
        folder = ref.uri if inside else place.rpartition("/")[0]
        folders.setdefault(folder, {})[place[len(folder) + 1 :]] = size
    for folder, sizes in folders.items():
        for path, size in changed_files(folder, sizes, ref.store).items():
            found = "no file" if size is None else f"{size:,} bytes instead of {sizes[path]:,}"
            yield Damage("files", name, f"the file {path if folder == ref.uri else f'{folder}/{path}'}", found)


def delta_files(meta: DeltaMetadata, version: int) -> Iterator[StoredFiles]:
    """Data files of each table of a version; a table whose log lacks the version is told by ``delta_damages``."""
    for name, number in meta.snapshots(version).items():
        ref = meta.tables.get(name)
        if ref is None:
            continue
        try:
            files = live_files(ref, number)
        except StorageError:
            continue
        rows = dict(zip(map(ref.place, files.paths), files.table["num_records"].to_pylist(), strict=True))
        yield StoredFiles(name, rows, FileAccess(partial(load_file_io, location=ref.uri), ref.store))


def _after(meta: DeltaMetadata, ref: DeltaRef, name: str, number: int) -> Iterator[Damage]:
    """Commits after the newest version that change rows: they belong to no version."""
    undone = [tables[name] for tables in meta.versions.undone.values() if name in tables]
    table, known = ref.load(), max((number, *undone))
    newer = table.history(table.version() - known) if table.version() > known else []
    for entry in newer:
        if not str(entry.get("operation", "")).startswith(HARMLESS):
            yield Damage("main", name, "no commit after the version", f"{entry.get('operation')}")

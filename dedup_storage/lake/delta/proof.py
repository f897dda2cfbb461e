"""Proves a published Delta version whole: tables, rows, files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.errors import StorageError
from dedup_storage.lake.delta.files import LiveFiles, live_files
from dedup_storage.lake.delta.metadata import HARMLESS, DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import open_folder
from dedup_storage.lake.wholeness import Damage

__all__ = ["delta_damages"]

_THREADS = 16


def delta_damages(meta: DeltaMetadata, version: int, *, deep: bool) -> Iterator[Damage]:
    """What is wrong with a version.

    Args:
        meta: The dataset's tables.
        version: A published version.
        deep: Open every file's footer too.
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
        if deep:
            yield from _footers(ref, name, files)
        if version == meta.current:
            yield from _after(meta, ref, name, number)


def _lost(ref: DeltaRef, name: str, files: LiveFiles) -> Iterator[Damage]:
    for path, size in zip(files.paths, files.table["size_bytes"].to_pylist(), strict=True):
        filesystem, place = open_folder(ref.place(path), ref.store)
        info = filesystem.get_file_info(place)
        if not info.is_file or info.size != size:
            found = f"{info.size:,} bytes instead of {size:,}" if info.is_file else "no file"
            yield Damage("files", name, f"the file {path}", found)


def _footers(ref: DeltaRef, name: str, files: LiveFiles) -> Iterator[Damage]:
    listed = list(zip(files.paths, files.table["num_records"].to_pylist(), strict=True))

    def check(file: tuple[str, int]) -> str | None:
        path, rows = file
        filesystem, place = open_folder(ref.place(path), ref.store)
        try:
            with filesystem.open_input_file(place) as stream:
                found = pq.read_metadata(stream).num_rows
        except FileNotFoundError:
            return None  # told already
        except (OSError, pa.ArrowException) as error:
            return f"a footer that cannot be read: {str(error).splitlines()[0][:120]}"
        return None if found == rows else f"{found:,} rows instead of {rows:,}"

    with ThreadPoolExecutor(_THREADS) as pool:
        for (path, _), text in zip(listed, pool.map(check, listed), strict=True):
            if text is not None:
                yield Damage("footers", name, f"the rows of the file {path}", text)


def _after(meta: DeltaMetadata, ref: DeltaRef, name: str, number: int) -> Iterator[Damage]:
    """Commits after the newest version that change rows: they belong to no version."""
    undone = [tables[name] for tables in meta.versions.undone.values() if name in tables]
    table, known = ref.load(), max((number, *undone))
    newer = table.history(table.version() - known) if table.version() > known else []
    for entry in newer:
        if not str(entry.get("operation", "")).startswith(HARMLESS):
            yield Damage("main", name, "no commit after the version", f"{entry.get('operation')}")

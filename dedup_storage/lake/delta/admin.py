"""Delta datasets as wholes, without Spark: pin, drop, rename. A dataset is a folder; its events say when it is gone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.admin import RECENT_MS, Admin, DropSummary, RenameSummary, delete_if_empty
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.stage import RUNS_FOLDER, STAGED_FOLDER
from dedup_storage.lake.delta.status import delta_status
from dedup_storage.lake.delta.versions import VERSIONS_TABLE
from dedup_storage.lake.folders import child_folders, delete_folder, list_files
from dedup_storage.lake.status import PublicationStatus

__all__ = ["DeltaAdmin", "open_admin"]


class DeltaAdmin(Admin[DeltaMetadata]):
    """The ``Admin`` of Delta."""

    format = "delta"

    def __init__(self, lake: DeltaLake) -> None:
        self.lake: DeltaLake = lake

    @property
    def _store(self) -> Mapping[str, str]:
        return self.lake.settings.catalog.properties

    def status(self, name: str) -> PublicationStatus:
        """What is under way on a dataset."""
        return delta_status(self.lake, self.load(name))

    def location(self, name: str) -> str:
        """Where the dataset's tables lie."""
        return self.lake.uri(name)

    def _pin(self, meta: DeltaMetadata, version: int, label: str) -> None:
        self.lake.log(meta.spec.name).pin(version, label)

    def _unpin(self, meta: DeltaMetadata, version: int, label: str) -> None:
        self.lake.log(meta.spec.name).unpin(version, label)

    def busy(self, meta: DeltaMetadata) -> list[str]:
        """What shows that runs are at work on a dataset, or were stopped there."""
        root = self.lake.uri(meta.spec.name)
        found = [] if meta.pending is None else [f"version {meta.pending} is decided and not complete"]
        names = child_folders(f"{root}/{RUNS_FOLDER}", self._store)
        runs = [n for n in names if any(self.lake.is_table(f"{root}/{RUNS_FOLDER}/{n}/{t}") for t in meta.tables)]
        if runs:
            found.append(f"runs are at work or were stopped ({', '.join(runs)})")
        since = (time.time_ns() // 1_000_000 - RECENT_MS) * 1_000_000
        staged = [f for f in list_files(f"{root}/{STAGED_FOLDER}", self._store) if f.mtime_ns >= since]
        if staged:
            tables = {f.base_name.removesuffix(".json") for f in staged if f.base_name.endswith(".json")}
            found.append(f"rows are staged and not published (in {', '.join(sorted(tables))})")
        return found

    # -- drop ---------------------------------------------------------------------------------------------------

    def drop(self, name: str, *, force: bool = False, dry_run: bool = False) -> DropSummary:
        """See ``Admin``."""
        meta = self.lake.find(name)
        kept: tuple[str, ...] = ()
        if meta is not None:
            self._refuse_busy(meta, force, "dropped")
            self._refuse_pinned(meta, force)
            kept = _foreign_folders(meta)
            if dry_run:
                return self._remove(name, tuple(meta.tables), kept, dry_run=True)
            self.lake.log(name).drop(list(meta.tables))
            reached("drop:begun")
        return self._remove(name, self._half_dropped(name), kept, dry_run=dry_run)

    def _half_dropped(self, name: str) -> tuple[str, ...]:
        """Tables of a dataset whose drop was begun."""
        root = self.lake.uri(name)
        folders = child_folders(root, self._store)
        if VERSIONS_TABLE not in folders:
            raise self.lake.missing(name)
        try:
            dropped = self.lake.log(name).load().dropped
        except StorageError:
            if folders != [VERSIONS_TABLE]:
                raise
            # The events went last, and the drop was stopped amid them.
            return ()
        if dropped is None:
            raise self.lake.missing(name)
        return dropped

    def _remove(self, name: str, tables: Iterable[str], kept: tuple[str, ...], *, dry_run: bool = False) -> DropSummary:
        """Remove the folders, that of the events last: until it is gone, the drop can be finished."""
        root = self.lake.uri(name)
        folders = [f"{root}/{n}" for n in (*tables, STAGED_FOLDER, RUNS_FOLDER, VERSIONS_TABLE)]
        there = set(child_folders(root, self._store))
        removed = tuple(f for f in folders if f.rsplit("/", 1)[1] in there)
        summary = DropSummary(dataset=name, tables=tuple(tables), folders=removed, kept=kept, dry_run=dry_run)
        if dry_run:
            return summary
        for folder in folders:
            delete_folder(folder, self._store)
            reached(f"drop:{folder.rsplit('/', 1)[1]}")
        # What else lies in the folder is not the dataset's.
        delete_if_empty(root, self._store)
        return summary

    # -- rename -------------------------------------------------------------------------------------------------

    def rename(self, name: str, new_name: str, *, force: bool = False, dry_run: bool = False) -> RenameSummary:
        """See ``Admin``; one step, where the warehouse is a local folder."""
        self._check_names(name, new_name)
        meta = self.lake.load(name)
        warehouse = self.lake.settings.local_warehouse
        if warehouse is None:
            raise UsageError(
                "a dataset of format delta cannot be renamed on an object store, where no folder moves in one step",
                expected="a local warehouse",
                fix=f"Write {new_name} with dedup-storage convert, then drop {name}.",
            )
        self._refuse_busy(meta, force, "renamed")
        target = Path(warehouse) / new_name
        if target.exists():
            raise self._taken(new_name)
        if not dry_run:
            # Tables name their files by places inside their own folders.
            (Path(warehouse) / name).rename(target)
        return RenameSummary(dataset=new_name, former=name, tables=tuple(meta.tables), dry_run=dry_run)


def _foreign_folders(meta: DeltaMetadata) -> tuple[str, ...]:
    """Folders of a log that was adopted: its files lie outside the table's own folder."""
    if not meta.spec.adopted:
        return ()
    ref = meta.anchor
    places = {ref.place(path) for path in live_files(ref, ref.load().version()).paths}
    return tuple(sorted({p.rsplit("/", 1)[0] for p in places if not p.startswith(f"{ref.uri}/")}))


def open_admin(settings: Settings) -> DeltaAdmin:
    """What lists, describes, pins, drops and renames the Delta datasets of a warehouse."""
    return DeltaAdmin(DeltaLake(settings))

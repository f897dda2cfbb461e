"""Iceberg datasets as wholes, without Spark: pin, drop, rename.

A catalog moves and drops one table at a time. So the first commit takes the description out of the anchor table, and
from then on there is no dataset for anyone; what is to be done stands in its place. A dataset that is renamed is there
again with the last commit, whole. Whoever finds a job half done finishes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, StorageError, VersionNotFoundError
from dedup_storage.faults import reached
from dedup_storage.lake.admin import RECENT_MS, Admin, DropSummary, RenameSummary, delete_if_empty
from dedup_storage.lake.branch import BRANCH_PREFIX
from dedup_storage.lake.folders import delete_folder
from dedup_storage.lake.history import version_expired
from dedup_storage.lake.iceberg.catalog import is_scratch
from dedup_storage.lake.iceberg.commit import TableChange, change_table, commits, require_commits
from dedup_storage.lake.iceberg.holds import holds, pending_attempt
from dedup_storage.lake.iceberg.metadata import DROPPED, RENAMED, IcebergMetadata, Lake
from dedup_storage.lake.iceberg.snapshots import ancestors, snapshot_summary, tags
from dedup_storage.lake.iceberg.status import iceberg_status
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.layout import SPEC_PROPERTY, DatasetSpec, claim_tag, version_tag

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["IcebergAdmin", "open_admin"]


class IcebergAdmin(Admin[IcebergMetadata]):
    """The ``Admin`` of Iceberg."""

    format = "iceberg"

    def __init__(self, lake: Lake) -> None:
        self.lake: Lake = lake

    @property
    def commits(self) -> bool:
        """Whether the catalog takes commits without Spark."""
        return commits(self.lake.settings)

    @property
    def _store(self) -> Mapping[str, str]:
        return self.lake.settings.catalog.properties

    def status(self, name: str) -> PublicationStatus:
        """What is under way on a dataset."""
        return iceberg_status(self.load(name))

    def location(self, name: str) -> str:
        """Where the table that describes a dataset lies."""
        return str(self.lake.load(name).anchor.location())

    # -- pins ---------------------------------------------------------------------------------------------------

    def _pin(self, meta: IcebergMetadata, version: int, label: str) -> None:
        require_commits(self.lake.settings, "pinning a version")
        tag = f"pin-{version_tag(version)}-{label}"

        def plan(table: Table) -> TableChange | None:
            if tag in tags(table):
                return None
            snapshot = tags(table).get(version_tag(version))
            if snapshot is None:
                raise version_expired(meta.spec.name, version)
            return TableChange(tags={tag: snapshot})

        # The anchor last: a version counts as pinned when every table is.
        try:
            for table in reversed(meta.snapshots(version)):
                change_table(self.lake.catalog, (meta.spec.name, table), plan)
                reached(f"pin:{table}")
        except VersionNotFoundError:
            self._unpin(meta, version, label)
            raise

    def _unpin(self, meta: IcebergMetadata, version: int, label: str) -> None:
        require_commits(self.lake.settings, "unpinning a version")
        tag = f"pin-{version_tag(version)}-{label}"
        # The anchor last: until then the label is listed, and unpinning again finishes.
        for table in reversed(meta.snapshots(version)):
            change_table(
                self.lake.catalog,
                (meta.spec.name, table),
                lambda loaded: TableChange(untag=(tag,)) if tag in tags(loaded) else None,
            )
            reached(f"unpin:{table}")

    # -- who is at work -----------------------------------------------------------------------------------------

    def busy(self, meta: IcebergMetadata) -> list[str]:
        """What shows that runs are at work on a dataset, or were stopped there."""
        found = [] if meta.pending is None else [f"version {meta.pending} is decided and not complete"]
        branches = {name for table in meta.tables.values() for name in tags(table) if name.startswith(BRANCH_PREFIX)}
        if branches:
            found.append(f"runs are at work or were stopped ({', '.join(sorted(branches))})")
        attempts = {attempt for table in meta.tables.values() for attempt in _staged(table)}
        attempts |= {hold.attempt for hold in holds(meta.tables) if hold.attempt != pending_attempt(meta)}
        if attempts:
            found.append(f"rows are staged and not published ({', '.join(sorted(attempts))})")
        return found

    # -- drop ---------------------------------------------------------------------------------------------------

    def drop(self, name: str, *, force: bool = False, dry_run: bool = False) -> DropSummary:
        """See ``Admin``."""
        require_commits(self.lake.settings, "dropping a dataset")
        meta = self.lake.find(name)
        if meta is not None:
            self._refuse_busy(meta, force, "dropped")
            self._refuse_pinned(meta, force)
            contents = _contents(meta)
            for table, folder in contents["tables"].items():
                self._refuse_shared(name, table, folder)
            if dry_run:
                return _dropped(name, contents, dry_run=True)
            self._replace_spec(meta, {DROPPED: json.dumps(contents)})
            reached("drop:begun")
        record, remove = self._record(name, DROPPED), self._remove
        if record is None:
            rest, remove = self._namespace(name).get(DROPPED), self._remove_rest
            if rest is None:
                raise self.lake.missing(name)
            record = json.loads(rest)
        if not dry_run:
            remove(name, record)
        return _dropped(name, record, dry_run=dry_run)

    def _remove(self, name: str, record: Mapping[str, Any]) -> None:
        """Remove the tables, the anchor last; it remembers the others' folders."""
        anchor = record["anchor"]
        for table, folder in record["tables"].items():
            if table != anchor:
                self._remove_table(name, table, folder)
                reached(f"drop:{table}")
        # From here on the namespace remembers the anchor's folder.
        rest = {**record, "tables": {anchor: record["tables"][anchor]}}
        self.lake.catalog.update_namespace_properties((name,), updates={DROPPED: json.dumps(rest)})
        self._remove_rest(name, rest)

    def _remove_rest(self, name: str, record: Mapping[str, Any]) -> None:
        anchor = record["anchor"]
        self._remove_table(name, anchor, record["tables"][anchor])
        reached("drop:anchor")
        self._remove_namespace(name)

    def _remove_table(self, name: str, table: str, folder: str | None) -> None:
        """Remove a table from the catalog, then its folder; the other way round, others would find it torn."""
        from pyiceberg.exceptions import NoSuchTableError

        self._refuse_shared(name, table, folder)
        store = self._store
        # A drop that was stopped may have done it.
        with suppress(NoSuchTableError):
            # The catalog may vend the keys of the table's folder, and does so as long as it knows the table.
            store = self.lake.catalog.load_table((name, table)).io.properties
            self.lake.catalog.drop_table((name, table))
        reached(f"drop:entry-{table}")
        if folder is not None:
            delete_folder(folder, store)
            delete_if_empty(folder.rsplit("/", 1)[0], store)

    def _refuse_shared(self, name: str, table: str, folder: str | None) -> None:
        """Another table may lie in the same folder: one that was renamed, and one that was made under its old name."""
        from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
        from sqlalchemy import select

        if folder is None or not isinstance(self.lake.catalog, SqlCatalog):
            return
        columns = (IcebergTables.table_namespace, IcebergTables.table_name)
        query = select(*columns).where(IcebergTables.metadata_location.startswith(f"{folder}/", autoescape=True))
        with self.lake.catalog.engine.connect() as connection:
            found = [(space, other) for space, other in connection.execute(query)]
        others = [".".join(identifier) for identifier in found if identifier != (name, table)]
        if others:
            raise StorageError(
                f"the folder {folder} of {name}.{table} holds the table {others[0]} too",
                fix="Move that table's files to a folder of its own first.",
            )

    def _remove_namespace(self, name: str) -> None:
        """Remove the namespace, unless it holds tables of others."""
        catalog = self.lake.catalog
        self._remove_scratch(name)
        if catalog.list_tables((name,)):
            catalog.update_namespace_properties((name,), removals={DROPPED})
        else:
            catalog.drop_namespace((name,))

    def _remove_scratch(self, name: str) -> None:
        """Remove the tables that trials of the catalog left in a namespace."""
        from pyiceberg.exceptions import NoSuchTableError

        for *_, table in self.lake.catalog.list_tables((name,)):
            if is_scratch(table):
                with suppress(NoSuchTableError):
                    self._remove_table(name, table, self.lake.catalog.load_table((name, table)).location().rstrip("/"))

    # -- rename -------------------------------------------------------------------------------------------------

    def rename(self, name: str, new_name: str, *, force: bool = False, dry_run: bool = False) -> RenameSummary:
        """See ``Admin``."""
        self._check_names(name, new_name)
        require_commits(self.lake.settings, "renaming a dataset")
        meta = self.lake.find(name)
        if meta is not None:
            self._refuse_busy(meta, force, "renamed")
            self._refuse_taken(new_name, meta)
            if dry_run:
                return RenameSummary(dataset=new_name, former=name, tables=tuple(meta.tables), dry_run=True)
            record = {**_contents(meta), "from": name, "to": new_name, "spec": meta.original.to_json()}
            self._replace_spec(meta, {RENAMED: json.dumps(record)})
            reached("rename:begun")
        found = self._record(name, RENAMED) or self._record(new_name, RENAMED)
        if found is None or (found["from"], found["to"]) != (name, new_name):
            raise self.lake.missing(name)
        if not dry_run:
            self._move(found)
        return RenameSummary(dataset=new_name, former=name, tables=tuple(found["tables"]), dry_run=dry_run)

    def _refuse_taken(self, new_name: str, meta: IcebergMetadata) -> None:
        from pyiceberg.exceptions import NoSuchNamespaceError

        try:
            there = {identifier[-1] for identifier in self.lake.catalog.list_tables((new_name,))}
        except NoSuchNamespaceError:
            return
        if self.lake.find(new_name) is not None:
            raise self._taken(new_name)
        if there & meta.tables.keys():
            raise self._taken(new_name, there & meta.tables.keys())

    def _move(self, record: Mapping[str, Any]) -> None:
        """Move what is not moved yet, the anchor last; then the description comes back."""
        from pyiceberg.exceptions import NamespaceNotEmptyError, NoSuchNamespaceError, NoSuchTableError

        catalog, name, new_name, anchor = self.lake.catalog, record["from"], record["to"], record["anchor"]
        catalog.create_namespace_if_not_exists((new_name,))
        for table in (*(t for t in record["tables"] if t != anchor), anchor):
            try:
                catalog.rename_table((name, table), (new_name, table))
            except (NoSuchTableError, NoSuchNamespaceError):
                # Moved by a rename that was stopped.
                catalog.load_table((new_name, table))
            reached(f"rename:{table}")
        spec = DatasetSpec.from_json(record["spec"]).model_copy(update={"name": new_name})
        there = {SPEC_PROPERTY: spec.to_json()}
        change_table(
            catalog,
            (new_name, anchor),
            lambda table: TableChange(set=there, remove=(RENAMED,)) if RENAMED in table.properties else None,
        )
        # It may hold tables of others, or be gone since a rename that was stopped.
        with suppress(NamespaceNotEmptyError, NoSuchNamespaceError):
            self._remove_scratch(name)
            catalog.drop_namespace((name,))

    # -- what is half done --------------------------------------------------------------------------------------

    def _replace_spec(self, meta: IcebergMetadata, record: Mapping[str, str]) -> None:
        """Take the description out of the anchor, and put what is to be done in its place: one commit."""

        def plan(table: Table) -> TableChange:
            if SPEC_PROPERTY not in table.properties or tags(table) != tags(meta.anchor):
                raise ConflictError(
                    f"another process changed the dataset {meta.spec.name} in the same moment",
                    fix="Nothing was changed by this one. Run again.",
                )
            return TableChange(set=record, remove=(SPEC_PROPERTY,), absent=(claim_tag(meta.current + 1),))

        change_table(self.lake.catalog, (meta.spec.name, meta.spec.anchor.name), plan)

    def _record(self, name: str, key: str) -> dict[str, Any] | None:
        """What stands in the place of a dataset's description."""
        table = self.lake.half_done(name, key)
        return None if table is None else json.loads(table.properties[key])

    def _namespace(self, name: str) -> Mapping[str, str]:
        from pyiceberg.exceptions import NoSuchNamespaceError

        try:
            found: Mapping[str, str] = self.lake.catalog.load_namespace_properties((name,))
        except NoSuchNamespaceError:
            return {}
        return found


def _dropped(name: str, record: Mapping[str, Any], *, dry_run: bool) -> DropSummary:
    tables, kept = record["tables"], (record["kept"],) if record["kept"] else ()
    folders = tuple(filter(None, tables.values()))
    return DropSummary(dataset=name, tables=tuple(tables), folders=folders, kept=kept, dry_run=dry_run)


def _contents(meta: IcebergMetadata) -> dict[str, Any]:
    """A dataset's anchor, its tables with the folders that are their own, and where a log that was adopted stays."""
    anchor = meta.spec.anchor.name
    folders: dict[str, str | None] = {name: table.location().rstrip("/") for name, table in meta.tables.items()}
    kept = None
    if meta.spec.adopted:
        folders[anchor], kept = None, meta.anchor.metadata_location
    return {"anchor": anchor, "tables": folders, "kept": kept}


def _staged(table: Table) -> set[str]:
    """Attempts of the last day whose staged rows are in no version."""
    since = time.time_ns() // 1_000_000 - RECENT_MS
    main = ancestors(table, table.metadata.current_snapshot_id)
    held = {s.snapshot_id for s in main} | {int(snapshot_summary(s).get("source-snapshot-id", 0)) for s in main}
    held |= set(tags(table).values())
    attempts = {s.snapshot_id: snapshot_summary(s).get("wap.id", "") for s in table.metadata.snapshots}
    # A replacement that was staged again leaves its first snapshot behind.
    published = {attempts[snapshot_id] for snapshot_id in held & attempts.keys()}
    return {
        attempts[s.snapshot_id]
        for s in table.metadata.snapshots
        if s.timestamp_ms >= since and s.snapshot_id not in held and attempts[s.snapshot_id] not in {"", *published}
    }


def open_admin(settings: Settings) -> IcebergAdmin:
    """What lists, describes, pins, drops and renames the Iceberg datasets of a catalog."""
    return IcebergAdmin(Lake(settings))

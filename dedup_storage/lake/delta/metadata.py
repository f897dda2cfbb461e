"""What is known of a dataset of Delta tables, read with ``deltalake``: no Spark, no data files.

There is no catalog server: a dataset is a folder of the warehouse with a folder for each table, and the table of
events that makes its versions (``delta_versions``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date
from functools import cached_property

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetNotFoundError, StorageError
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.delta.changes import delta_changed_cells, delta_stored_cells, files_without, of_today
from dedup_storage.lake.delta.events import Versions
from dedup_storage.lake.delta.files import live_files, touched_files
from dedup_storage.lake.delta.layout import generated_columns
from dedup_storage.lake.delta.opened import opened_tables
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.versions import VERSIONS_TABLE, VersionLog
from dedup_storage.lake.facts import CHANGED, ROWS_KEPT, concerns
from dedup_storage.lake.folders import child_folders, is_delta_table
from dedup_storage.lake.history import ANCHORS, Added, Catalog, DatasetMetadata, FileShare, Totals, no_dataset
from dedup_storage.lake.members import Members
from dedup_storage.lake.stored_users import StoredUsers
from dedup_storage.lake.stores import check_store, delta_options
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec
from dedup_storage.schema import check_name

__all__ = ["DESCRIBED", "HARMLESS", "MEMBERS", "TABLE_FACTS", "DeltaLake", "DeltaMetadata", "open_lake"]

# Facts of a claim: what it says of its tables, as JSON; the dataset's description from there on, where it changed.
MEMBERS, DESCRIBED = "members", "dataset"
# What a version says of single tables' changes, in the body of its event: table -> facts.
TABLE_FACTS = "facts"
# Operations of Delta's history that change no row.
HARMLESS = (
    "OPTIMIZE",
    "REORG",
    "VACUUM",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "ADD COLUMNS",
    "ADD CONSTRAINT",
    "DROP CONSTRAINT",
    "DROP FEATURE",
    "REMOVE COLUMN MAPPING",
    "UPGRADE PROTOCOL",
    "DOMAIN METADATA",
    "Deletion Vector Tombstones",
    "Empty Commit",
)


class DeltaMetadata(DatasetMetadata):
    """A dataset's Delta tables: versions are events, each naming the Delta version of every table."""

    def __init__(self, spec: DatasetSpec, tables: Mapping[str, DeltaRef], versions: Versions) -> None:
        super().__init__(spec, tables)
        self.versions = versions

    @cached_property
    def version_numbers(self) -> list[int]:
        """See ``DatasetMetadata``."""
        return sorted(self.versions.published)

    @property
    def pending(self) -> int | None:
        """See ``DatasetMetadata``."""
        newest = max(self.versions.claims, default=0)
        return newest if newest and newest not in self.versions.published and newest > self.current else None

    @property
    def decided(self) -> Mapping[str, int]:
        """Attempt -> the version that it decided, complete or not; those of abandoned versions are left out."""
        return {facts["attempt"]: v for v, facts in self.versions.claims.items() if "attempt" in facts}

    @property
    def abandoned(self) -> Mapping[int, bool]:
        """See ``DatasetMetadata``."""
        return {version: version in self.versions.undone for version in self.versions.abandoned}

    @property
    def descriptions(self) -> Mapping[int, str]:
        """See ``DatasetMetadata``."""
        return {version: facts[DESCRIBED] for version, facts in self.versions.claims.items() if DESCRIBED in facts}

    def members(self, version: int) -> Members | None:
        """See ``DatasetMetadata``."""
        text = self.versions.claims.get(version, {}).get(MEMBERS)
        return Members.from_json(text) if text else None

    def snapshots(self, version: int) -> dict[str, int]:
        """Table name -> Delta version, anchor first."""
        found = self.versions.published.get(version, {}).get("snapshots", {})
        return dict(sorted(found.items(), key=lambda item: item[0] != self.spec.anchor.name))

    @property
    def identity(self) -> str:
        """See ``DatasetMetadata``; the anchor's."""
        return str(self.anchor.load().metadata().id)

    @property
    def erasures(self) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        return self.versions.erasures

    def properties(self, table: str) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        found: Mapping[str, str] = self.tables[table].properties
        return found

    def location(self, table: str) -> str:
        """See ``DatasetMetadata``."""
        return str(self.tables[table].uri)

    def claim(self, version: int) -> dict[str, str]:
        """See ``DatasetMetadata``."""
        facts = dict(self.versions.claims.get(version, {}))
        members = self.members(version)
        for key in (MEMBERS, DESCRIBED):
            facts.pop(key, None)
        return facts if members is None else {"parent": str(members.parent), **facts}

    def rows(self, version: int) -> dict[str, int]:
        """See ``DatasetMetadata``."""
        return dict(self.versions.published.get(version, {}).get("rows", {}))

    def definition(self, version: int, table: str) -> str | None:
        """See ``DatasetMetadata``."""
        found: str | None = self.versions.published.get(version, {}).get("definitions", {}).get(table)
        return found

    def changed_cells(self, table: str, old: int | None, new: int, columns: Collection[str] | None = None) -> set[Cell]:
        """See ``DatasetMetadata``; from the files that came and went, where no version between says more."""
        new = self.versions.today(table, new)
        old = self.versions.today(table, old) if old is not None else None
        try:
            return self._changed(table, old, new, columns)
        except StorageError:
            # An erasure cut the log before the oldest version kept: what is not known may all be new.
            if not self.versions.moves:
                raise
            return {Cell(None, None, None)}

    def _changed(self, table: str, old: int | None, new: int, columns: Collection[str] | None) -> set[Cell]:
        ref, spec = self.tables[table], self.spec.partitioned(table)
        steps = self._steps(table, old, new) if old is not None else []
        if not any(said for _, said in steps):
            return delta_changed_cells(ref, spec, old, new)
        found: set[Cell] = set()
        for snapshot, said in steps:
            if not concerns(said, columns):
                continue
            if CHANGED in said:
                found |= of_today(ref, spec, snapshot, (Cell.from_list(v) for v in json.loads(said[CHANGED])))
            elif ROWS_KEPT not in said:
                # Each publication is one Delta version; what other tools did before it moved rows and changed none.
                found |= delta_changed_cells(ref, spec, snapshot - 1, snapshot)
        return found

    def _steps(self, table: str, old: int, new: int) -> list[tuple[int, Mapping[str, str]]]:
        """What each version between two snapshots of a table says of its change; nothing, where one has expired."""
        of = {v: body["snapshots"][table] for v, body in self.versions.published.items() if table in body["snapshots"]}
        first = [v for v, snapshot in of.items() if snapshot == old]
        last = [v for v, snapshot in of.items() if snapshot == new]
        if not first or not last:
            return []
        between = range(max(first) + 1, min(last) + 1)
        if not all(v in of for v in between):
            return []
        said = {v: self.versions.published[v].get(TABLE_FACTS, {}).get(table, {}) for v in between}
        return [(of[v], said[v]) for v in between if of[v] != of[v - 1]]

    def stored_cells(self, table: str, snapshot_id: int) -> set[Cell]:
        """See ``DatasetMetadata``."""
        return delta_stored_cells(self.tables[table], self.spec.partitioned(table), snapshot_id)

    def columns(self, table: str, snapshot_id: int) -> tuple[str, ...]:
        """See ``DatasetMetadata``."""
        made = generated_columns(self.spec)
        fields = self.tables[table].load(snapshot_id).schema().fields
        return tuple(field.name for field in fields if field.name not in made)

    def totals(self, table: str, snapshot_id: int) -> Totals:
        """See ``DatasetMetadata``."""
        files = live_files(self.tables[table], snapshot_id)
        return Totals(files=files.table.num_rows, bytes=files.size_bytes, rows=files.rows)

    def added(self, table: str, snapshot_id: int) -> Added:
        """See ``DatasetMetadata``; each publication is one Delta version."""
        ref = self.tables[table]
        after = live_files(ref, snapshot_id)
        try:
            before = live_files(ref, max(snapshot_id - 1, 0))
        except StorageError:
            if not self.versions.moves:
                raise
            # The oldest version that an erasure kept: what was before it is not known any more.
            before = after
        new, old = files_without(after, before), files_without(before, after)
        places = {tuple(p.items()) for p in (*new.partitions, *old.partitions)}
        return Added(segments=len(places), rows=new.rows, bytes=new.size_bytes)

    def is_free(self, table: str) -> bool:
        """See ``DatasetMetadata``."""
        named = any(table in body.get("snapshots", {}) for body in self.versions.published.values())
        return not named and not live_files(self.tables[table]).paths

    def pins(self, version: int) -> tuple[str, ...]:
        """See ``DatasetMetadata``."""
        return tuple(sorted(self.versions.pins.get(version, ())))

    @property
    def samples(self) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        return self.versions.samples

    @property
    def stored_users(self) -> StoredUsers:
        """See ``DatasetMetadata``."""
        return StoredUsers(self.tables, self.versions.tags)

    def share_of_files(
        self, table: str, snapshot_id: int, dates: tuple[date | None, date | None], buckets: Collection[int]
    ) -> FileShare:
        """See ``DatasetMetadata``."""
        every = live_files(self.tables[table], snapshot_id)
        kept = every.where(touched_files(self.spec, every.table, *dates, buckets or None)) if every.paths else every
        return FileShare(len(kept.paths), len(every.paths), kept.size_bytes, every.size_bytes)

    def may_hold(self, table: str, snapshot_id: int, first: date, last: date) -> bool:
        """See ``DatasetMetadata``."""
        every = live_files(self.tables[table], snapshot_id)
        return bool(every.paths and every.where(touched_files(self.spec, every.table, first, last, None)).paths)

    def kept(self, table: str, without: Collection[int] = ()) -> set[int]:
        """Delta versions of a table that a version, unless it is among those left out, or a tag names."""
        named = {
            self.snapshots(n)[table] for n in self.version_numbers if n not in without and table in self.snapshots(n)
        }
        return named | {snapshot for (name, _), snapshot in self.versions.tags.items() if name == table}


class DeltaLake:
    """The warehouse of one configuration, seen through ``deltalake``.

    Attributes:
        settings: The configuration.
        options: Of ``deltalake``.
        opened: What opens the warehouse's tables, each version once.
    """

    sets_level = False

    def __init__(self, settings: Settings) -> None:
        check_store(settings)
        self.settings = settings
        self.options = delta_options(settings.catalog.properties)
        self.opened = opened_tables(self.options, settings.catalog.properties)

    def uri(self, dataset: str, table: str | None = None) -> str:
        """Folder of a dataset, or of one of its tables."""
        place = f"{self.settings.warehouse_uri.rstrip('/')}/{check_name(dataset, 'dataset name')}"
        return place if table is None else f"{place}/{table}"

    def log(self, dataset: str) -> VersionLog:
        """The dataset's table of events."""
        return VersionLog(self.uri(dataset), self.options, self.opened)

    def _folders(self, uri: str) -> list[str]:
        return child_folders(uri, self.settings.catalog.properties)

    def is_table(self, uri: str) -> bool:
        """Whether a folder is a Delta table."""
        return is_delta_table(uri, self.settings.catalog.properties)

    def ref(self, dataset: str, table: str) -> DeltaRef:
        """One table."""
        uri = self.uri(dataset, table)
        properties = self.opened.load(uri).metadata().configuration
        return DeltaRef(table, uri, properties, self.options, self.settings.catalog.properties, self.opened)

    def state(self, table: str) -> int | None:
        """The newest version of any Delta table of the warehouse that changed its rows, ``namespace.table``."""
        namespace, _, name = table.partition(".")
        uri = self.uri(check_name(namespace, "namespace"), check_name(name, "table name"))
        if not self.is_table(uri):
            return None
        history = self.opened.load(uri).history()
        changed = [int(e["version"]) for e in history if not str(e.get("operation", "")).startswith(HARMLESS)]
        return max(changed, default=None)

    def datasets(self) -> list[str]:
        """Names of the datasets in the warehouse."""
        root = self.settings.warehouse_uri.rstrip("/")
        found = [name for name in self._folders(root) if self.is_table(f"{root}/{name}/{VERSIONS_TABLE}")]
        return [name for name in found if self.log(name).load().dropped is None]

    def find(self, dataset: str) -> DeltaMetadata | None:
        """A dataset's tables, or ``None`` when there is no such dataset."""
        root = self.uri(dataset)
        if not self.is_table(f"{root}/{VERSIONS_TABLE}"):
            return None
        # The events are read after the tables: a version never names a table that was not seen.
        names = [n for n in self._folders(root) if n != VERSIONS_TABLE and self.is_table(f"{root}/{n}")]
        found = {name: self.ref(dataset, name) for name in names}
        spec = self._spec(dataset, found)
        if spec is None:
            return None
        versions = self.log(dataset).load()
        if versions.dropped is not None:
            return None
        late = {n for body in versions.published.values() for n in body.get("snapshots", {})} - found.keys()
        found |= {name: self.ref(dataset, name) for name in sorted(late)}
        return DeltaMetadata(spec, {n: t for n, t in found.items() if ROLE_PROPERTY in t.properties}, versions)

    def spec(self, dataset: str) -> DatasetSpec | None:
        """A dataset's description, from its anchor's log alone; ``None`` when there is no such dataset."""
        root = self.uri(dataset)
        return self._spec(dataset, {n: self.ref(dataset, n) for n in ANCHORS if self.is_table(f"{root}/{n}")})

    def _spec(self, dataset: str, tables: Mapping[str, DeltaRef]) -> DatasetSpec | None:
        described = (tables[n].properties.get(SPEC_PROPERTY) for n in ANCHORS if n in tables)
        text = next((found for found in described if found is not None), None)
        if text is None:
            return None
        spec = DatasetSpec.from_json(text)
        # The folder may have been renamed.
        return spec if spec.name == dataset else spec.model_copy(update={"name": dataset})

    def load(self, dataset: str) -> DeltaMetadata:
        """A dataset's tables.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        found = self.find(dataset)
        if found is None:
            raise self.missing(dataset)
        return found

    def missing(self, dataset: str) -> DatasetNotFoundError:
        """The error for a dataset that is not there, or was left half dropped."""
        half = self.is_table(self.uri(dataset, VERSIONS_TABLE)) and self.log(dataset).load().dropped is not None
        way_out = f"A drop was stopped. Finish it: dedup-storage datasets drop {dataset}." if half else None
        return no_dataset(dataset, self.settings, self.datasets(), way_out)


def open_lake(settings: Settings) -> Catalog:
    """The warehouse of a configuration."""
    return DeltaLake(settings)

"""What the catalog knows of a dataset of Iceberg tables, read with PyIceberg: no Spark, no data files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, LessThanOrEqual
from pyiceberg.transforms import BucketTransform

from dedup_storage.config import CatalogType, Settings
from dedup_storage.errors import DatasetNotFoundError, StorageError
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.folders import holds_anything
from dedup_storage.lake.history import (
    ANCHORS,
    Added,
    Catalog,
    DatasetMetadata,
    FileShare,
    Totals,
    VersionInfo,
    no_dataset,
)
from dedup_storage.lake.iceberg.catalog import CATALOG_FILE, open_catalog
from dedup_storage.lake.iceberg.changes import changed_cells, stored_cells
from dedup_storage.lake.iceberg.snapshots import ancestors, definition_text, is_empty, live_rows, snapshot_summary, tags
from dedup_storage.lake.iceberg.tables import member_tables
from dedup_storage.lake.iceberg.users import iceberg_users
from dedup_storage.lake.members import Members
from dedup_storage.lake.stored_users import StoredUsers, sample_records
from dedup_storage.layout import (
    PROPERTY_PREFIX,
    SPEC_PROPERTY,
    DatasetSpec,
    TableRole,
    claim_tag,
    parse_version_tag,
    version_tag,
)
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog as TableCatalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

__all__ = [
    "DatasetMetadata",
    "IcebergMetadata",
    "Lake",
    "VersionInfo",
    "ancestors",
    "finish_adoption",
    "live_rows",
    "open_lake",
    "snapshot_summary",
    "tags",
]

EXPIRED_PREFIX = PROPERTY_PREFIX + "expired."
# Of the anchor table: what a version's claim says of its tables; that a version is given up, and whether whole.
MEMBERS_PREFIX, ABANDONED_PREFIX = PROPERTY_PREFIX + "members.", PROPERTY_PREFIX + "abandoned."
# Of the anchor table: the dataset's description from a version on, where it changed; decided with the version's claim.
DESCRIBED_PREFIX = SPEC_PROPERTY + "."
# Of the anchor table: what is kept of an erasure, by its run.
ERASURE_PREFIX = PROPERTY_PREFIX + "erasure."
# What stands in an anchor table in place of the dataset's description while it is dropped or renamed, as JSON.
DROPPED, RENAMED = PROPERTY_PREFIX + "dropped", PROPERTY_PREFIX + "renamed"
# Of a log's table that is adopted, as JSON: from what place, as which dataset, by which attempt. It is there first.
ADOPTED = PROPERTY_PREFIX + "adopted"


class IcebergMetadata(DatasetMetadata):
    """A dataset's Iceberg tables: versions are tags, facts lie in snapshots' summaries."""

    @cached_property
    def version_numbers(self) -> list[int]:
        """See ``DatasetMetadata``."""
        found = (parse_version_tag(tag) for tag in tags(self.anchor))
        return sorted(n for n in found if n is not None)

    @property
    def pending(self) -> int | None:
        """See ``DatasetMetadata``."""
        return self.following if claim_tag(self.following) in tags(self.anchor) else None

    @cached_property
    def abandoned(self) -> Mapping[int, bool]:
        """See ``DatasetMetadata``."""
        found = {
            parse_version_tag(key.removeprefix(ABANDONED_PREFIX)): bool(json.loads(text)["whole"])
            for key, text in self.anchor.properties.items()
            if key.startswith(ABANDONED_PREFIX)
        }
        return {version: whole for version, whole in found.items() if version is not None}

    @property
    def descriptions(self) -> Mapping[int, str]:
        """See ``DatasetMetadata``."""
        found = {
            parse_version_tag(key.removeprefix(DESCRIBED_PREFIX)): text
            for key, text in self.anchor.properties.items()
            if key.startswith(DESCRIBED_PREFIX)
        }
        return {version: text for version, text in found.items() if version is not None}

    def members(self, version: int) -> Members | None:
        """See ``DatasetMetadata``."""
        text = self.anchor.properties.get(MEMBERS_PREFIX + version_tag(version))
        return Members.from_json(text) if text else None

    def snapshots(self, version: int) -> dict[str, int]:
        """See ``DatasetMetadata``; a tag on a table that the version's claim does not name is none of the version's."""
        tag, members = version_tag(version), self.members(version)
        names = self.tables if members is None else [name for name in members.tables if name in self.tables]
        found = {name: tags(self.tables[name])[tag] for name in names if tag in tags(self.tables[name])}
        return dict(sorted(found.items(), key=lambda item: item[0] != self.spec.anchor.name))

    @property
    def identity(self) -> str:
        """See ``DatasetMetadata``; the anchor's."""
        return str(self.anchor.metadata.table_uuid)

    @property
    def erasures(self) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        kept = {k: v for k, v in self.anchor.properties.items() if k.startswith(ERASURE_PREFIX)}
        return {key.removeprefix(ERASURE_PREFIX): text for key, text in kept.items()}

    def properties(self, table: str) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        found: Mapping[str, str] = self.tables[table].properties
        return found

    def location(self, table: str) -> str:
        """See ``DatasetMetadata``."""
        return str(self.tables[table].location())

    def claim(self, version: int) -> dict[str, str]:
        """See ``DatasetMetadata``."""
        staged = tags(self.anchor).get(claim_tag(version))
        snapshot = self.anchor.snapshot_by_id(staged) if staged is not None else None
        if snapshot is None:
            # What maintenance remembered of an expired version.
            facts = json.loads(self.anchor.properties.get(EXPIRED_PREFIX + version_tag(version), "{}"))
            return {str(key): str(value) for key, value in facts.items()}
        facts = {
            key.removeprefix(PROPERTY_PREFIX): value
            for key, value in snapshot_summary(snapshot).items()
            if key.startswith(PROPERTY_PREFIX)
        }
        members = self.members(version)
        parent = {} if members is None else {"parent": str(members.parent)}
        return {**parent, **facts, "staged": str(staged), "created-ms": str(snapshot.timestamp_ms)}

    def rows(self, version: int) -> dict[str, int]:
        """See ``DatasetMetadata``."""
        rows = {}
        for name, snapshot_id in self.snapshots(version).items():
            snapshot = self.tables[name].snapshot_by_id(snapshot_id)
            if snapshot is not None and "total-records" in snapshot_summary(snapshot):
                rows[name] = live_rows(self.tables[name], snapshot_id)
        return rows

    def definition(self, version: int, table: str) -> str | None:
        """See ``DatasetMetadata``."""
        return definition_text(self.tables[table], tags(self.tables[table])[version_tag(version)])

    def changed_cells(self, table: str, old: int | None, new: int, columns: Collection[str] | None = None) -> set[Cell]:
        """See ``DatasetMetadata``."""
        return changed_cells(self.tables[table], self.spec.partitioned(table), old, new, columns)

    def stored_cells(self, table: str, snapshot_id: int) -> set[Cell]:
        """See ``DatasetMetadata``."""
        return stored_cells(self.tables[table], self.spec.partitioned(table), snapshot_id)

    def columns(self, table: str, snapshot_id: int) -> tuple[str, ...]:
        """See ``DatasetMetadata``."""
        stored = self.tables[table]
        snapshot = stored.snapshot_by_id(snapshot_id)
        own = stored.schemas().get(snapshot.schema_id) if snapshot and snapshot.schema_id is not None else None
        return tuple(field.name for field in (own or stored.schema()).fields)

    def totals(self, table: str, snapshot_id: int) -> Totals:
        """See ``DatasetMetadata``."""
        summary = self._summary(table, snapshot_id)
        return Totals(
            files=int(summary.get("total-data-files", 0)),
            bytes=int(summary.get("total-files-size", 0)),
            rows=live_rows(self.tables[table], snapshot_id),
        )

    def added(self, table: str, snapshot_id: int) -> Added:
        """See ``DatasetMetadata``."""
        summary = self._summary(table, snapshot_id)
        return Added(
            segments=int(summary.get("changed-partition-count", 0)),
            rows=int(summary.get("added-records", 0)),
            bytes=int(summary.get("added-files-size", 0)),
            marks=int(summary.get("added-dvs", 0)),
        )

    def _summary(self, table: str, snapshot_id: int) -> dict[str, str]:
        snapshot = self.tables[table].snapshot_by_id(snapshot_id)
        return snapshot_summary(snapshot) if snapshot is not None else {}

    def is_free(self, table: str) -> bool:
        """See ``DatasetMetadata``."""
        stored = self.tables[table]
        named = any(parse_version_tag(t) is not None or t.startswith("pin-") for t in tags(stored))
        return not named and is_empty(stored)

    def pins(self, version: int) -> tuple[str, ...]:
        """See ``DatasetMetadata``."""
        pin = f"pin-v{version}-"
        return tuple(sorted(t.removeprefix(pin) for t in tags(self.anchor) if t.startswith(pin)))

    @property
    def samples(self) -> Mapping[str, str]:
        """See ``DatasetMetadata``."""
        return sample_records(self.anchor.properties)

    @property
    def stored_users(self) -> StoredUsers:
        """See ``DatasetMetadata``."""
        return iceberg_users(self.tables)

    def share_of_files(
        self, table: str, snapshot_id: int, dates: tuple[date | None, date | None], buckets: Collection[int]
    ) -> FileShare:
        """See ``DatasetMetadata``."""
        loaded, where = self.tables[table], self._of_dates(*dates)
        every = [task.file for task in loaded.scan(snapshot_id=snapshot_id).plan_files()]
        dated = every
        if not isinstance(where, AlwaysTrue):
            dated = [task.file for task in loaded.scan(where, snapshot_id=snapshot_id).plan_files()]
        kept = [file for file in dated if not buckets or _in_buckets(loaded, file, buckets)]
        sizes = [sum(file.file_size_in_bytes for file in files) for files in (kept, every)]
        return FileShare(len(kept), len(every), *sizes)

    def may_hold(self, table: str, snapshot_id: int, first: date, last: date) -> bool:
        """See ``DatasetMetadata``."""
        found = self.tables[table].scan(self._of_dates(first, last), snapshot_id=snapshot_id).plan_files()
        return next(iter(found), None) is not None

    def _of_dates(self, first: date | None, last: date | None) -> BooleanExpression:
        """The condition that event dates lie between two; ``None`` is no bound."""
        column = self.spec.event_date_column
        where: BooleanExpression = AlwaysTrue()
        if column is not None and first is not None:
            where = And(where, GreaterThanOrEqual(term=column, value=first.isoformat()))
        if column is not None and last is not None:
            where = And(where, LessThanOrEqual(term=column, value=last.isoformat()))
        return where


def _in_buckets(table: Table, file: DataFile, buckets: Collection[int]) -> bool:
    for place, field in enumerate(table.metadata.specs()[file.spec_id].fields):
        if isinstance(field.transform, BucketTransform):
            return file.partition[place] in buckets
    return True


class Lake:
    """The catalog of one configuration, seen through PyIceberg."""

    sets_level = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def catalog(self) -> TableCatalog:
        """The PyIceberg catalog.

        Raises:
            StorageError: it cannot be reached.
        """
        return open_catalog(self.settings)

    @property
    def begun(self) -> bool:
        """Whether anything was ever written; reading an embedded catalog that is not there must not make one."""
        folder = self.settings.local_warehouse
        if self.settings.catalog.type is not CatalogType.SQLITE or folder is None:
            return True
        return (folder / CATALOG_FILE).is_file()

    def datasets(self) -> list[str]:
        """Names of the datasets in the catalog."""
        if not self.begun:
            return []
        return sorted(
            ".".join(namespace)
            for namespace in self.catalog.list_namespaces()
            if self._anchor(".".join(namespace), SPEC_PROPERTY)
        )

    def _anchor(self, dataset: str, key: str) -> Table | None:
        """The table that may describe a dataset and has a property."""
        from pyiceberg.exceptions import NoSuchTableError

        for name in ANCHORS:
            try:
                table = self.catalog.load_table((dataset, name))
            except NoSuchTableError:
                continue
            if key in table.properties:
                return table
        return None

    def half_done(self, dataset: str, key: str) -> Table | None:
        """The anchor of a dataset whose drop or rename (``key``) was begun and is not done."""
        return self._anchor(check_name(dataset, "dataset name"), key) if self.begun else None

    def half_adopted(self, dataset: str) -> Mapping[str, str] | None:
        """What the table says that an adoption left under a dataset's name: ``kind``, ``from``, ``to``, ``attempt``. It
        was stopped before there was a dataset, or is at work."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            table = self.catalog.load_table((dataset, TableRole.LOGS.value)) if self.begun else None
        except NoSuchTableError:
            return None
        if table is None or ADOPTED not in table.properties or SPEC_PROPERTY in table.properties:
            return None
        record: Mapping[str, str] = json.loads(table.properties[ADOPTED])
        # A table that is to become another dataset's may have this name until it is moved.
        return record if record["to"] == dataset else None

    def find(self, dataset: str) -> IcebergMetadata | None:
        """A dataset's tables, or ``None`` when there is no such dataset."""
        check_name(dataset, "dataset name")
        anchor = self._anchor(dataset, SPEC_PROPERTY) if self.begun else None
        if anchor is None:
            return None
        spec = _described(anchor, dataset)
        tables = {spec.anchor.name: anchor}
        return IcebergMetadata(spec, tables | member_tables(self.catalog, dataset, but=tables))

    def description(self, dataset: str) -> DatasetSpec:
        """A dataset's description alone, which one table has.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        anchor = self._anchor(check_name(dataset, "dataset name"), SPEC_PROPERTY) if self.begun else None
        if anchor is None:
            raise self.missing(dataset)
        return _described(anchor, dataset)

    def place_of_new(self, dataset: str, table: str) -> str | None:
        """Where a new table has to lie, ``None`` for where the catalog puts it.

        A dataset that was renamed leaves its files in the folder of its old name. Two tables in one folder would remove
        each other's files as orphans.
        """
        from pyiceberg.exceptions import NoSuchNamespaceError

        try:
            home = self.catalog.load_namespace_properties((dataset,)).get("location")
        except NoSuchNamespaceError:
            home = None
        if home is None and self.settings.names_warehouse:
            # The server alone knows where its warehouse is.
            return None
        place = f"{(home or f'{self.settings.warehouse_uri}/{dataset}').rstrip('/')}/{table}"
        try:
            taken = holds_anything(place, self.settings.catalog.properties)
        except (StorageError, OSError):
            # A store that only the catalog has the keys of keeps its tables apart itself.
            return None
        return f"{place}-{uuid.uuid4().hex[:8]}" if taken else None

    def state(self, table: str) -> int | None:
        """The newest snapshot of a table that changed its rows, as ``namespace.table``; ``None`` where there is none.

        Compaction by whatever tool is passed over.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            found = self.catalog.load_table(tuple(table.split(".")))
        except NoSuchTableError:
            return None
        line = ancestors(found, found.metadata.current_snapshot_id)
        changed = [s for s in line if snapshot_summary(s).get("operation") != "replace"] or line[-1:]
        return changed[0].snapshot_id if changed else None

    def load(self, dataset: str) -> IcebergMetadata:
        """A dataset's tables.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        found = self.find(dataset)
        if found is None:
            raise self.missing(dataset)
        return found

    def missing(self, dataset: str) -> DatasetNotFoundError:
        """The error for a dataset that is not there, or was left half done."""
        return no_dataset(dataset, self.settings, self.datasets(), self._way_out(dataset))

    def _way_out(self, dataset: str) -> str | None:
        if self.half_done(dataset, DROPPED) is not None:
            return f"A drop was stopped. Finish it: dedup-storage datasets drop {dataset}."
        adopted = self.half_adopted(dataset)
        if adopted is not None:
            return finish_adoption(dataset, adopted)
        renamed = self.half_done(dataset, RENAMED)
        if renamed is None:
            return None
        record = json.loads(renamed.properties[RENAMED])
        return f"A rename was stopped. Finish it: dedup-storage datasets rename {record['from']} {record['to']}."


def _described(anchor: Table, dataset: str) -> DatasetSpec:
    """What a dataset's anchor says of it."""
    spec = DatasetSpec.from_json(anchor.properties[SPEC_PROPERTY])
    # Renamed by the catalog's own means, it may still say another name.
    return spec if spec.name == dataset else spec.model_copy(update={"name": dataset})


def finish_adoption(dataset: str, record: Mapping[str, str]) -> str:
    """What to do about an adoption that was stopped, given its record."""
    return (
        f"An adoption was stopped. Finish it: dedup-storage adopt {record['from']} --dataset {dataset} --schema FILE."
    )


def open_lake(settings: Settings) -> Catalog:
    """The catalog of a configuration."""
    return Lake(settings)

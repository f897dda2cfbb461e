"""Opening one version of a dataset without Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table
from sqlalchemy.exc import OperationalError

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, DatasetNotFoundError, StorageError, VersionNotFoundError, known_names
from dedup_storage.lake.delta.layout import generated_columns
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
from dedup_storage.lake.iceberg.snapshots import definition_text
from dedup_storage.lake.iceberg.users import iceberg_users
from dedup_storage.lake.stored_users import StoredUsers, sample_records
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, TableRole, parse_version_tag, version_tag
from dedup_storage.reader.retry import with_retries
from dedup_storage.schema import check_name

__all__ = ["Cut", "CutTable", "open_cut"]


@dataclass(frozen=True)
class CutTable:
    """One table at the snapshot that a version names.

    Attributes:
        name, role: Which table.
        table: As PyIceberg or ``deltalake`` finds it.
        snapshot_id: Iceberg's snapshot or Delta's version.
        definition: Feature group that the table holds, as JSON.
        generated: Columns that the format makes for its partitions, no columns of the log.
    """

    name: str
    role: TableRole
    table: Table | DeltaRef
    snapshot_id: int
    definition: str | None = None
    generated: frozenset[str] = frozenset()

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties now."""
        return self.table.properties

    @property
    def iceberg(self) -> Table:
        """The table, where it is known to be an Iceberg table."""
        if isinstance(self.table, DeltaRef):
            raise ConfigError(f"the table {self.name} is no Iceberg table", got=self.table.uri)
        return self.table


@dataclass(frozen=True)
class Cut:
    """One version of a dataset: a snapshot of each of its tables.

    Attributes:
        spec: The dataset's description.
        version: Its number.
        tables: The tables by name, feature groups included.
        samples: Named sample -> its record, of the dataset and no version.
        users: The stored users of named samples.
    """

    spec: DatasetSpec
    version: int
    tables: dict[str, CutTable]
    samples: Mapping[str, str] = field(default_factory=dict)
    users: StoredUsers = field(default_factory=StoredUsers)

    @property
    def snapshots(self) -> dict[str, int]:
        """Snapshot id by table name."""
        return {name: t.snapshot_id for name, t in sorted(self.tables.items())}

    def by_role(self, role: TableRole) -> tuple[CutTable, ...]:
        """Tables of one role, by name."""
        return tuple(t for _, t in sorted(self.tables.items()) if t.role is role)


def open_cut(name: str, settings: Settings, version: int | None = None) -> Cut:
    """Find a dataset and the snapshots of one of its versions.

    Args:
        name: The dataset.
        settings: Where its catalog is.
        version: Version number; ``None`` takes the newest.

    Raises:
        DatasetNotFoundError: the catalog has no dataset of that name.
        VersionNotFoundError: the dataset has no such version.
        StorageError: the catalog cannot be read.
    """
    check_name(name, "dataset name")
    if settings.format == "delta":
        return _delta_cut(name, settings, version)
    try:
        catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
        loaded = _load_tables(catalog, name)
        known = sorted(n[0] for n in catalog.list_namespaces()) if not loaded else []
    except OperationalError as error:
        raise StorageError(
            f"the catalog {settings.catalog.name} cannot be read: {error.orig}", fix="Check catalog and warehouse."
        ) from error
    anchors = [t for t in loaded.values() if SPEC_PROPERTY in t.properties]
    if not anchors:
        raise DatasetNotFoundError(
            f"there is no dataset {name} in the catalog {settings.catalog.name}",
            expected=known_names(name, known),
            fix="Name one of these, or write it first.",
        )
    anchor = anchors[0]
    spec = DatasetSpec.from_json(anchor.properties[SPEC_PROPERTY])
    number = _pick_version(spec, anchor, version)
    tables = {}
    for table_name, table in loaded.items():
        role = table.properties.get(ROLE_PROPERTY)
        reference = table.metadata.refs.get(version_tag(number))
        if role is None or reference is None or role == TableRole.QUARANTINE:
            continue
        definition = definition_text(table, reference.snapshot_id) if role == TableRole.FEATURES else None
        tables[table_name] = CutTable(table_name, TableRole(role), table, reference.snapshot_id, definition)
    for needed in spec.tables:
        if needed.name not in tables:
            raise VersionNotFoundError(
                f"version {number} of {name} lacks the table {needed.name}",
                expected=f"a tag {version_tag(number)} on every table",
                fix="Run the job that wrote it again; it completes the version.",
            )
    samples = sample_records(anchor.properties)
    return Cut(spec=spec, version=number, tables=tables, samples=samples, users=iceberg_users(loaded))


@with_retries
def _delta_cut(name: str, settings: Settings, version: int | None) -> Cut:
    meta = DeltaLake(settings).load(name)
    number = meta.resolve(version)
    tables = {}
    for table, snapshot_id in meta.snapshots(number).items():
        role = TableRole(meta.role(table) or "")
        if role is not TableRole.QUARANTINE:
            hidden = frozenset(generated_columns(meta.spec))
            definition = meta.definition(number, table)
            tables[table] = CutTable(table, role, meta.tables[table], snapshot_id, definition, hidden)
    return Cut(spec=meta.spec, version=number, tables=tables, samples=meta.samples, users=meta.stored_users)


@with_retries
def _load_tables(catalog: Catalog, name: str) -> dict[str, Table]:
    try:
        identifiers = catalog.list_tables(name)
    except NoSuchNamespaceError:
        return {}
    tables = {}
    for identifier in sorted(identifiers):
        try:
            tables[identifier[-1]] = catalog.load_table(identifier)
        except NoSuchTableError:
            continue  # dropped between the two calls
    return tables


def _pick_version(spec: DatasetSpec, anchor: Table, version: int | None) -> int:
    numbers = sorted(n for n in map(parse_version_tag, anchor.metadata.refs) if n is not None)
    if version is None and numbers:
        return numbers[-1]
    if version is None or version not in numbers:
        raise VersionNotFoundError(
            f"the dataset {spec.name} has no version" + (f" {version}" if version is not None else ""),
            expected="one of " + ", ".join(map(str, numbers[-12:])) if numbers else "a published version",
            fix="Publish one first." if not numbers else "Name one of these, or none for the newest.",
        )
    return version

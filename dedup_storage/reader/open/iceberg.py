"""Opening a version of a dataset of Iceberg tables with PyIceberg: its snapshots, their files and deleted rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, RESTError
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, In, LessThanOrEqual
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile as ManifestFile
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
from pyiceberg.table.puffin import PuffinFile
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.typedef import Identifier
from sqlalchemy.exc import OperationalError

from dedup_storage.config import Settings
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import ConfigError, DatasetNotFoundError, StorageError, VersionNotFoundError, known_names
from dedup_storage.lake.groups import is_group_table
from dedup_storage.lake.history import ANCHORS
from dedup_storage.lake.iceberg.catalog import is_scratch, load_client
from dedup_storage.lake.iceberg.metadata import IcebergMetadata
from dedup_storage.lake.iceberg.origin import answers, find_origin, plain_properties
from dedup_storage.lake.iceberg.snapshots import definition_text
from dedup_storage.lake.iceberg.users import iceberg_users
from dedup_storage.lake.iceberg.whole_files import WholeFiles
from dedup_storage.lake.retries import with_retries
from dedup_storage.lake.stored_users import sample_records
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, TableRole, parse_version_tag, version_tag
from dedup_storage.reader.cache.file_cache import FileCache
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open.cut import Cut, CutTable
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.options import Filters
from dedup_storage.reader.segment import SegmentKey

__all__ = ["IcebergTable", "iceberg_cut"]


def iceberg_cut(name: str, settings: Settings, version: int | None = None) -> Cut:
    """See ``open_cut``."""
    with _told(settings):
        catalog = _open_catalog(settings)
        loaded = _load_tables(catalog, name)
        known = sorted(n[0] for n in catalog.list_namespaces()) if not loaded else []
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
    with _told(settings):
        meta = IcebergMetadata(spec, loaded | _of_version(catalog, name, IcebergMetadata(spec, loaded), number))
    spec, loaded = meta.spec_of(number), meta.tables
    tables = {}
    for table_name, table in loaded.items():
        role = table.properties.get(ROLE_PROPERTY)
        reference = table.metadata.refs.get(version_tag(number))
        if role is None or reference is None or role == TableRole.QUARANTINE:
            continue
        definition = definition_text(table, reference.snapshot_id) if role == TableRole.FEATURES else None
        tables[table_name] = CutTable(
            table_name,
            TableRole(role),
            IcebergTable(table, reference.snapshot_id),
            reference.snapshot_id,
            definition,
        )
    members = meta.members(number)
    groups = [t for t in members.tables if is_group_table(t)] if members is not None else []
    for needed in (*(table.name for table in spec.tables), *groups):
        if needed not in tables:
            raise VersionNotFoundError(
                f"version {number} of {name} lacks the table {needed}",
                expected=f"a tag {version_tag(number)} on every table of the version",
                fix=f"dedup-storage check --dataset {name} says what is wrong with it.",
            )
    samples = sample_records(anchor.properties)
    return Cut(spec=spec, version=number, tables=tables, samples=samples, users=iceberg_users(loaded))


@contextmanager
def _told(settings: Settings) -> Iterator[None]:
    """A catalog that cannot be read is told by its name."""
    try:
        yield
    except OperationalError as error:
        raise StorageError(
            f"the catalog {settings.catalog.name} cannot be read: {error.orig}", fix="Check catalog and warehouse."
        ) from error
    except RESTError as error:
        raise StorageError(
            f"the catalog {settings.catalog.name} cannot be read: {str(error)[:300]}",
            fix="Check its uri and warehouse, and the variable DEDUP_STORAGE_CATALOG__TOKEN or __CREDENTIAL.",
        ) from error


@with_retries
def _open_catalog(settings: Settings) -> Catalog:
    with answers():
        return load_client(settings)


def _load_tables(catalog: Catalog, name: str) -> dict[str, Table]:
    """The tables, the anchor first: a version that it has is one that tables looked at later have too."""
    listed = [identifier for identifier in _list_tables(catalog, name) if not is_scratch(identifier[-1])]
    identifiers = sorted(listed, key=lambda i: (i[-1] not in ANCHORS, i))
    tables = {identifier[-1]: _load_table(catalog, identifier) for identifier in identifiers}
    return {name: table for name, table in tables.items() if table is not None}


def _of_version(catalog: Catalog, name: str, meta: IcebergMetadata, version: int) -> dict[str, Table]:
    """Tables of a version that were made, or got its tag, after they were looked at."""
    members = meta.members(version)
    there = meta.snapshots(version)
    later = [table for table in members.tables if table not in there] if members is not None else []
    found = {table: _load_table(catalog, (name, table)) for table in later}
    return {table_name: table for table_name, table in found.items() if table is not None}


@with_retries
def _list_tables(catalog: Catalog, name: str) -> list[Identifier]:
    try:
        with answers():
            return sorted(catalog.list_tables(name))
    except NoSuchNamespaceError:
        return []


@with_retries
def _load_table(catalog: Catalog, identifier: Identifier) -> Table | None:
    try:
        with answers():
            return catalog.load_table(identifier)
    except NoSuchTableError:
        return None  # dropped between the two calls


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


@dataclass(frozen=True)
class IcebergTable:
    """An Iceberg table at one snapshot: a ``StoredTable``.

    Attributes:
        table: As PyIceberg finds it.
        snapshot_id: The snapshot.
    """

    table: Table
    snapshot_id: int

    @property
    def properties(self) -> Mapping[str, str]:
        """See ``StoredTable``."""
        return self.table.properties

    def types(self) -> dict[str, pa.DataType]:
        """See ``StoredTable``."""
        schema = self.table.scan(snapshot_id=self.snapshot_id).projection()
        return {field.name: field.type for field in schema_to_pyarrow(schema, include_field_ids=False)}

    def plan(self, name: str, spec: DatasetSpec, filters: Filters, cache: FileCache | None = None) -> TableScan:
        """See ``StoredTable``."""
        table = self.table
        scan = table.scan(row_filter=row_filter(spec, filters), snapshot_id=self.snapshot_id)
        schema = scan.projection()
        arrow = schema_to_pyarrow(schema, include_field_ids=False)
        fields = {f.name: (f.field_id, arrow.field(f.name).type) for f in schema.fields}
        ref = TableRef(
            name, table.location(), plain_properties(table), fields, find_origin(table), cache, _mapped(table)
        )
        scan.io = WholeFiles(ref.file_io(), cache.whole if cache is not None else None)
        try:
            tasks = list(scan.plan_files())
        except FileNotFoundError as error:
            raise StorageError(f"a manifest of the table {name} is missing: {error}") from error
        files: list[tuple[SegmentKey, DataFile]] = []
        deletes = _Deletes(scan.io)
        for task in tasks:
            key, bucket = _segment(table, spec, task)
            if filters.buckets is not None and bucket is None and name in _deciding(spec):
                raise StorageError(
                    f"the filters name buckets, and {task.file.file_path} is not divided into those of {spec.name}",
                    expected=f"bucket[{spec.buckets}] of {spec.schema_.user} among its partition's fields",
                    fix="Write its segment again, or filter by users or dates.",
                )
            if filters.buckets is None or bucket is None or bucket in filters.buckets:
                files.append((key, deletes.data_file(name, task, _constants(table, schema, task))))
        buckets = {field for key, _ in files for field, _ in key if field.startswith("bucket[")}
        divided = buckets.pop() if len(buckets) == 1 else None
        return TableScan.of(ref, files, _positions(fields.get(spec.position_column, (-1,))[0], tasks), divided)


def _mapped(table: Table) -> dict[str, int] | None:
    """Field id of each name in files that carry no ids, by the table's mapping; ``None`` where it has none."""
    mapping = table.name_mapping()
    if mapping is None:
        return None
    return {name: field.field_id for field in mapping for name in field.names if field.field_id is not None}


def _constants(table: Table, schema: Schema, task: FileScanTask) -> dict[str, Any]:
    """What rows have in columns that their file need not hold: defaults of later ones, and its partition's values."""
    found = {field.name: field.initial_default for field in schema.fields if field.initial_default is not None}
    names = {field.field_id: field.name for field in schema.fields}
    for place, partition in enumerate(table.metadata.specs()[task.file.spec_id].fields):
        if isinstance(partition.transform, IdentityTransform) and partition.source_id in names:
            found[names[partition.source_id]] = task.file.partition[place]
    return found


def _positions(field_id: int, tasks: Sequence[FileScanTask]) -> int | None:
    """Different values of the position between the files' bounds; ``None`` where a file has none."""
    found = [(t.file.lower_bounds or {}, t.file.upper_bounds or {}) for t in tasks]
    if not found or any(field_id not in low or field_id not in high for low, high in found):
        return None
    least, most = (
        [int.from_bytes(bounds[field_id], "little", signed=True) for bounds in side]
        for side in zip(*found, strict=True)
    )
    return max(most) - min(least) + 1


def row_filter(spec: DatasetSpec, filters: Filters) -> BooleanExpression:
    """The filters as an Iceberg expression.

    Raises:
        ConfigError: dates are filtered in a dataset that has none.
    """
    parts: list[BooleanExpression] = []
    if filters.start is not None or filters.end is not None:
        if spec.event_date_column is None:
            raise ConfigError(f"the dataset {spec.name} has no event date to filter on", fix="Leave start and end out.")
        if filters.start is not None:
            parts.append(GreaterThanOrEqual(term=spec.event_date_column, value=filters.start.isoformat()))
        if filters.end is not None:
            parts.append(LessThanOrEqual(term=spec.event_date_column, value=filters.end.isoformat()))
    if filters.users is not None:
        parts.append(In(term=spec.schema_.user, literals=set(filters.users)))
    expression: BooleanExpression = AlwaysTrue()
    for part in parts:
        expression = And(expression, part)
    return expression


def _deciding(spec: DatasetSpec) -> set[str]:
    """The tables whose rows say which requests there are; those of others are found by key."""
    return {table.name for table in spec.tables if table.role in (TableRole.LOGS, TableRole.REQUESTS)}


def _segment(iceberg: Any, spec: DatasetSpec, task: FileScanTask) -> tuple[SegmentKey, int | None]:
    """The partition's values, and its bucket among the dataset's; ``None`` where the file may hold users of all."""
    key, bucket = [], 0 if spec.buckets == 1 else None
    for place, partition in enumerate(iceberg.metadata.specs()[task.file.spec_id].fields):
        value = task.file.partition[place]
        source = iceberg.schema().find_column_name(partition.source_id)
        key.append((f"{partition.transform}({source})", value))
        # An older file may be divided into other buckets, by a table's former partitions.
        if partition.transform == BucketTransform(spec.buckets) and source == spec.schema_.user:
            bucket = value
    return tuple(key), bucket


class _Deletes:
    """Deleted positions of data files, each delete file read once."""

    def __init__(self, io: FileIO) -> None:
        self._io = io
        self._read: dict[str, dict[str, Int64]] = {}

    def data_file(self, table: str, task: FileScanTask, constants: Mapping[str, Any]) -> DataFile:
        file = task.file
        if file.file_format is not FileFormat.PARQUET:
            raise StorageError(f"the file {file.file_path} is not a Parquet file", got=str(file.file_format))
        found = [p for d in task.delete_files if (p := self._positions(d).get(file.file_path)) is not None]
        deleted = np.unique(np.concatenate(found)).astype(np.int64) if found else None
        rows, size = int(file.record_count), int(file.file_size_in_bytes)
        return DataFile(table, file.file_path, rows, deleted, constants, size)

    def _positions(self, delete: ManifestFile) -> dict[str, Int64]:
        path = delete.file_path
        if path not in self._read:
            self._read[path] = _read_deletes(self._io, path, delete.file_format)
        return self._read[path]


def _read_deletes(io: FileIO, path: str, form: FileFormat) -> dict[str, Int64]:
    """Deleted positions by data file, of a deletion vector (v3) or a position delete file (v2)."""
    with io.new_input(path).open() as stream:
        if form is FileFormat.PUFFIN:
            vectors = deletion_vectors_from_puffin_file(PuffinFile(stream.read()))
            return {v.referenced_data_file: v.to_vector().to_numpy().astype(np.int64) for v in vectors}
        table = pq.read_table(stream, columns=["file_path", "pos"])
    paths: Sequence[str] = table["file_path"].unique().to_pylist()
    return {p: table.filter(pc.equal(table["file_path"], p))["pos"].to_numpy().astype(np.int64) for p in paths}

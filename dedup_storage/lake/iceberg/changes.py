"""Which segments of a table differ between two of its snapshots, from manifests alone: no data file is opened.

A file that was added, removed or got deletes changes the event dates between its least and its greatest, in its
user bucket. What compaction did, which moves rows and changes none, is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFileContent, ManifestEntryStatus
from pyiceberg.transforms import BucketTransform, IdentityTransform, MonthTransform
from pyiceberg.types import DateType

from dedup_storage.lake.cells import Cell, whole_month
from dedup_storage.lake.facts import BUCKETS, CHANGED, ROWS_KEPT, concerns
from dedup_storage.lake.iceberg.snapshots import ancestors, snapshot_summary
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile, ManifestEntry
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["changed_cells", "stored_cells"]

# Job whose runs move rows and change none.
_MAINTENANCE = "maintain"
_EPOCH = date(1970, 1, 1)


def changed_cells(
    table: Table, spec: DatasetSpec, old: int | None, new: int, columns: Collection[str] | None = None
) -> set[Cell]:
    """What changed between two snapshots of one of a dataset's tables.

    Args:
        table: The table, as PyIceberg loads it.
        spec: The dataset.
        old: Earlier snapshot; ``None`` for an empty table.
        new: Later snapshot.
        columns: See ``DatasetMetadata.changed_cells``.
    """
    if old == new:
        return set()
    line = ancestors(table, new)
    ids = [s.snapshot_id for s in line]
    # The parent is known by name even when it was expired.
    ids += [s.parent_snapshot_id for s in line[-1:] if s.parent_snapshot_id is not None]
    if old in ids:
        return set(_changed_since(table, spec, line[: ids.index(old)], columns))
    # The earlier snapshot is no ancestor, or the way to it was expired: compare what is live.
    before, after = _live(table, old), _live(table, new)
    if not before and not after:
        return {Cell(None, None, None)}
    gone, come = before.keys() - after.keys(), after.keys() - before.keys()
    return set(_cells(table, spec, [*(before[k] for k in gone), *(after[k] for k in come)]))


def stored_cells(table: Table, spec: DatasetSpec, snapshot_id: int) -> set[Cell]:
    """Where a snapshot has rows."""
    files = (f for f in _live(table, snapshot_id).values() if f.content is DataFileContent.DATA)
    return set(_cells(table, spec, files))


def _changed_since(
    table: Table, spec: DatasetSpec, snapshots: Iterable[Snapshot], columns: Collection[str] | None
) -> Iterator[Cell]:
    """What some snapshots changed, newest first; of those before another number of buckets, in all buckets."""
    former = False
    for snapshot in snapshots:
        changed = _changed_by(table, spec, snapshot, columns)
        yield from (cell.of_all_buckets for cell in changed) if former else changed
        former = former or PROPERTY_PREFIX + BUCKETS in snapshot_summary(snapshot)


def _changed_by(table: Table, spec: DatasetSpec, snapshot: Snapshot, columns: Collection[str] | None) -> Iterable[Cell]:
    summary = snapshot_summary(snapshot)
    said = {key.removeprefix(PROPERTY_PREFIX): v for key, v in summary.items() if key.startswith(PROPERTY_PREFIX)}
    if not concerns(said, columns):
        return ()
    if CHANGED in said:
        return [Cell.from_list(values) for values in json.loads(said[CHANGED])]
    if summary.get("operation") == "replace" or said.get("job") == _MAINTENANCE or ROWS_KEPT in said:
        return ()
    return _cells(table, spec, (entry.data_file for entry in _written(table, snapshot)))


def _written(table: Table, snapshot: Snapshot) -> Iterator[ManifestEntry]:
    """What one snapshot added and removed."""
    for manifest in snapshot.manifests(table.io):
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
            if entry.status is not ManifestEntryStatus.EXISTING and entry.snapshot_id == snapshot.snapshot_id:
                yield entry


def _live(table: Table, snapshot_id: int | None) -> Mapping[Any, DataFile]:
    """Files of a snapshot, deletion vectors included, by what tells them apart."""
    snapshot = table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None
    if snapshot is None:
        return {}
    found = {}
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            file = entry.data_file
            # Deletion vectors share a Puffin file; what they belong to is not in PyIceberg's key, the count is.
            found[(file.file_path, str(file.partition), file.record_count)] = file
    return found


def _cells(table: Table, spec: DatasetSpec, files: Iterable[DataFile]) -> Iterator[Cell]:
    specs, schema = table.specs(), table.schema()
    dated = spec.event_date_column
    field = schema.find_field(dated) if dated is not None else None
    for file in files:
        low = high = bucket = None
        for place, part in enumerate(specs[file.spec_id].fields):
            value = file.partition[place]
            if isinstance(part.transform, BucketTransform):
                # A number of another count says nothing here.
                bucket = value if part.transform.num_buckets == spec.buckets else None
            elif value is None:
                continue
            elif isinstance(part.transform, IdentityTransform):
                low = high = _day(value)
            elif isinstance(part.transform, MonthTransform):
                low, high = _month(value)
        if low is None or low != high:
            low, high = _bounds(file, field, low, high)
        yield Cell(low, high, bucket)


def _bounds(file: DataFile, field: Any, low: date | None, high: date | None) -> tuple[date | None, date | None]:
    if field is None or not isinstance(field.field_type, DateType) or file.content is not DataFileContent.DATA:
        return low, high
    least = (file.lower_bounds or {}).get(field.field_id)
    greatest = (file.upper_bounds or {}).get(field.field_id)
    nulls = (file.null_value_counts or {}).get(field.field_id, 0)
    if least is None or greatest is None or nulls:
        return low, high
    return _day(from_bytes(field.field_type, least)), _day(from_bytes(field.field_type, greatest))


def _day(value: Any) -> date:
    return value if isinstance(value, date) else _EPOCH + timedelta(days=int(value))


def _month(value: int) -> tuple[date, date]:
    return whole_month(date(1970 + value // 12, value % 12 + 1, 1))

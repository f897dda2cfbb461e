"""Reads of Iceberg and Delta tables, as Spark's operators know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dedup_storage.lake.engine.java import declares, elements, has_method
from dedup_storage.lake.engine.plans import Operator
from dedup_storage.lake.scans import PartitionColumn

__all__ = ["DeltaRead", "IcebergRead", "delta_read", "iceberg_read"]

_ICEBERG_TABLE = "org.apache.iceberg.spark.source.SparkTable"
_DELTA_INDEXES = ("PreparedDeltaFileIndex", "TahoeLogFileIndex", "DeltaFileIndex")


def iceberg_read(operator: Operator) -> IcebergRead | None:
    """The Iceberg read that an operator is; ``None`` for another one."""
    java = operator.java
    if operator.name != "BatchScanExec" or str(java.table().getClass().getName()) != _ICEBERG_TABLE:
        return None
    scan = java.scan()
    # What a scan says of itself in words differs between releases.
    grouped = scan.groupingKeyType().fields() if declares(scan, "groupingKeyType") else ()
    return IcebergRead(
        java.table(),
        columns=tuple(str(a.name()) for a in elements(java.output())),
        splits=int(java.inputPartitions().size()),
        grouped_by=tuple(str(field.name()) for field in grouped),
    )


class IcebergRead:
    """One read of an Iceberg table.

    Args:
        relation: Iceberg's ``SparkTable``.
        columns: Columns read.
        splits: Read tasks planned.
        grouped_by: Names of the partition fields by which Iceberg groups the rows for Spark: those that all the files'
            specs share and whose source column is read, be it by a filter; none when it was not asked to.
    """

    def __init__(self, relation: Any, columns: tuple[str, ...], splits: int, grouped_by: tuple[str, ...]) -> None:
        self._table, self._snapshot = relation.table(), relation.snapshotId()
        self.columns, self.splits, self.grouped_by = columns, splits, grouped_by
        self.table = str(self._table.name())

    @cached_property
    def snapshot_id(self) -> int | None:
        """The snapshot read; ``None`` for a table without any."""
        if self._snapshot is not None:
            return int(self._snapshot)
        current = self._table.currentSnapshot()
        return None if current is None else int(current.snapshotId())

    @cached_property
    def partitions(self) -> tuple[PartitionColumn, ...]:
        """Fields of the table's spec; fields that were dropped are left out."""
        schema = self._table.schema()
        found = []
        for field in self._table.spec().fields():
            transform = str(field.transform().toString())
            if transform == "void":
                continue
            column = schema.findField(field.sourceId())
            found.append(
                PartitionColumn(str(column.name()), transform, str(column.type().toString()), str(field.name()))
            )
        return tuple(found)

    @cached_property
    def spec_id(self) -> int:
        """Id of today's spec."""
        return int(self._table.spec().specId())

    def leaves(self, columns: Sequence[str]) -> list[tuple[int, str, bool]]:
        """Field id, type and whether it lies inside a list or map, of every leaf of some columns."""
        schema = self._table.schema()
        found: list[tuple[int, str, bool]] = []
        for column in columns:
            field = schema.findField(column)
            if field is not None:
                found += _leaves(int(field.fieldId()), field.type(), False)
        return found


def _leaves(field_id: int, kind: Any, repeated: bool) -> list[tuple[int, str, bool]]:
    if kind.isListType():
        inner = kind.asListType()
        return _leaves(int(inner.elementId()), inner.elementType(), True)
    if kind.isMapType():
        inner = kind.asMapType()
        return _leaves(int(inner.keyId()), inner.keyType(), True) + _leaves(
            int(inner.valueId()), inner.valueType(), True
        )
    if kind.isStructType():
        fields = kind.asStructType().fields()
        return [leaf for f in fields for leaf in _leaves(int(f.fieldId()), f.type(), repeated)]
    return [(field_id, str(kind.toString()), repeated)]


@dataclass(frozen=True)
class DeltaRead:
    """One read of a Delta table.

    Attributes:
        uri: The table's folder.
        version: Delta version read.
        columns: Columns read.
        partitions: Partition columns of the table.
    """

    uri: str
    version: int
    columns: tuple[str, ...]
    partitions: tuple[str, ...]


def delta_read(operator: Operator) -> DeltaRead | None:
    """The Delta read that an operator is; ``None`` for another one."""
    if operator.name != "FileSourceScanExec":
        return None
    relation = operator.java.relation()
    index = relation.location()
    if str(index.getClass().getSimpleName()) not in _DELTA_INDEXES:
        return None
    snapshot = index.preparedScan().scannedSnapshot() if has_method(index, "preparedScan") else index.getSnapshot()
    uri = str(index.path().toString())
    return DeltaRead(
        uri="/" + uri.removeprefix("file:").lstrip("/") if uri.startswith(("file:", "/")) else uri,
        version=int(snapshot.version()),
        columns=tuple(str(a.name()) for a in elements(operator.java.output())),
        partitions=tuple(str(f.name()) for f in elements(relation.partitionSchema().toList())),
    )

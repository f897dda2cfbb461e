"""One read of an Iceberg table inside a plan, and the table's partitions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

__all__ = ["PartitionColumn", "Read", "Scan", "items", "scan_of"]

_ICEBERG_TABLE = "org.apache.iceberg.spark.source.SparkTable"
# What Iceberg's scan says of itself.
_GROUPED_BY = re.compile(r"groupedBy=([^)]*)\)")
_MANY_FIELDS = 1_000_000


def items(seq: Any) -> list[Any]:
    """A Scala sequence's elements."""
    return [seq.apply(i) for i in range(seq.size())]


def scan_of(java: Any) -> Scan | None:
    """The Iceberg read that a ``BatchScanExec`` is; ``None`` for another source's."""
    relation = java.table()
    if str(relation.getClass().getName()) != _ICEBERG_TABLE:
        return None
    return Scan(
        relation,
        tuple(str(a.name()) for a in items(java.output())),
        int(java.inputPartitions().size()),
        _grouped_by(str(java.simpleString(_MANY_FIELDS))),
    )


@dataclass(frozen=True)
class PartitionColumn:
    """One field of a partition spec.

    Attributes:
        column: Source column.
        transform: As Iceberg writes it, such as ``bucket[16]``.
        type: The source column's Iceberg type.
        field: The field's own name in metadata tables.
    """

    column: str
    transform: str
    type: str
    field: str

    @property
    def buckets(self) -> int | None:
        """Bucket count, for a bucket transform."""
        if self.transform.startswith("bucket["):
            return int(self.transform[len("bucket[") : -1])
        return None

    def __str__(self) -> str:
        return self.column if self.transform == "identity" else f"{self.transform} of {self.column}"


# What a read is told apart by: table, snapshot, columns.
Read = tuple[str, "int | None", tuple[str, ...]]


class Scan:
    """One read of an Iceberg table inside a plan.

    Args:
        relation: Iceberg's ``SparkTable``.
        columns: Columns read.
        splits: Read tasks planned.
        grouped_by: Names of the partition fields by which Iceberg groups the rows for Spark: those that all the files'
            specs share and whose source column is read, be it by a filter; none when it was not asked to.
    """

    def __init__(self, relation: Any, columns: tuple[str, ...], splits: int, grouped_by: tuple[str, ...]) -> None:
        self._table = relation.table()
        self._snapshot = relation.snapshotId()
        self.columns, self.splits, self.grouped_by = columns, splits, grouped_by
        self.table = str(self._table.name())

    @cached_property
    def snapshot_id(self) -> int | None:
        """The snapshot read; ``None`` for a table without any."""
        if self._snapshot is not None:
            return int(self._snapshot)
        current = self._table.currentSnapshot()
        return None if current is None else int(current.snapshotId())

    @property
    def read(self) -> Read:
        """What tells this read apart."""
        return self.table, self.snapshot_id, self.columns

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

    @cached_property
    def bucket(self) -> PartitionColumn | None:
        """The spec's bucket field."""
        return next((p for p in self.partitions if p.buckets is not None), None)

    @property
    def groups(self) -> tuple[PartitionColumn, ...]:
        """The fields of ``grouped_by``."""
        return tuple(p for p in self.partitions if p.field in self.grouped_by)

    @property
    def empty(self) -> bool:
        """Whether nothing is left to read."""
        return self.splits == 0

    def leaves(self, columns: tuple[str, ...]) -> list[tuple[int, str, bool]]:
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


def _grouped_by(text: str) -> tuple[str, ...]:
    found = _GROUPED_BY.search(text)
    return tuple(name.strip() for name in found.group(1).split(",") if name.strip()) if found else ()

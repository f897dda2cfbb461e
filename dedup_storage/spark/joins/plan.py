"""What a query's physical plan does with its rows: scans, shuffles, broadcasts, sorts, joins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame

__all__ = ["Node", "PartitionColumn", "Read", "Scan", "physical_plan"]

# Operators that stand for the one below them.
_WRAPPERS = {
    "AdaptiveSparkPlanExec": "executedPlan",
    "InputAdapter": "child",
    "WholeStageCodegenExec": "child",
    "ShuffleQueryStageExec": "plan",
    "BroadcastQueryStageExec": "plan",
    "ResultQueryStageExec": "plan",
    "AQEShuffleReadExec": "child",
}
_SHUFFLES = {"ShuffleExchangeExec"}
_BROADCASTS = {"BroadcastExchangeExec"}
_JOINS = {
    "SortMergeJoinExec",
    "ShuffledHashJoinExec",
    "BroadcastHashJoinExec",
    "BroadcastNestedLoopJoinExec",
    "CartesianProductExec",
}
# Operators that leave every row in its partition and Spark's knowledge of the layout as it is.
_TRANSPARENT = {"ProjectExec", "FilterExec", "ColumnarToRowExec", "SortExec"}
_ICEBERG_TABLE = "org.apache.iceberg.spark.source.SparkTable"
# What Iceberg's scan says of itself.
_GROUPED_BY = re.compile(r"groupedBy=([^)]*)\)")
_MANY_FIELDS = 1_000_000
_KEYLESS_JOINS = {"BroadcastNestedLoopJoinExec", "CartesianProductExec"}


def _items(seq: Any) -> list[Any]:
    return [seq.apply(i) for i in range(seq.size())]


def physical_plan(df: DataFrame) -> Node:
    """The plan that Spark would run now, with the settings of the frame's own session."""
    return Node(df._jdf.queryExecution().executedPlan())


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


class Node:
    """One operator of a physical plan, wrappers of adaptive execution and code generation taken off."""

    def __init__(self, java: Any) -> None:
        name = str(java.getClass().getSimpleName())
        while name in _WRAPPERS:
            java = getattr(java, _WRAPPERS[name])()
            name = str(java.getClass().getSimpleName())
        self.java, self.name = java, name

    @cached_property
    def children(self) -> tuple[Node, ...]:
        """Inputs, left first."""
        return tuple(Node(child) for child in _items(self.java.children()))

    def walk(self) -> Iterator[Node]:
        """This operator and all below it, deepest first."""
        for child in self.children:
            yield from child.walk()
        yield self

    @property
    def is_shuffle(self) -> bool:
        """Rows move between tasks."""
        return self.name in _SHUFFLES

    @property
    def is_broadcast(self) -> bool:
        """Rows are copied to every executor."""
        return self.name in _BROADCASTS

    @property
    def is_sort(self) -> bool:
        """Rows are sorted."""
        return self.name == "SortExec"

    @property
    def is_join(self) -> bool:
        """Two inputs are joined."""
        return self.name in _JOINS

    @property
    def stays(self) -> bool:
        """Nothing but reading, filtering, projecting and sorting happens here and below."""
        return all(node.name in _TRANSPARENT or node.scan is not None for node in self.walk())

    @cached_property
    def scan(self) -> Scan | None:
        """The Iceberg read that this operator is."""
        if self.name != "BatchScanExec":
            return None
        relation = self.java.table()
        if str(relation.getClass().getName()) != _ICEBERG_TABLE:
            return None
        return Scan(
            relation,
            tuple(str(a.name()) for a in _items(self.java.output())),
            int(self.java.inputPartitions().size()),
            _grouped_by(str(self.java.simpleString(_MANY_FIELDS))),
        )

    @property
    def scans(self) -> tuple[Scan, ...]:
        """Iceberg reads here and below."""
        return tuple(node.scan for node in self.walk() if node.scan is not None)

    @property
    def reads_else(self) -> bool:
        """Whether something that is no Iceberg table is read here or below."""
        return any(not node.children and node.scan is None for node in self.walk())

    @property
    def layout(self) -> str:
        """How Spark takes this operator's rows to be distributed; for an exchange what it makes of them."""
        return str(self.java.outputPartitioning().toString())

    @property
    def join_type(self) -> str:
        """``inner``, ``left``, ``right``, ``full``, ``semi`` or ``anti``."""
        words = {
            "LeftOuter": "left",
            "RightOuter": "right",
            "FullOuter": "full",
            "LeftSemi": "semi",
            "LeftAnti": "anti",
        }
        text = str(self.java.joinType().toString())
        return words.get(text, text.lower())

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Join keys, left and right; a computed key is given as its expression."""
        if self.name in _KEYLESS_JOINS:
            return ()
        left, right = _items(self.java.leftKeys()), _items(self.java.rightKeys())
        return tuple((_column(a), _column(b)) for a, b in zip(left, right, strict=True))

    @property
    def detail(self) -> str:
        """What the operator does, short."""
        if self.is_sort:
            return ", ".join(_column(order.child()) for order in _items(self.java.sortOrder()))
        if self.is_broadcast:
            return "to every executor"
        return self.layout


def _grouped_by(text: str) -> tuple[str, ...]:
    found = _GROUPED_BY.search(text)
    return tuple(name.strip() for name in found.group(1).split(",") if name.strip()) if found else ()


def _column(expression: Any) -> str:
    """A column's name, or the text of an expression in parentheses."""
    if str(expression.getClass().getSimpleName()) == "AttributeReference":
        return str(expression.name())
    return f"({expression.sql()})"

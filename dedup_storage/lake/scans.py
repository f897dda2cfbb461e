"""Reads of tables inside a query's plan: which table and snapshot, how it is partitioned, how much it holds."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["PartitionColumn", "Read", "Scan", "ScanSize", "row_width"]

# Bytes of a value in Spark's row format: a slot of 8 for each column, a list's elements at their own width. Text is
# taken for 16 bytes beside its slot, which no metadata tells.
_SLOT, _TEXT = 8, 16
_WIDTHS = {"boolean": 1, "int": 4, "float": 4, "date": 4, "string": _SLOT + _TEXT, "binary": _SLOT + _TEXT}


def row_width(kind: str, *, repeated: bool) -> int:
    """Bytes of a value in Spark's rows, an estimate.

    Args:
        kind: Its type, by Iceberg's name.
        repeated: Whether it is a list's or a map's element.
    """
    width = _WIDTHS.get(kind, _SLOT)
    return width if repeated else max(width, _SLOT)


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


@dataclass(frozen=True)
class ScanSize:
    """What a snapshot holds of the columns read.

    Attributes:
        rows, files: Of the whole snapshot, before filters.
        stored_bytes: Of the columns read, on disk; of all columns where the writer kept no column sizes.
        row_bytes: Of the columns read, as Spark's rows; an estimate.
        specs: Ids of the partition specs that its files were written under.
        buckets: Stored bytes of each bucket of the table's own spec, in no order.
    """

    rows: int
    files: int
    stored_bytes: int
    row_bytes: int
    specs: tuple[int, ...] = ()
    buckets: tuple[int, ...] = ()

    @property
    def skew(self) -> float | None:
        """Bytes of the largest bucket over those of the median one."""
        if len(self.buckets) < 2:
            return None
        middle = statistics.median(self.buckets)
        return max(self.buckets) / middle if middle else None


# What a read is told apart by: table, snapshot, columns.
Read = tuple[str, "int | None", tuple[str, ...]]


class Scan(ABC):
    """One read of a table inside a plan.

    Attributes:
        tells_buckets: Whether the format can tell Spark of a table's buckets at all.
        table: Its name.
        columns: Columns read.
        grouped_by: Names of the partition fields by which the rows come grouped to Spark.
    """

    tells_buckets: ClassVar[bool]
    table: str
    columns: tuple[str, ...]
    grouped_by: tuple[str, ...] = ()

    @property
    @abstractmethod
    def snapshot_id(self) -> int | None:
        """The snapshot read; ``None`` for a table without any."""

    @property
    @abstractmethod
    def partitions(self) -> tuple[PartitionColumn, ...]:
        """Fields of the table's partition spec."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing is left to read."""

    @abstractmethod
    def size(self, spark: SparkSession) -> ScanSize:
        """How much the snapshot holds of the columns read, from metadata alone.

        Args:
            spark: Any session with the table's catalog.
        """

    @property
    def read(self) -> Read:
        """What tells this read apart."""
        return self.table, self.snapshot_id, self.columns

    @property
    def bucket(self) -> PartitionColumn | None:
        """The spec's bucket field."""
        return next((p for p in self.partitions if p.buckets is not None), None)

    @property
    def groups(self) -> tuple[PartitionColumn, ...]:
        """The fields of ``grouped_by``."""
        return tuple(p for p in self.partitions if p.field in self.grouped_by)

"""What a query's physical plan does with its rows: scans, shuffles, broadcasts, sorts, joins."""

from __future__ import annotations

from functools import cached_property

from pyspark.sql import DataFrame

from dedup_storage.lake.engine.plans import Operator, executed_plan
from dedup_storage.lake.formats import scan_of
from dedup_storage.lake.scans import Scan

__all__ = ["Node", "physical_plan"]

# Operators that leave every row in its partition and Spark's knowledge of the layout as it is.
_TRANSPARENT = {"ProjectExec", "FilterExec", "ColumnarToRowExec", "SortExec"}


def physical_plan(df: DataFrame) -> Node:
    """The plan that Spark would run now, with the settings of the frame's own session."""
    return Node(executed_plan(df))


class Node(Operator):
    """One operator of a physical plan, and the reads of tables in it and below."""

    @cached_property
    def scan(self) -> Scan | None:
        """The read of a table that this operator is."""
        return scan_of(self)

    @property
    def scans(self) -> tuple[Scan, ...]:
        """Reads of tables here and below."""
        return tuple(node.scan for node in self.walk() if node.scan is not None)

    @property
    def stays(self) -> bool:
        """Nothing but reading, filtering, projecting and sorting happens here and below."""
        return all(node.name in _TRANSPARENT or node.scan is not None for node in self.walk())

    @property
    def reads_else(self) -> bool:
        """Whether something that is no table of a known format is read here or below."""
        return any(not node.children and node.scan is None for node in self.walk())

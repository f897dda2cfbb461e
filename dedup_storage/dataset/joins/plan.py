"""What a query's physical plan does with its rows: scans, shuffles, broadcasts, sorts, joins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame

from dedup_storage.dataset.joins.delta_scan import delta_scan_of
from dedup_storage.dataset.joins.scan import Scan, items, scan_of

__all__ = ["Node", "physical_plan"]

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
_KEYLESS_JOINS = {"BroadcastNestedLoopJoinExec", "CartesianProductExec"}


def physical_plan(df: DataFrame) -> Node:
    """The plan that Spark would run now, with the settings of the frame's own session."""
    return Node(df._jdf.queryExecution().executedPlan())


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
        return tuple(Node(child) for child in items(self.java.children()))

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
        """The Iceberg or Delta read that this operator is."""
        if self.name == "FileSourceScanExec":
            return delta_scan_of(self.java)
        return scan_of(self.java) if self.name == "BatchScanExec" else None

    @property
    def scans(self) -> tuple[Scan, ...]:
        """Reads of tables here and below."""
        return tuple(node.scan for node in self.walk() if node.scan is not None)

    @property
    def reads_else(self) -> bool:
        """Whether something that is neither an Iceberg nor a Delta table is read here or below."""
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
        left, right = items(self.java.leftKeys()), items(self.java.rightKeys())
        return tuple((_column(a), _column(b)) for a, b in zip(left, right, strict=True))

    @property
    def detail(self) -> str:
        """What the operator does, short."""
        if self.is_sort:
            return ", ".join(_column(order.child()) for order in items(self.java.sortOrder()))
        if self.is_broadcast:
            return "to every executor"
        return self.layout


def _column(expression: Any) -> str:
    """A column's name, or the text of an expression in parentheses."""
    if str(expression.getClass().getSimpleName()) == "AttributeReference":
        return str(expression.name())
    return f"({expression.sql()})"

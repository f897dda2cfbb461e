"""Plans of queries: what the optimizer knows, and the operators of what Spark would run now."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Self

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.lake.engine.java import elements, iterate

__all__ = ["Operator", "executed_plan", "is_deterministic", "planned_bytes", "read_columns"]

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
_KEYLESS_JOINS = {"BroadcastNestedLoopJoinExec", "CartesianProductExec"}
_JOIN_TYPES = {"LeftOuter": "left", "RightOuter": "right", "FullOuter": "full", "LeftSemi": "semi", "LeftAnti": "anti"}


def planned_bytes(df: DataFrame) -> int:
    """Size of a frame as the optimizer knows it: of files their stored bytes.

    Of a join the optimizer knows the product of both sides; what they read is an upper bound too.
    """
    plan = df._jdf.queryExecution().optimizedPlan()
    read = sum(int(str(leaf.stats().sizeInBytes())) for leaf in elements(plan.collectLeaves()))
    return min(int(str(plan.stats().sizeInBytes())), read)


def is_deterministic(df: DataFrame) -> bool:
    """Whether every evaluation gives the same rows, as far as the optimized plan tells."""
    return bool(df._jdf.queryExecution().optimizedPlan().deterministic())


def read_columns(df: DataFrame, text: str) -> frozenset[str]:
    """Columns of a frame that an SQL expression over it reads, by Spark's analysis of it; nothing is run."""
    plans = [df.select(F.expr(text))._jdf.queryExecution().analyzed()]
    names: set[str] = set()
    while plans:
        plan = plans.pop()
        # As the expression spells them.
        names |= {str(attribute.name()).lower() for attribute in iterate(plan.references())}
        plans += elements(plan.children())
    return frozenset(column for column in df.columns if column.lower() in names)


def executed_plan(df: DataFrame) -> Any:
    """Java's plan of what Spark would run now, with the settings of the frame's own session; for ``Operator``."""
    return df._jdf.queryExecution().executedPlan()


class Operator:
    """One operator of a physical plan, wrappers of adaptive execution and code generation taken off."""

    def __init__(self, java: Any) -> None:
        name = str(java.getClass().getSimpleName())
        while name in _WRAPPERS:
            java = getattr(java, _WRAPPERS[name])()
            name = str(java.getClass().getSimpleName())
        self.java, self.name = java, name

    @cached_property
    def children(self) -> tuple[Self, ...]:
        """Inputs, left first."""
        return tuple(type(self)(child) for child in elements(self.java.children()))

    def walk(self) -> Iterator[Self]:
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
    def layout(self) -> str:
        """How Spark takes this operator's rows to be distributed; for an exchange what it makes of them."""
        return str(self.java.outputPartitioning().toString())

    @property
    def join_type(self) -> str:
        """``inner``, ``left``, ``right``, ``full``, ``semi`` or ``anti``."""
        text = str(self.java.joinType().toString())
        return _JOIN_TYPES.get(text, text.lower())

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Join keys, left and right; a computed key is given as its expression."""
        if self.name in _KEYLESS_JOINS:
            return ()
        left, right = elements(self.java.leftKeys()), elements(self.java.rightKeys())
        return tuple((_column(a), _column(b)) for a, b in zip(left, right, strict=True))

    @property
    def detail(self) -> str:
        """What the operator does, short."""
        if self.is_sort:
            return ", ".join(_column(order.child()) for order in elements(self.java.sortOrder()))
        if self.is_broadcast:
            return "to every executor"
        return self.layout


def _column(expression: Any) -> str:
    """A column's name, or the text of an expression in parentheses."""
    if str(expression.getClass().getSimpleName()) == "AttributeReference":
        return str(expression.name())
    return f"({expression.sql()})"

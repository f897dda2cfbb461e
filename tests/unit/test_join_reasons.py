"""Why rows move, read off plans that stand-ins for Spark's objects make up: every cause in milliseconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.dataset.joins.bucket import top_join
from dedup_storage.dataset.joins.model import Cause, Reason
from dedup_storage.dataset.joins.plan import Node
from dedup_storage.dataset.joins.reasons import moved, reasons_of
from dedup_storage.dataset.joins.settings import BUCKET_JOIN
from dedup_storage.lake.scans import ScanSize


class Seq:
    """A Scala sequence."""

    def __init__(self, *elements: Any) -> None:
        self.elements = elements

    def size(self) -> int:
        return len(self.elements)

    def apply(self, index: int) -> Any:
        return self.elements[index]


class Java:
    """An object whose methods give fixed values."""

    def __init__(self, kind: str, /, *children: Java, **values: Any) -> None:
        self.kind, self.kids = kind, children
        for method, value in values.items():
            setattr(self, method, lambda *_, value=value: value)

    def getClass(self) -> Any:  # noqa: N802 - Java's name
        simple = self.kind.rsplit(".", 1)[-1]
        methods = [SimpleNamespace(getName=lambda name=name: name) for name in vars(self)]
        return SimpleNamespace(
            getSimpleName=lambda: simple,
            getName=lambda: self.kind,
            getDeclaredMethods=lambda: methods,
            getSuperclass=lambda: None,
        )

    def children(self) -> Seq:
        return Seq(*self.kids)

    def toString(self) -> str:  # noqa: N802 - Java's name
        return self.kind


def attribute(name: str) -> Java:
    return Java("AttributeReference", name=name)


def scan(
    table: str,
    fields: tuple[tuple[str, str], ...],
    grouped: str | None = None,
    *,
    types: dict[str, str] | None = None,
    splits: int = 4,
) -> Java:
    """A read of a table partitioned by (column, transform) fields, grouped by all of them unless it is said."""
    kinds = {"user_id": "long", "request_id": "long", "event_date": "date", **(types or {})}
    ids = {column: number for number, column in enumerate(kinds, 1)}
    named = [(f"{c}_{t.split('[')[0]}", c, t) for c, t in fields]
    spec = Java("spec", specId=0, fields=[
        Java("field", sourceId=ids[c], name=n, transform=Java(t)) for n, c, t in named
    ])  # fmt: skip
    columns = {ids[c]: Java("column", name=c, type=Java(kind)) for c, kind in kinds.items()}
    schema = Java("schema")
    schema.findField = columns.get  # type: ignore[attr-defined]
    iceberg = Java("table", name=table, spec=spec, schema=schema)
    relation = Java("org.apache.iceberg.spark.source.SparkTable", table=iceberg, snapshotId=7)
    by = [n for n, _, _ in named] if grouped is None else [n.strip() for n in grouped.split(",") if n.strip()]
    return Java(
        "BatchScanExec",
        table=relation,
        output=Seq(*map(attribute, kinds)),
        inputPartitions=Seq(*range(splits)),
        scan=Java("scan", groupingKeyType=Java("struct", fields=[Java("field", name=n) for n in by])),
        outputPartitioning=Java("keygroupedpartitioning(…)" if by else "UnknownPartitioning(4)"),
    )


def shuffled(child: Java) -> Java:
    return Java("ShuffleExchangeExec", child, outputPartitioning=Java("hashpartitioning(user_id, 8)"))


def sorted_(child: Java) -> Java:
    return Java("SortExec", child, outputPartitioning=Java("…"))


def join(left: Java, right: Java, *keys: str | tuple[Java, Java], move: bool = True) -> Node:
    """A sort-merge join, both sides shuffled unless it is said."""
    sides = [sorted_(shuffled(s) if move else s) for s in (left, right)]
    pairs = [(attribute(k), attribute(k)) if isinstance(k, str) else k for k in keys]
    java = Java(
        "SortMergeJoinExec", *sides, joinType=Java("LeftAnti"),
        leftKeys=Seq(*(a for a, _ in pairs)), rightKeys=Seq(*(b for _, b in pairs)),
    )  # fmt: skip
    plan = Node(Java("AdaptiveSparkPlanExec", executedPlan=Java("ProjectExec", java)))
    found = top_join(plan)
    assert found is not None
    return found


def session(**changed: str) -> Any:
    settings = {**BUCKET_JOIN, **changed}
    return SimpleNamespace(conf=SimpleNamespace(get=settings.__getitem__))


def causes(node: Node, **changed: str) -> dict[Cause, Reason]:
    return {r.cause: r for r in reasons_of(node, session(**changed))}


DAY = (("event_date", "identity"), ("user_id", "bucket[4]"))
PLAIN = (("user_id", "bucket[4]"),)
KEYS = ("user_id", "request_id")


def test_a_join_that_stays_has_no_reason() -> None:
    node = join(scan("a", DAY), scan("b", DAY), *KEYS, "event_date", move=False)
    assert not any(map(moved, node.children))
    assert causes(node) == {}
    assert node.join_type == "anti"
    assert node.keys == (("user_id", "user_id"), ("request_id", "request_id"), ("event_date", "event_date"))
    assert [s.groups == s.partitions for s in node.scans] == [True, True]
    assert all(child.stays for child in node.children)


@pytest.mark.parametrize(
    ("left", "right", "keys", "cause", "text"),
    [
        (scan("a", DAY), scan("b", DAY), KEYS, Cause.NOT_A_KEY, "event_date is a partition column that is read"),
        (scan("a", PLAIN), scan("b", (("user_id", "bucket[6]"),)), KEYS, Cause.BUCKETS, "can group them to 2"),
        (scan("a", PLAIN), scan("b", (("user_id", "bucket[5]"),)), KEYS, Cause.BUCKETS, "share no divisor"),
        (scan("a", PLAIN), scan("b", ()), KEYS, Cause.UNBUCKETED, "b is not bucketed (not partitioned)"),
        (scan("a", PLAIN), scan("b", DAY[:1]), KEYS, Cause.UNBUCKETED, "b is not bucketed (partitioned by event_date)"),
        (scan("a", PLAIN), scan("b", PLAIN, "", splits=0), KEYS, Cause.EMPTY, "b has nothing to read"),
        (scan("a", PLAIN), Java("LocalTableScanExec"), KEYS, Cause.NOT_ICEBERG, "no Iceberg table"),
        (scan("a", PLAIN), scan("b", (("request_id", "bucket[4]"),)), KEYS, Cause.NOT_A_KEY, "not joined with each"),
        (scan("a", DAY), scan("b", DAY[::-1]), (*KEYS, "event_date"), Cause.TRANSFORMS, "b by bucket[4] of user_id, e"),
        (
            scan("a", DAY), scan("b", (("event_date", "month"), ("user_id", "bucket[4]"))), (*KEYS, "event_date"),
            Cause.TRANSFORMS, "b by month of event_date, bucket[4] of user_id",
        ),
        (scan("a", PLAIN), scan("b", PLAIN, types={"user_id": "int"}), KEYS, Cause.TYPES, "user_id is int in b"),
        (
            scan("a", PLAIN), scan("b", PLAIN), ((attribute("user_id"), Java("Upper", sql="upper(user_id)")),),
            Cause.COMPUTED_KEY, "joined as (upper(user_id))",
        ),
        (scan("a", PLAIN), scan("b", PLAIN), KEYS, Cause.UNKNOWN, "neither the tables nor the session show"),
    ],
)  # fmt: skip
def test_causes(left: Java, right: Java, keys: tuple[Any, ...], cause: Cause, text: str) -> None:
    if right.kind == "LocalTableScanExec":
        right.outputPartitioning = lambda: Java("UnknownPartitioning(1)")  # type: ignore[attr-defined]
    found = causes(join(left, right, *keys))
    assert list(found) == [cause]
    assert text in found[cause].text
    assert found[cause].fix.endswith(".")


def test_a_rearranged_side_names_what_did_it() -> None:
    inner = Java("HashAggregateExec", shuffled(Java("FilterExec", scan("b", PLAIN))))
    inner.outputPartitioning = lambda: Java("hashpartitioning(x, 8)")  # type: ignore[attr-defined]
    found = causes(join(scan("a", PLAIN), inner, *KEYS))
    assert "rows of b pass through Filter, ShuffleExchange, HashAggregate" in found[Cause.REARRANGED].text


def test_settings_and_broadcasts() -> None:
    key = "spark.sql.iceberg.planning.preserve-data-grouping"
    found = causes(join(scan("a", PLAIN, ""), scan("b", PLAIN, ""), *KEYS), **{key: "false"})
    assert found[Cause.SETTING].text == f"{key} is false"
    harmless = "spark.sql.sources.v2.bucketing.partiallyClusteredDistribution.enabled"
    assert Cause.SETTING not in causes(join(scan("a", PLAIN), scan("b", PLAIN), *KEYS), **{harmless: "true"})
    small = Java("BroadcastExchangeExec", scan("b", PLAIN))
    java = Java(
        "BroadcastHashJoinExec", scan("a", PLAIN), small, joinType=Java("Inner"), leftKeys=Seq(), rightKeys=Seq()
    )
    assert list(causes(Node(java))) == [Cause.BROADCAST]
    nested = Java("BroadcastNestedLoopJoinExec", scan("a", PLAIN), small, joinType=Java("Cross"))
    assert Node(nested).keys == ()


def test_changed_specs_and_skew_come_from_sizes() -> None:
    node = join(scan("a", PLAIN), scan("b", PLAIN), *KEYS)
    sizes = {s.read: ScanSize(9, 2, 90, 90, specs=(0, 1), buckets=(1, 1, 9)) for s in node.scans}
    found = reasons_of(node, session(), sizes)
    assert [r.cause for r in found] == [Cause.SPEC_CHANGED, Cause.SPEC_CHANGED, Cause.SKEW, Cause.SKEW]
    assert [r.blocks for r in found] == [True, True, False, False]
    assert "9.0 times" in found[-1].text

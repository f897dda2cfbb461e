"""What a query's joins shuffle, sort and broadcast, how much that is, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.choices import choice
from dedup_storage.dataset.joins.bucket import settled
from dedup_storage.dataset.joins.explanation import JoinExplanation
from dedup_storage.dataset.joins.inputs import How, as_frame, join_keys, refuse_shared
from dedup_storage.dataset.joins.model import ExplainedJoin, JoinSide, PlanStep, StepKind
from dedup_storage.dataset.joins.plan import Node, physical_plan
from dedup_storage.dataset.joins.reasons import moved, reasons_of
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, missing
from dedup_storage.errors import UsageError
from dedup_storage.lake.scans import Read, Scan, ScanSize
from dedup_storage.spark.errors import translated

__all__ = ["explain_join"]

Sizes = dict[Read, ScanSize]


def explain_join(
    left: DataFrame | str,
    right: DataFrame | str | None = None,
    on: Sequence[str] | str | None = None,
    how: How | str = How.INNER,
    *,
    spark: SparkSession | None = None,
) -> JoinExplanation:
    """Explain a query, or the bucket join of two sides; runs no query, reads only metadata of the tables.

    Args:
        left: With ``right`` the join's left side, a frame or a table's name; alone the query to explain, as its session
            would run it now.
        right: The right side. Then what ``bucket_join`` does is explained, or why it refuses.
        on, how: As for ``bucket_join``.
        spark: Session that table names are looked up in; the active one by default.

    Returns:
        What moves, how many bytes at most (before filters), why, and what to do. Print it with rich, or take
        ``model_dump_json()``.

    Raises:
        UsageError: unknown or ambiguous columns, types that cannot be compared, keys of a query that is whole.
    """
    if right is None and on is not None:
        raise UsageError(
            "keys are given, and no right side", expected="a right side, or a query alone", fix="Leave out the keys."
        )
    first = as_frame(left, spark)
    with translated():
        if right is None:
            return _explained(first, None)
        second = as_frame(right, spark)
        keys = join_keys(first, second, on)
        kind = choice(How, how, "join")
        if kind.keeps_right:
            refuse_shared(first, second, keys)
        planned, blocking = settled(first, second, keys, kind, one_side=False)
        outcome = "bucket_join refuses this join" if blocking else "bucket_join joins these two without moving a row"
        lacking = missing(first.sparkSession)
        if lacking:
            settings = ", ".join(f"{key}={BUCKET_JOIN[key]}" for key in lacking)
            outcome += f"; the session lacks {settings}, which it sets for this query alone"
        return _explained(planned, f"{outcome}.")


def _explained(query: DataFrame, bucket_join: str | None) -> JoinExplanation:
    spark = query.sparkSession
    plan = physical_plan(query)
    sizes: Sizes = {}
    for scan in plan.scans:
        if scan.read not in sizes:
            sizes[scan.read] = scan.size(spark)
    joins = tuple(_join(node, spark, sizes) for node in plan.walk() if node.is_join)
    steps = tuple(_step(node, sizes) for node in plan.walk() if _kind(node) is not None)
    moving = [s for s in steps if s.kind is not StepKind.SORT]
    return JoinExplanation(
        shuffle_free=not moving, verdict=_verdict(joins, moving), joins=joins, steps=steps, bucket_join=bucket_join
    )


def _verdict(joins: tuple[ExplainedJoin, ...], moving: list[PlanStep]) -> str:
    if not joins:
        return "The query joins nothing." + (" Rows move for other reasons." if moving else "")
    what = "The join" if len(joins) == 1 else f"Each of the {len(joins)} joins"
    if not moving:
        return f"{what} stays inside its buckets: no row moves."
    if all(j.shuffle_free for j in joins):
        return f"{what} stays inside its buckets; rows move for other parts of the query."
    moving_joins = sum(not j.shuffle_free for j in joins)
    if len(joins) == 1:
        return "The join moves rows."
    return f"{moving_joins} of {len(joins)} joins {'moves' if moving_joins == 1 else 'move'} rows."


def _join(node: Node, spark: SparkSession, sizes: Sizes) -> ExplainedJoin:
    left, right = node.children
    return ExplainedJoin(
        how=node.join_type,
        algorithm=node.name.removesuffix("Exec"),
        on=tuple(a if a == b else f"{a} = {b}" for a, b in node.keys),
        shuffle_free=not any(map(moved, node.children)),
        left=_side(left, sizes),
        right=_side(right, sizes),
        reasons=reasons_of(node, spark, sizes),
    )


def _side(node: Node, sizes: Sizes) -> JoinSide:
    scans = node.scans
    if not scans:
        return JoinSide(tables=())
    first = scans[0]
    total = _total(scans, sizes)
    skews = [s.skew for s in (sizes[scan.read] for scan in scans) if s.skew is not None]
    return JoinSide(
        tables=tuple(dict.fromkeys(s.table for s in scans)),
        partitions=tuple(map(str, first.partitions)),
        buckets=None if first.bucket is None else first.bucket.buckets,
        columns=tuple(dict.fromkeys(c for s in scans for c in s.columns)),
        rows=total.rows,
        stored_bytes=total.stored_bytes,
        row_bytes=total.row_bytes,
        files=total.files,
        skew=max(skews, default=None),
    )


def _kind(node: Node) -> StepKind | None:
    if node.is_shuffle:
        return StepKind.SHUFFLE
    if node.is_broadcast:
        return StepKind.BROADCAST
    return StepKind.SORT if node.is_sort else None


def _step(node: Node, sizes: Sizes) -> PlanStep:
    kind = _kind(node) or StepKind.SORT
    known = None if node.reads_else else _total(node.scans, sizes)
    return PlanStep(
        kind=kind,
        detail=node.detail,
        tables=tuple(dict.fromkeys(s.table for s in node.scans)),
        rows=None if known is None else known.rows,
        stored_bytes=None if known is None else known.stored_bytes,
        row_bytes=None if known is None else known.row_bytes,
    )


def _total(scans: tuple[Scan, ...], sizes: Sizes) -> ScanSize:
    read = [sizes[s.read] for s in scans if not s.empty]
    return ScanSize(
        rows=sum(s.rows for s in read),
        files=sum(s.files for s in read),
        stored_bytes=sum(s.stored_bytes for s in read),
        row_bytes=sum(s.row_bytes for s in read),
    )

"""Why rows move: the causes of a shuffle or broadcast, read off the plan, the tables' specs and the session."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pyspark.sql import SparkSession

from dedup_storage.dataset.joins.model import Cause, Reason
from dedup_storage.dataset.joins.plan import Node
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, missing
from dedup_storage.lake.scans import PartitionColumn, Read, Scan, ScanSize

__all__ = ["moved", "reasons_of"]

_THROUGH = {"ProjectExec", "FilterExec", "ColumnarToRowExec", "SortExec", "CoalesceExec"}
# Differences in these never cause a shuffle; they are kept off because rows get lost.
_HARMLESS = ("partiallyClusteredDistribution.enabled", "allowJoinKeysSubsetOfPartitionKeys.enabled")
_SKEWED = 4.0


def moved(side: Node) -> bool:
    """Whether a join's input is shuffled or broadcast for the join."""
    while side.name in _THROUGH:
        side = side.children[0]
    return side.is_shuffle or side.is_broadcast


_LOOK = (
    "Look at the plan with explain(). In a session without the settings, give frames that nothing has looked at yet: "
    "a table's handle keeps the settings of the session that first planned with it."
)


def reasons_of(join: Node, spark: SparkSession, sizes: Mapping[Read, ScanSize] | None = None) -> tuple[Reason, ...]:
    """The reasons of one join, those that explain a movement first.

    Args:
        join: A join of a plan.
        spark: The session it was planned in.
        sizes: What each read holds, where known.
    """
    reasons = []
    if any(map(moved, join.children)):
        reasons = list(_blocking(join, spark, sizes or {}))
        if not reasons:
            text = "Spark moves rows for a reason that neither the tables nor the session show"
            reasons = [Reason(cause=Cause.UNKNOWN, text=text, fix=_LOOK)]
    for table in dict.fromkeys(s.table for s in join.scans):
        reasons += _skew(next(s for s in join.scans if s.table == table), sizes or {})
    return tuple(reasons)


def _blocking(join: Node, spark: SparkSession, sizes: Mapping[Read, ScanSize]) -> Iterator[Reason]:
    broadcast = [side for side in join.children if _exchange(side).is_broadcast]
    if broadcast:
        named = " and ".join(_named(side) for side in broadcast)
        yield Reason(
            cause=Cause.BROADCAST,
            text=f"{named} is copied to every executor, by a hint or because Spark takes it for small: its planner "
            "counts a list of any length as a few bytes",
            fix="Use bucket_join, or set spark.sql.autoBroadcastJoinThreshold to -1 and drop the hint.",
        )
        return
    for key, value in missing(spark).items():
        if not key.endswith(_HARMLESS):
            yield Reason(
                cause=Cause.SETTING,
                text=f"{key} is {'not set' if value == 'none' else value}",
                fix=f"Use bucket_join, or set {key} to {BUCKET_JOIN[key]}.",
            )
    alone = [reason for reason in map(_side, join.children) if reason is not None]
    yield from alone
    left, right = map(_leading, join.children)
    if alone or left is None or right is None:
        # What one side lacks explains it; the two are not compared.
        return
    for scan in (left, right):
        used = sizes.get(scan.read)
        if used is not None and len(used.specs) > 1:
            yield Reason(
                cause=Cause.SPEC_CHANGED,
                text=f"files of {scan.table} were written under {len(used.specs)} partition specs, so only the fields "
                "common to all of them group its rows",
                fix="Rewrite them all: rewrite_data_files with rewrite-all.",
            )
    yield from _differences(join, left, right)


def _exchange(side: Node) -> Node:
    while side.name in _THROUGH:
        side = side.children[0]
    return side


def _leading(side: Node) -> Scan | None:
    scans = side.scans
    return scans[0] if scans else None


def _named(side: Node) -> str:
    return ", ".join(dict.fromkeys(s.table for s in side.scans)) or "a side"


def _side(side: Node) -> Reason | None:
    """What is the matter with one side alone."""
    scan = _leading(side)
    if scan is None:
        return Reason(
            cause=Cause.NOT_ICEBERG,
            text="one side reads no Iceberg table",
            fix="Pass exchange='one-side' to shuffle only that side, or write it to a bucketed table.",
        )
    if not scan.tells_buckets:
        return Reason(
            cause=Cause.DELTA,
            text=f"{scan.table} is a Delta table, which tells Spark nothing of its buckets, so its rows are shuffled",
            fix="Convert the dataset to Iceberg (dedup-storage convert), or take the shuffle: exchange='warn'.",
        )
    if scan.empty:
        return Reason(
            cause=Cause.EMPTY,
            text=f"{scan.table} has nothing to read here, and of an empty read Spark knows no buckets",
            fix="Pass exchange='one-side': then only the empty side is shuffled.",
        )
    if scan.bucket is None:
        return Reason(
            cause=Cause.UNBUCKETED,
            text=f"{scan.table} is not bucketed"
            + (f" (partitioned by {_fields(scan.partitions)})" if scan.partitions else " (not partitioned)"),
            fix="Pass exchange='one-side' to shuffle only that side, or partition it by bucket(N, user).",
        )
    below = _exchange(side)
    inner = below.children[0] if below.is_shuffle else below
    if not inner.stays and not inner.layout.startswith("keygrouped"):
        operators = dict.fromkeys(n.name.removesuffix("Exec") for n in inner.walk() if n.scan is None and n.children)
        return Reason(
            cause=Cause.REARRANGED,
            text=f"rows of {scan.table} pass through {', '.join(operators)} before the join, after which Spark no "
            "longer knows their buckets",
            fix="Join first, or pass exchange='one-side'.",
        )
    return None


def _differences(join: Node, left: Scan, right: Scan) -> Iterator[Reason]:
    """What differs between two bucketed tables."""
    pairs = dict(join.keys)
    l_bucket, r_bucket = left.bucket, right.bucket
    if l_bucket is None or r_bucket is None:
        return
    if l_bucket.type != r_bucket.type:
        yield Reason(
            cause=Cause.TYPES,
            text=f"{l_bucket.column} is {l_bucket.type} in {left.table} and {r_bucket.column} is {r_bucket.type} in "
            f"{right.table}; the cast hides the buckets",
            fix="Give both the same type (ALTER COLUMN … TYPE bigint widens an int in place).",
        )
        return
    if pairs.get(l_bucket.column) != r_bucket.column:
        computed = [key for pair in join.keys for key in pair if key.startswith("(") and l_bucket.column in key]
        yield Reason(
            cause=Cause.COMPUTED_KEY if computed else Cause.NOT_A_KEY,
            text=f"the bucket column {l_bucket.column} is joined as {computed[0]}"
            if computed
            else f"the bucket columns {l_bucket.column} and {r_bucket.column} are not joined with each other",
            fix="Join on the bucket column itself.",
        )
        return
    if l_bucket.buckets != r_bucket.buckets:
        yield _counts(left, right, l_bucket, r_bucket)
    for p in dict.fromkeys(p.column for p in (*left.groups, *right.groups)):
        if p not in pairs and p not in pairs.values():
            yield Reason(
                cause=Cause.NOT_A_KEY,
                text=f"{p} is a partition column that is read (a filter reads it too) and is no join key",
                fix=f"Join on {p} too, or leave it out of both sides.",
            )
            return
    if [(pairs.get(p.column), _kind(p)) for p in left.groups] == [(p.column, _kind(p)) for p in right.groups]:
        return
    others = ", ".join(sorted({p.column for p in (*left.groups, *right.groups)} - {l_bucket.column, r_bucket.column}))
    yield Reason(
        cause=Cause.TRANSFORMS,
        text=f"{left.table} is grouped by {_fields(left.groups)}, {right.table} by {_fields(right.groups)}",
        fix=f"Partition them alike and in the same order; or leave {others} out of both sides and of the keys, where "
        "the other keys suffice: then buckets are whole.",
    )


def _counts(left: Scan, right: Scan, l_bucket: PartitionColumn, r_bucket: PartitionColumn) -> Reason:
    n, m = int(l_bucket.buckets or 0), int(r_bucket.buckets or 0)
    shared = math.gcd(n, m)
    text = f"{left.table} has {n} buckets and {right.table} has {m}"
    if shared == 1:
        return Reason(
            cause=Cause.BUCKETS,
            text=f"{text}, which share no divisor",
            fix="Write one of them with the other's count, or pass exchange='one-side'.",
        )
    return Reason(
        cause=Cause.BUCKETS,
        text=f"{text}; Spark can group them to {shared}, but not for a side whose rows are all kept (left, anti) "
        f"unless it is the one with {shared}",
        fix="Use bucket_join, which groups them where Spark can; else pass exchange='one-side', or write both with the "
        "same count.",
    )


def _kind(field: PartitionColumn) -> str:
    return "bucket" if field.buckets else field.transform


def _fields(fields: tuple[PartitionColumn, ...]) -> str:
    return ", ".join(map(str, fields)) or "nothing"


def _skew(scan: Scan, sizes: Mapping[Read, ScanSize]) -> list[Reason]:
    size = sizes.get(scan.read)
    if size is None or size.skew is None or size.skew < _SKEWED:
        return []
    return [
        Reason(
            cause=Cause.SKEW,
            text=f"the largest bucket of {scan.table} holds {size.skew:.1f} times the median one's bytes, and one task "
            "reads it",
            fix="More buckets divide it unless one user makes it; read dates apart, or take those users out.",
            blocks=False,
        )
    ]

"""Joins that stay inside the buckets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.choices import choice
from dedup_storage.dataset.joins.inputs import How, as_frame, join_keys, joined, refuse_shared
from dedup_storage.dataset.joins.model import Cause, Reason
from dedup_storage.dataset.joins.plan import Node, physical_plan
from dedup_storage.dataset.joins.plugins import LosingPlugin, losing_plugins
from dedup_storage.dataset.joins.reasons import moved, reasons_of
from dedup_storage.dataset.joins.settings import (
    BUCKET_JOIN,
    COMPATIBLE_COUNTS,
    EQUAL_COUNTS,
    NO_BUCKETS,
    ONE_SIDE,
    fenced,
    missing,
)
from dedup_storage.errors import ShuffleRefusedError, UsageError
from dedup_storage.lake.engine.sessions import in_own_session
from dedup_storage.spark.errors import ENGINE_ERRORS, translated

__all__ = ["Exchange", "ShuffleWarning", "bucket_join", "settled", "top_join"]


class Exchange(StrEnum):
    """What may happen when rows would have to move.

    ``refuse``: nothing moves, or an error says why it would. ``one-side``: one side alone may be shuffled onto the
    other's buckets, such as one that is not bucketed. ``warn``: anything, with a warning that says why.
    """

    REFUSE = "refuse"
    ONE_SIDE = "one-side"
    WARN = "warn"


class ShuffleWarning(UserWarning):
    """A join shuffles or broadcasts although it was asked to stay inside its buckets."""


def bucket_join(
    left: DataFrame | str,
    right: DataFrame | str,
    on: Sequence[str] | str | None = None,
    how: How | str = How.INNER,
    *,
    exchange: Exchange | str = Exchange.REFUSE,
    hash_side: str | None = None,
    spark: SparkSession | None = None,
) -> DataFrame:
    """Join two co-bucketed tables, or frames that only read, filter and project them, without moving a row.

    The result is equal to the plain join; null keys match nothing. Where the session lacks a setting, the result has a
    session of its own (``result.sparkSession``), a copy of the caller's with the settings added, so that the caller's
    session and every other query stay as they are. Temporary views of such a result belong to its session.

    Args:
        left, right: Frames, or table names with their catalog.
        on: Key columns; by default all columns that both sides have. Among them must be every partition column that is
            read: leave ``event_date`` out of both sides, or join on it too.
        how: ``inner``, ``left``, ``semi`` or ``anti``.
        exchange: ``refuse``, ``one-side`` or ``warn`` (see ``Exchange``).
        hash_side: ``left`` (inner joins only) or ``right``: hash that side's bucket in memory instead of sorting both
            sides. Faster for wide rows; the hashed side's largest bucket must fit in a task's memory.
        spark: Session that table names are looked up in; the active one by default.

    Returns:
        The key columns, the left side's other columns, and (``inner``, ``left``) the right side's. Partitions are the
        buckets.

    Raises:
        ShuffleRefusedError: rows would move; says why and what to do.
        UsageError: unknown or ambiguous columns, types that cannot be compared.

    Example:
        >>> bucket_join("lake.clicks.impressions", "lake.clicks.requests")      # doctest: +SKIP
    """
    mode = choice(Exchange, exchange, "exchange")
    kind = choice(How, how, "join")
    first, second = as_frame(left, spark), as_frame(right, spark)
    keys = join_keys(first, second, on)
    if kind.keeps_right:
        refuse_shared(first, second, keys)
    if hash_side not in (None, "right") and not (hash_side == "left" and kind is How.INNER):
        raise UsageError(
            f"a {kind.value} join cannot hash the side {hash_side}",
            expected="right, or left for inner joins",
        )
    with translated():
        result, blocking = settled(first, second, keys, kind, hash_side, one_side=mode is Exchange.ONE_SIDE)
    if not blocking:
        return result
    if mode is Exchange.WARN:
        reasons = "; ".join(f"{r.text} ({r.fix})" for r in blocking)
        warnings.warn(f"the join moves rows: {reasons}", ShuffleWarning, stacklevel=2)
        return result
    raise ShuffleRefusedError(
        "the join would move rows: " + "; ".join(r.text for r in blocking),
        fix=" ".join(dict.fromkeys(r.fix for r in blocking)),
    )


def settled(
    left: DataFrame, right: DataFrame, keys: Sequence[str], how: How, hash_side: str | None = None, *, one_side: bool
) -> tuple[DataFrame, tuple[Reason, ...]]:
    """A join under the settings that leave its rows where they are, and why that did not succeed (empty: it did).

    Args:
        left, right, keys, how, hash_side: As for ``bucket_join``, checked.
        one_side: One side may move.
    """
    plain = joined(left, right, keys, how, hash_side)
    plugins = losing_plugins(plain.sparkSession)
    lossy = tuple(_lossy(plugin) for plugin in plugins)
    if not all(plugin.unequal for plugin in plugins):
        return in_own_session(plain, NO_BUCKETS), lossy
    wanted = {**BUCKET_JOIN, **EQUAL_COUNTS} if plugins else BUCKET_JOIN
    result = in_own_session(plain, wanted) if missing(plain.sparkSession, wanted) else plain
    join = top_join(physical_plan(result))
    if join is None or not any(map(moved, join.children)):
        return result, ()
    blocking = tuple(r for r in reasons_of(join, result.sparkSession) if r.blocks)
    sides = tuple(map(_below_exchange, join.children))
    # Spark 4.1 misplaces rows above a join of unequal counts, so below it there may be nothing but reading.
    if all(side.stays for side in sides) and {r.cause for r in blocking} == {Cause.BUCKETS}:
        if lossy:
            blocking = (*lossy, *blocking)
        grouped = None if lossy else _try(plain, {**wanted, **COMPATIBLE_COUNTS}, most=0)
        if grouped is not None:
            return grouped, ()
    if one_side:
        bucketed = [side.layout.startswith("keygrouped") for side in sides]
        # Spark would keep whichever side has more partitions, be it the one that a shuffle has just made.
        if bucketed == [True, False]:
            plain = joined(left, fenced(right), keys, how, hash_side)
        elif bucketed == [False, True]:
            plain = joined(fenced(left), right, keys, how, hash_side)
        shuffled = _try(plain, {**wanted, **ONE_SIDE}, most=1)
        if shuffled is not None:
            return shuffled, ()
    return result, blocking


def _lossy(plugin: LosingPlugin) -> Reason:
    return Reason(cause=Cause.PLUGIN, text=f"{plugin.told} loses rows of {plugin.loses}", fix=plugin.remedy)


def top_join(plan: Node) -> Node | None:
    """The join nearest the result; ``None`` when the optimizer needed none."""
    return next((node for node in reversed(list(plan.walk())) if node.is_join), None)


def _below_exchange(side: Node) -> Node:
    while side.is_shuffle or side.is_sort:
        side = side.children[0]
    return side


def _try(plain: DataFrame, settings: Mapping[str, str], most: int) -> DataFrame | None:
    """The join under some settings, fenced off, if at most so many of its sides move."""
    result = fenced(in_own_session(plain, settings))
    try:
        join = top_join(physical_plan(result))
    except ENGINE_ERRORS:
        # Spark 4.1 fails to plan outer joins that keep the side with more buckets.
        return None
    return result if join is not None and sum(map(moved, join.children)) <= most else None

"""Layout ``user``: positions of events in their users' lists, as SQL.

A position is an event's for ever, so a list from which events were dropped has gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.event_groups import EventGroup
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.rows import only_row

__all__ = [
    "GAPS_TYPE",
    "at_index",
    "broken_lists",
    "event_index",
    "has_run",
    "held_spans",
    "named_spans",
    "position_gaps",
    "spans_run",
    "stands",
]

GAPS_TYPE = "array<struct<at:bigint,missing:bigint>>"
_LIST, _GAPS, _HELD, _BESIDE = "_dedup_list", "_dedup_gaps", "_dedup_held", "_dedup_beside"
_UNSOUND = "_dedup_unsound"
_FIRST, _END, _REACHED, _SPAN = "_dedup_first", "_dedup_end", "_dedup_reached", "_dedup_span"


def position_gaps(events: Column, place: str) -> Column:
    """Where a user's list goes on behind a gap: the position there, and how many events before it are missing.

    Null where an event has no position, or two have the same: then nothing can be cut out by position.

    Args:
        events: Structs in order of position, at least one.
        place: Their field of the position.
    """
    numbers = F.sequence(F.lit(0), F.size(events) - F.lit(1))

    def missing(number: Column) -> Column:
        return F.get(events, number)[place] - number

    def before(number: Column) -> Column:
        return F.coalesce(missing(number - F.lit(1)), F.lit(0))

    # Missing ones never become fewer where each position is greater than the one before.
    whole = events[place] == F.sequence(F.lit(0).cast("bigint"), (F.size(events) - F.lit(1)).cast("bigint"))
    sound = F.forall(numbers, lambda n: F.coalesce(missing(n) >= before(n), F.lit(False)))
    begun = F.filter(numbers, lambda n: missing(n) != before(n))
    found = F.transform(begun, lambda n: F.struct(F.get(events, n)[place].alias("at"), missing(n).alias("missing")))
    return F.when(whole, F.array().cast(GAPS_TYPE)).when(sound, found.cast(GAPS_TYPE))


def has_run(events: Column, gaps: Column, place: str, start: Column, length: Column) -> Column:
    """Whether a user's list has every event of a run of one or more; null counts as no.

    Args:
        events, gaps: Of ``position_gaps``.
        place: The field of the position.
        start, length: Of the run.
    """
    return at_index(gaps, start, lambda first: stands(events, first, place, start, length))


def stands(events: Column, first: Column, place: str, start: Column, length: Column) -> Column:
    """What ``has_run`` says, of the index of the run's first event."""
    last = first + length.cast("int") - F.lit(1)
    there = (F.get(events, first)[place] == start) & (F.get(events, last)[place] == start + length - F.lit(1))
    return F.coalesce(there, F.lit(False))


def held_spans(events: Column, gaps: Column, place: str) -> Column:
    """The positions of a user's list as spans between its gaps: structs of ``first``, ``last`` and ``missing`` before.

    Where ``gaps`` is null, only those of events that stand where their positions say, as ``has_run`` looks for them.

    Args:
        events, gaps, place: Of ``position_gaps``.
    """
    numbers = F.sequence(F.lit(0), F.size(events) - F.lit(1))

    def position(number: Column) -> Column:
        return F.get(events, number)[place]

    def turns(number: Column, beside: Column) -> Column:
        missing, other = position(number) - number, position(beside) - beside
        return missing.isNotNull() & ~missing.eqNullSafe(other)

    begins = F.filter(numbers, lambda n: turns(n, n - F.lit(1)))
    ends = F.filter(numbers, lambda n: turns(n, n + F.lit(1)))
    spans = F.zip_with(begins, ends, lambda n, m: _span(position(n), position(m), position(n) - n))
    whole = F.array(_span(F.lit(0), F.size(events) - F.lit(1), F.lit(0)))
    in_place = F.filter(spans, lambda span: span["missing"] == 0)
    return F.when(F.size(gaps) == 0, whole).when(gaps.isNull(), in_place).otherwise(spans)


def _span(*values: Column) -> Column:
    names = ("first", "last", "missing")
    return F.struct(*(value.cast("bigint").alias(name) for name, value in zip(names, values, strict=True)))


def spans_run(spans: Column, start: Column, length: Column) -> Column:
    """What ``has_run`` says, of ``held_spans`` in place of the list."""
    end = start + (length.cast("bigint") - F.lit(1))

    def at(span: Column, position: Column) -> Column:
        return (span["first"] <= position) & (position <= span["last"])

    # As many are missing before the last event as before the first: none between them. In order, that is one span.
    there = F.exists(
        spans, lambda a: at(a, start) & F.exists(spans, lambda b: at(b, end) & (a["missing"] == b["missing"]))
    )
    return F.coalesce(there, F.lit(False))


def at_index(gaps: Column, start: Column, made: Callable[[Column], Column]) -> Column:
    """What is made of an ``event_index``, which is looked for once.

    Runs are elements of an array: Spark would look for the index of each anew wherever it is named.

    Args:
        gaps, start: Of ``event_index``.
        made: Gives the result of the index.
    """
    return F.get(F.transform(F.array(event_index(gaps, start)), made), F.lit(0))


def event_index(gaps: Column, start: Column) -> Column:
    """Where the event at a position stands in its user's list, from 0.

    Args:
        gaps: Of ``position_gaps``.
        start: The position.
    """
    last = F.try_element_at(F.filter(gaps, lambda gap: gap["at"] <= start), F.lit(-1))
    return (start - F.coalesce(last["missing"], F.lit(0))).cast("int")


def named_spans(requests: DataFrame, user: str, runs: str, name: str) -> DataFrame:
    """One row a user: the positions that some runs name, as spans that do not touch.

    Args:
        requests: Rows with the user and the runs.
        user, runs: Their columns.
        name: Of the column of spans, structs of ``first`` and ``end`` (exclusive).
    """
    run = F.col(_SPAN)
    rows = requests.select(user, F.explode(runs).alias(_SPAN)).filter(run["length"] > 0)
    rows = rows.select(user, run["start"].alias(_FIRST), (run["start"] + run["length"]).alias(_END)).distinct()
    order = Window.partitionBy(user).orderBy(_FIRST, _END)
    rows = rows.withColumn(_REACHED, F.max(_END).over(order.rowsBetween(Window.unboundedPreceding, -1)))
    begins = F.coalesce((F.col(_FIRST) > F.col(_REACHED)).cast("int"), F.lit(1))
    rows = rows.withColumn(_SPAN, F.sum(begins).over(order.rowsBetween(Window.unboundedPreceding, 0)))
    spans = rows.groupBy(user, _SPAN).agg(F.min(_FIRST).alias("first"), F.max(_END).alias("end"))
    return spans.groupBy(user).agg(F.sort_array(F.collect_list(F.struct("first", "end"))).alias(name))


def broken_lists(spec: DatasetSpec, group: EventGroup, events: DataFrame, requests: DataFrame) -> tuple[int, int]:
    """How many users have two events at one position, or one at none; and how many requests have a run that names
    events which are not there, or a list beside their runs, which nobody would read.

    Args:
        spec: The dataset.
        group: The group.
        events: Rows of its table.
        requests: Rows of the table of requests, as they are stored.
    """
    user, place = spec.schema_.user, group.position_column
    positions = F.sort_array(F.collect_list(F.struct(F.col(place).alias(place))))
    lists = events.groupBy(user).agg(positions.alias(_LIST))
    lists = lists.withColumn(_GAPS, position_gaps(F.col(_LIST), place))
    astray = F.coalesce(F.exists(group.runs_column, lambda r: ~_named(r)), F.lit(False))
    beside = F.col(group.runs_column).isNotNull() & reduce(or_, (F.col(c).isNotNull() for c in group.columns))
    rows = requests.select(user, group.runs_column, beside.alias(_BESIDE))
    # A list is as long as its user's history, and would go to each request: of nearly all users this is one span.
    unsound, held = F.col(_GAPS).isNull().alias(_UNSOUND), held_spans(F.col(_LIST), F.col(_GAPS), place).alias(_HELD)
    rows = rows.join(lists.select(user, unsound, held).hint("merge"), [user], "full")
    # Both are counted at once, so that events are gathered once; a user without requests is a row of its own here.
    users = F.count_distinct(F.when(F.col(_UNSOUND), F.struct(user)))
    found = only_row(rows.agg(users.alias("users"), F.count_if(astray | F.col(_BESIDE)).alias("requests")))
    return int(found["users"]), int(found["requests"])


def _named(run: Column) -> Column:
    """Whether a run has a start and a length, and all of its events are there."""
    found = spans_run(F.col(_HELD), run["start"], run["length"])
    return F.coalesce((run["start"] >= 0) & (run["length"] > 0), F.lit(False)) & found

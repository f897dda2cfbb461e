"""Layout ``user`` as rows with their lists: each list cut out of its user's list of events.

Plain SQL, so that whatever engine reads the tables can do the same. Spark leaves out the join where no list is asked
for, since the users' lists are distinct by user. A list is cut by index, which is the position less the events before
it that were dropped; that the events of a run are there, each once, is seen by its first and its last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from dedup_storage.dataset.positions import GAPS_TYPE, at_index, position_gaps, stands
from dedup_storage.event_groups import RUNS_TYPE, EventGroup
from dedup_storage.layout import DatasetSpec

__all__ = ["EventFeatures", "source_typed", "user_lists", "with_feature_lists", "with_lists"]

_EVENTS, _LIST, _VALUES, _GAPS = "_dedup_events_", "_dedup_list_", "_dedup_values_", "_dedup_gaps_"


class EventFeatures(NamedTuple):
    """Features of the events of one sequence group.

    Attributes:
        group: The sequence group.
        table: Name of their table.
        types: Feature -> Spark DDL type of its values.
        rows: The table's rows.
    """

    group: EventGroup
    table: str
    types: Mapping[str, str]
    rows: DataFrame


def with_lists(spec: DatasetSpec, requests: DataFrame, events: Mapping[str, DataFrame]) -> DataFrame:
    """Request rows with the lists that were logged in their list columns.

    Args:
        spec: The dataset.
        requests: Rows of its table of requests, with the user, the list columns and the runs.
        events: Group -> rows of its table of events.

    Returns:
        The same rows and columns. A user's events that are not all there, each at its position, are refused when the
        lists are made: whatever stood in their place would be another list.
    """
    columns = requests.columns
    rows = requests
    for group in spec.events:
        name = _EVENTS + group.name
        lists = user_lists(spec, group, events[group.name], name).hint("merge")
        rows = rows.join(lists, [spec.schema_.user], "left")
        rows = rows.withColumn(_LIST + group.name, _list(group, name)).drop(name, _GAPS + name)
    types = {field.name: field.dataType for field in requests.schema.fields}
    rebuilt = {
        c: F.when(F.col(g.runs_column).isNull(), F.col(c))
        .otherwise(F.col(_LIST + g.name).getField(c).cast(types[c]))
        .alias(c)
        for g in spec.events
        for c in g.columns
    }
    return rows.select(*(rebuilt.get(c, F.col(c)) for c in columns))


def with_feature_lists(spec: DatasetSpec, requests: DataFrame, features: Iterable[EventFeatures]) -> DataFrame:
    """Request rows with a further list for each feature of events, parallel to the lists of its group.

    An event that has no row yet is null in it, and so is every element of a list that is no window: its elements are
    no events. A list is as long as the group's own in any case, and null where the group's first is.

    Args:
        spec: The dataset.
        requests: Rows of its table of requests as they are stored.
        features: What to add.
    """
    rows = requests
    for number, each in enumerate(features):
        group, name = each.group, f"{_VALUES}{number}"
        # The rows of users that have none yet are not there, which is an empty list of values.
        own = group.model_copy(update={"columns": tuple(each.types)})
        values = user_lists(spec, own, each.rows, name, each.table).hint("merge")
        made = cast(ArrayType, values.schema[name].dataType)
        none = F.lit(None).cast(made.elementType)
        rows = rows.join(values, [spec.schema_.user], "left")
        cut = _cut(group, F.coalesce(F.col(name), F.array().cast(made)), _gaps(name), none)
        first = group.columns[0]
        columns = {
            c: F.when(F.col(group.runs_column).isNull(), _nulls(first, kind))
            .otherwise(F.col(_LIST + name).getField(c))
            .cast(f"array<{kind}>")
            for c, kind in each.types.items()
        }
        rows = rows.withColumn(_LIST + name, cut).withColumns(columns).drop(name, _GAPS + name, _LIST + name)
    return rows


def _nulls(column: str, kind: str) -> Column:
    """A list of nulls as long as another one; null where that is."""
    return F.transform(column, lambda _: F.lit(None).cast(kind))


def _cut(group: EventGroup, values: Column, gaps: Column, none: Column) -> Column:
    """The values of a request's events, with ``none`` for each behind the last one that has some."""
    runs = F.coalesce(F.col(group.runs_column), F.array().cast(RUNS_TYPE))
    place = group.position_column
    end = F.coalesce(F.get(values, F.size(values) - F.lit(1))[place] + F.lit(1), F.lit(0))

    def known(run: Column) -> Column:
        return F.greatest(F.least(end - run["start"], run["length"].cast("bigint")), F.lit(0)).cast("int")

    def piece(run: Column) -> Column:
        start, length, size = run["start"], run["length"], known(run)

        def cut(first: Column) -> Column:
            sound = (start >= 0) & (length >= 0) & ((size == 0) | stands(values, first, place, start, size))
            there = F.slice(values, first + F.lit(1), size)
            return F.when(sound, F.concat(there, F.array_repeat(none, length - size)))

        return at_index(gaps, start, cut)

    return _joined(group, F.transform(runs, piece))


def source_typed(spec: DatasetSpec, rows: DataFrame, columns: Iterable[str]) -> DataFrame:
    """Columns in the types of the source: Iceberg has no 8- and 16-bit integers."""
    types = dict(zip(spec.source_columns, spec.source_types, strict=True))
    return rows.select(*(F.col(c).cast(types[c]).alias(c) if c in types else F.col(c) for c in columns))


def user_lists(
    spec: DatasetSpec, group: EventGroup, events: DataFrame, name: str, table: str | None = None
) -> DataFrame:
    """One row a user: the user, the events in order of position, structs of position and values, and the gaps in them.

    A user with two events at one position, or one at none, is refused.

    Args:
        spec: The dataset.
        group: The group.
        events: Rows of its table.
        name: Of the list's column.
        table: The table's name for messages; ``None`` for that of the events themselves.
    """
    place = group.position_column
    event = F.struct(F.col(place).alias(place), *(F.col(c).alias(c) for c in group.columns))
    listed = F.collect_list(event)
    if any("map<" in events.schema[c].dataType.simpleString() for c in group.columns):
        # Maps have no order. Positions differ, so that values are compared nowhere.
        listed = F.array_sort(listed, lambda a, b: F.when(a[place] < b[place], F.lit(-1)).otherwise(F.lit(1)))
    else:
        listed = F.sort_array(listed)
    lists = events.groupBy(spec.schema_.user).agg(listed.alias(name))
    gaps = F.coalesce(position_gaps(F.col(name), place), _refused(group, table).cast(GAPS_TYPE))
    return lists.withColumn(_GAPS + name, gaps)


def _gaps(events: str) -> Column:
    """The gaps of a list; none where the user has no list."""
    return F.coalesce(F.col(_GAPS + events), F.array().cast(GAPS_TYPE))


def _list(group: EventGroup, events: str) -> Column:
    """The events of a request, as the log had them; empty where it has no runs."""
    runs, gaps = F.coalesce(F.col(group.runs_column), F.array().cast(RUNS_TYPE)), _gaps(events)
    listed, place = F.col(events), group.position_column

    def piece(run: Column) -> Column:
        start, length = run["start"], run["length"]

        def cut(first: Column) -> Column:
            sound = (start >= 0) & ((length == 0) | ((length > 0) & stands(listed, first, place, start, length)))
            return F.when(sound, F.slice(listed, first + F.lit(1), length))

        return at_index(gaps, start, cut)

    return _joined(group, F.transform(runs, piece))


def _joined(group: EventGroup, pieces: Column) -> Column:
    """Pieces of a user's list one after the other; refused where one is null, for its events are not all there."""
    whole = F.flatten(pieces)
    whole = F.reverse(whole) if group.newest_first else whole
    return F.coalesce(whole, _refused(group))


def _refused(group: EventGroup, table: str | None = None) -> Column:
    return F.raise_error(
        F.lit(
            f"{table or group.table} does not hold every event of a user once: expected all events that "
            f"{group.runs_column} names, each at a position of its own. Another tool has changed its rows: restore "
            "the table, or roll back to the version before."
        )
    )

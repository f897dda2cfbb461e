"""What layout ``user`` stores once for each user: groups of parallel lists, and the tables that hold their events.

A user's list of a group only grows at its end: an event's position never changes. A request keeps runs of it, or its
own list where that is no window. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from dedup_storage.errors import SchemaError

__all__ = [
    "RUNS_TYPE",
    "EpochGrain",
    "EventGroup",
    "ProposedGroup",
    "element_type",
    "event_groups",
    "features_prefix",
    "free_name",
    "is_features_table",
    "table_group",
]

# Where a request's list stands in its user's list, oldest event first; positions count from 0.
RUNS_TYPE = "array<struct<start:bigint,length:int>>"
_LIST = re.compile(r"array<(.*)>", re.IGNORECASE | re.DOTALL)
_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# A table of features of events says of which group they are: by its number, which never changes, not by its name.
_FEATURES = re.compile(r"fe([0-9]{1,6})_.+")


class EpochGrain(StrEnum):
    """The epochs that events are partitioned by, beside the user bucket: of their first appearance."""

    MONTH = "month"
    NONE = "none"


class EventGroup(BaseModel):
    """Parallel lists whose values belong to events, and the table that holds each event once.

    Attributes:
        name: Of its own, safe in the name of a table.
        columns: The log's list columns; the table has them with the type of an element.
        newest_first: The log's lists begin with the newest event. Runs count from the oldest all the same, so a list
            is its runs one after the other, and then turned round.
        runs_column: Column of the requests' table. Null: the list columns stand as they are. Not null: they are null,
            and each of the group's lists is its runs of the user's list, none for an empty list.
        position_column: An event's place in its user's list, from 0.
        epoch_column: First day of the month of an event's first appearance; null without event dates or epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    columns: tuple[str, ...]
    newest_first: bool = False
    runs_column: str
    position_column: str
    epoch_column: str

    @property
    def table(self) -> str:
        """Name of the events' table."""
        return f"events_{self.name}"

    def key(self, user: str) -> tuple[str, str]:
        """Columns that identify an event."""
        return user, self.position_column

    def table_columns(self, user: str) -> tuple[str, ...]:
        """Columns of the events' table, in order."""
        return (user, self.position_column, self.epoch_column, *self.columns)

    def types(self, columns: Mapping[str, str], user: str) -> dict[str, str]:
        """Column of the events' table -> Spark DDL type.

        Args:
            columns: The log's columns and their types.
            user: The user column.
        """
        own = {user: columns[user], self.position_column: "bigint", self.epoch_column: "date"}
        return {**own, **{c: element_type(c, columns[c]) for c in self.columns}}


class ProposedGroup(NamedTuple):
    """A group as it was found in a log.

    Attributes:
        name: The sequence group's name, or its column's.
        columns: Columns of the event.
        newest_first: New events come at the front.
        dictionaries: Columns that keep their dictionary where each event stands once.
    """

    name: str
    columns: tuple[str, ...]
    newest_first: bool
    dictionaries: tuple[str, ...] = ()


def event_groups(found: Sequence[ProposedGroup], taken: Iterable[str], user: str) -> tuple[EventGroup, ...]:
    """Groups with names of tables and columns that nothing else has.

    Args:
        found: The groups.
        taken: Names of the dataset's other columns.
        user: The user column.
    """
    groups: list[EventGroup] = []
    names = [*taken]
    for group in found:
        told = group.name if _SAFE.fullmatch(group.name) else group.columns[0][:100]
        name = free_name(told, (g.name for g in groups))
        runs = free_name(f"{name}_runs", names)
        names.append(runs)
        groups.append(
            EventGroup(
                name=name,
                columns=group.columns,
                newest_first=group.newest_first,
                runs_column=runs,
                position_column=free_name("position", (user, *group.columns)),
                epoch_column=free_name("epoch", (user, *group.columns)),
            )
        )
    return tuple(groups)


def element_type(column: str, kind: str) -> str:
    """Spark DDL type of a list's elements.

    Raises:
        SchemaError: the column is no list.
    """
    found = _LIST.fullmatch(kind.strip())
    if found is None:
        raise SchemaError(f"the sequence column {column} is not a list", expected="array<...>", got=kind)
    return found.group(1)


def features_prefix(number: int) -> str:
    """How the tables of features of a group's events begin.

    Args:
        number: The group's place among the dataset's.
    """
    return f"fe{number}_"


def is_features_table(table: str) -> bool:
    """Whether a table is named as those of features of events."""
    return _FEATURES.fullmatch(table) is not None


def table_group(table: str, groups: Sequence[EventGroup]) -> EventGroup | None:
    """The group of which a table has a row an event: the events themselves, or features of them.

    Args:
        table: Its name.
        groups: The dataset's.
    """
    named = _FEATURES.fullmatch(table)
    if named is not None:
        return groups[int(named[1])] if int(named[1]) < len(groups) else None
    return next((group for group in groups if group.table == table), None)


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, with underscores before it until no name in ``taken`` equals it but for case."""
    names = {n.lower() for n in taken}
    while name.lower() in names:
        name = "_" + name
    return name

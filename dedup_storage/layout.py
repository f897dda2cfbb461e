"""How a dataset lies on disk: tables, columns, partitions, sort order, names of versions. Pure.

A dataset is a namespace. Its anchor table (``logs`` in flat layout, else ``requests``) describes the dataset in its
properties and decides by its tags which versions exist:

``v<N>`` on the anchor
    version N is published; every other table of the version carries a tag of the same name.
``claim-v<N>`` on the anchor
    version N is decided: the tagged, staged snapshot's summary names the staged snapshots that make it.
    Whoever finds a claim without its version completes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.event_groups import (
    RUNS_TYPE,
    EpochGrain,
    EventGroup,
    ProposedGroup,
    event_groups,
    free_name,
    table_group,
)
from dedup_storage.schema import DateGrain, Grain, LogSchema, check_name, explain_validation

__all__ = [
    "LABEL_TIMES",
    "PROPERTY_PREFIX",
    "DatasetSpec",
    "EpochGrain",
    "EventGroup",
    "Layout",
    "ProposedGroup",
    "TableRole",
    "TableSpec",
    "claim_tag",
    "free_name",
    "parse_version_tag",
    "propose_epochs",
    "propose_segments",
    "version_tag",
]

PROPERTY_PREFIX = "dedup-storage."
# Format version of datasets that releases before layout ``user`` cannot read.
USER_FORMAT = 2
# The table of merged late labels' times, which every merge adds to.
LABEL_TIMES = "label_times"
SPEC_PROPERTY = PROPERTY_PREFIX + "dataset"
ROLE_PROPERTY = PROPERTY_PREFIX + "role"
# Columns and types that a feature group's table was created with.
COLUMNS_PROPERTY = PROPERTY_PREFIX + "columns"
# Of a dataset's own tables: a digest of the description that they were created for.
MADE_FOR_PROPERTY = PROPERTY_PREFIX + "made-for"
# Columns that feature groups were ever promoted to, comma-separated; a version's groups say which of them count.
PROMOTED_PROPERTY = PROPERTY_PREFIX + "promoted-columns"
# Snapshot fact, and property of a table whose snapshots were expired: the definition of the feature group it holds.
DEFINITION = "feature-group"

TARGET_SEGMENT_BYTES = 256 * 1024**2
SMALL_SEGMENT_BYTES = 16 * 1024**2
_VERSION_TAG = re.compile(r"v([1-9][0-9]*)")


class Layout(StrEnum):
    """How a dataset's tables divide its columns."""

    SPLIT = "split"
    FLAT = "flat"
    USER = "user"

    @property
    def divided(self) -> bool:
        """Whether requests and impressions have a table each."""
        return self is not Layout.FLAT


class TableRole(StrEnum):
    """What a table is for."""

    REQUESTS = "requests"
    IMPRESSIONS = "impressions"
    LOGS = "logs"
    EVENTS = "events"
    QUARANTINE = "quarantine"
    FEATURES = "features"
    LABELS = "labels"
    SAMPLE = "sample"


class TableSpec(BaseModel):
    """One table of a dataset.

    Attributes:
        role: What it is for; also its name, except for feature groups (``fg_<name>``, of events ``fe<number>_<name>``)
            and events (``events_<group>``).
        columns: Its columns in order, system columns included.
        sort_columns: Local order inside a segment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: TableRole
    name: str
    columns: tuple[str, ...]
    sort_columns: tuple[str, ...]


class DatasetSpec(BaseModel):
    """A dataset's description of itself, kept as JSON in its anchor table's properties.

    Attributes:
        schema_: The log schema with every column's grain declared.
        layout: ``split``, ``flat`` or ``user``.
        date_grain: Date part of a segment.
        buckets: User part of a segment: ``bucket(buckets, user)``.
        source_columns: The log's columns in the source's order; ``logs()`` gives exactly these.
        source_types: Spark DDL type of each source column, in the same order.
        event_date_column: Column of type date, derived from event time (UTC) unless the source has it; ``None`` without
            an event time. Present at every date grain: it costs next to nothing and lets days be replaced and read.
        position_column: The candidate's ordinal; assigned at write unless the source has it.
        adopted: The log lies as it was found, not in segments.
        events: Layout ``user``: the lists of which each event is stored once; none where no list is a window. None in
            other layouts.
        epoch_grain: Epochs by which events are partitioned; a month where there are none, and it says nothing.
        format_version: 2 for layout ``user``, which older releases do not know; else 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    format_version: int = 1
    name: str
    schema_: LogSchema = Field(alias="schema")
    layout: Layout
    date_grain: DateGrain
    buckets: int = Field(ge=1)
    source_columns: tuple[str, ...]
    source_types: tuple[str, ...]
    event_date_column: str | None
    position_column: str
    adopted: bool = False
    events: tuple[EventGroup, ...] = ()
    epoch_grain: EpochGrain = EpochGrain.MONTH

    @property
    def types(self) -> dict[str, str]:
        """Source column -> Spark DDL type."""
        return dict(zip(self.source_columns, self.source_types, strict=True))

    def extended(self, schema: LogSchema, added: Mapping[str, str]) -> DatasetSpec:
        """The description with further source columns after the others.

        Args:
            schema: With the grain of every column declared.
            added: Column -> Spark DDL type, in order.
        """
        return self.model_copy(
            update={
                "schema_": schema,
                "source_columns": (*self.source_columns, *added),
                "source_types": (*self.source_types, *added.values()),
            }
        )

    @property
    def assigns_position(self) -> bool:
        """Whether ``write`` makes the position column."""
        return self.schema_.position is None

    @property
    def assigns_event_date(self) -> bool:
        """Whether ``write`` makes the date column."""
        return self.event_date_column is not None and self.event_date_column not in self.source_columns

    @property
    def anchor(self) -> TableSpec:
        """The table whose tags decide which versions exist."""
        return self.tables[0]

    @property
    def request_key(self) -> tuple[str, ...]:
        """Key of a request row."""
        return self.schema_.request_key

    @property
    def impression_key(self) -> tuple[str, ...]:
        """Key of an impression row."""
        return (*self.schema_.request_key, self.position_column)

    def columns_of(self, grain: Grain) -> tuple[str, ...]:
        """Source columns of one grain that are no request key, in the source's order."""
        grains = self.schema_.declared_grains()
        keys = self.request_key
        return tuple(c for c in self.source_columns if c not in keys and grains[c] is grain)

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The data tables, anchor first."""
        dates = (self.event_date_column,) if self.event_date_column else ()
        sort = self.request_key

        def ordered(*groups: Iterable[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(c for group in groups for c in group))

        requests = (*self.columns_of(Grain.REQUEST), *self.runs_columns)
        impressions = self.columns_of(Grain.IMPRESSION)
        if self.layout is Layout.FLAT:
            columns = ordered(sort, dates, (self.position_column,), requests, impressions)
            return (TableSpec(role=TableRole.LOGS, name="logs", columns=columns, sort_columns=self.impression_key),)
        return (
            TableSpec(
                role=TableRole.REQUESTS,
                name="requests",
                columns=ordered(sort, dates, requests),
                sort_columns=sort,
            ),
            TableSpec(
                role=TableRole.IMPRESSIONS,
                name="impressions",
                columns=ordered(sort, dates, (self.position_column,), impressions),
                sort_columns=self.impression_key,
            ),
            *(
                TableSpec(
                    role=TableRole.EVENTS,
                    name=group.table,
                    columns=group.table_columns(self.schema_.user),
                    sort_columns=(self.schema_.user, group.position_column),
                )
                for group in self.events
            ),
        )

    @property
    def runs_columns(self) -> tuple[str, ...]:
        """Columns of the requests that hold runs in place of lists; none but in layout ``user``."""
        return tuple(group.runs_column for group in self.events)

    def event_group(self, table: str) -> EventGroup | None:
        """The group of whose events a table has a row each, themselves or features; ``None`` for any other table."""
        return table_group(table, self.events)

    def partitioned(self, table: str) -> DatasetSpec:
        """The description by which a table is partitioned: events and their features lie by the epoch of their first
        appearance."""
        group = self.event_group(table)
        if group is None:
            return self
        dated = self.has_epochs
        return self.model_copy(
            update={
                "event_date_column": group.epoch_column if dated else None,
                "date_grain": DateGrain.DAY if dated else DateGrain.NONE,
            }
        )

    @property
    def has_epochs(self) -> bool:
        """Whether events are partitioned by the month of their first appearance."""
        return self.event_date_column is not None and self.epoch_grain is EpochGrain.MONTH

    @property
    def told_epochs(self) -> EpochGrain | None:
        """By what events are partitioned beside buckets; ``None`` where no events are stored."""
        if not self.events:
            return None
        return EpochGrain.MONTH if self.has_epochs else EpochGrain.NONE

    def require_stored_lists(self, what: str) -> None:
        """Refuse what needs each request's lists as they lie in its row.

        Raises:
            UsageError: the layout is ``user``, and lists are stored as events.
        """
        if self.events:
            raise UsageError(
                f"{what} is not there for layout user, which the dataset {self.name} has",
                fix=f"Convert it: dedup-storage convert NEW_NAME --dataset {self.name} --layout split.",
            )

    def types_of(self, table: str, columns: Mapping[str, str]) -> dict[str, str]:
        """Column of a table -> Spark DDL type.

        Args:
            table: Its name.
            columns: The dataset's columns, system columns included.
        """
        group = self.event_group(table)
        if group is not None and group.table == table:
            return group.types(columns, self.schema_.user)
        return {**columns, **{g.runs_column: RUNS_TYPE for g in self.events}}

    def table(self, role: TableRole) -> TableSpec:
        """The table of one role."""
        for table in self.tables:
            if table.role is role:
                return table
        raise UnknownColumnError(
            f"the dataset {self.name} has no table {role.value}",
            expected=known_names(role.value, (t.role.value for t in self.tables)),
            got=f"layout {self.layout.value}",
        )

    def to_json(self) -> str:
        """The property's value."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        values["schema"] = self.schema_.to_dict()
        if not self.adopted:
            # Unsaid where it says nothing, so that older releases read the rest.
            del values["adopted"]
        if not self.events:
            del values["events"]
        if self.epoch_grain is EpochGrain.MONTH:
            del values["epoch_grain"]
        return json.dumps(values, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetSpec:
        """Read the property's value.

        Raises:
            SchemaError: the text is no description that this release understands.
        """
        _refuse_newer(text)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SchemaError("the dataset's description is not valid: " + explain_validation(error, cls)) from None

    @classmethod
    def build(
        cls,
        name: str,
        schema: LogSchema,
        source: Mapping[str, str],
        *,
        layout: Layout,
        date_grain: DateGrain,
        buckets: int,
        groups: Sequence[ProposedGroup] = (),
        epoch_grain: EpochGrain = EpochGrain.MONTH,
    ) -> DatasetSpec:
        """Describe a new dataset.

        Args:
            name: Dataset (namespace) name.
            schema: With the grain of every column declared.
            source: Flat source column -> Spark DDL type, in order.
            layout: ``split``, ``flat`` or ``user``.
            date_grain: Date part of a segment.
            buckets: Number of user buckets.
            groups: Layout ``user``: the lists of which each event is stored once.
            epoch_grain: Epochs by which their events are partitioned.

        Raises:
            SchemaError: a column has no grain, or a system column's name is taken.
        """
        check_name(name, "dataset name")
        grains = schema.declared_grains()
        for column in source:
            check_name(column, "column name")
            if column not in grains:
                raise SchemaError(
                    f"the grain of the column {column} is not known",
                    expected="request or impression",
                    fix=f"Declare it under columns: {{{column}: request}}, or let it be detected.",
                )
        event_date = None
        if schema.event_time is not None:
            is_date = source.get("event_date") == "date" and grains["event_date"] is Grain.REQUEST
            event_date = "event_date" if is_date else free_name("event_date", source)
        position = schema.position or free_name("position", source)
        taken = (*source, position, *([event_date] if event_date else []))
        return cls(
            format_version=USER_FORMAT if layout is Layout.USER else 1,
            name=name,
            schema_=schema.with_grains({c: grains[c] for c in source}),
            layout=layout,
            date_grain=date_grain,
            buckets=buckets,
            source_columns=tuple(source),
            source_types=tuple(source.values()),
            event_date_column=event_date,
            position_column=position,
            events=event_groups(groups, taken, schema.user) if layout is Layout.USER else (),
            epoch_grain=epoch_grain if layout is Layout.USER and groups else EpochGrain.MONTH,
        )


def _refuse_newer(text: str) -> None:
    """Refuse a description of another format by its number, whatever else it says."""
    try:
        told = json.loads(text)
    except ValueError:
        return
    if not isinstance(told, dict):
        return
    known = USER_FORMAT if told.get("layout") == Layout.USER else 1
    if told.get("format_version", 1) != known:
        raise SchemaError(
            f"the dataset {told.get('name')} has another format version",
            expected=str(known),
            got=str(told.get("format_version", 1)),
            fix="Install a newer dedup_storage.",
        )


def propose_segments(input_bytes: int, days: int, months: int) -> tuple[DateGrain, int]:
    """Propose date grain and bucket count so that a segment holds some hundred MB and never crumbs.

    Args:
        input_bytes: Stored bytes of the input.
        days: Distinct event dates in the input (0: the log has no event time).
        months: Distinct months.

    Returns:
        The finest date grain whose dates hold at least 64 MiB each, and the power of two nearest above
        date bytes / 256 MiB, at least 4 so that small logs still read in parallel.
    """
    grain, periods = DateGrain.NONE, 1
    for candidate, count in ((DateGrain.DAY, days), (DateGrain.MONTH, months)):
        if count and input_bytes / count >= 4 * SMALL_SEGMENT_BYTES:
            grain, periods = candidate, count
            break
    buckets = 4
    while buckets < 4096 and input_bytes / periods / buckets > TARGET_SEGMENT_BYTES:
        buckets *= 2
    return grain, buckets


def propose_epochs(input_bytes: int, days: int, date_grain: DateGrain) -> EpochGrain:
    """Propose the epochs of events: months where a month's files are worth opening apart, by the measure of dates.

    Args:
        input_bytes: Stored bytes of the input.
        days: Distinct event dates in the input (0: the log has no event time).
        date_grain: That of the dataset; without dates there are no epochs either.

    Returns:
        ``month`` if thirty days like those of the input hold at least 64 MiB.
    """
    dated = date_grain is not DateGrain.NONE and days > 0
    return EpochGrain.MONTH if dated and 30 * input_bytes >= days * 4 * SMALL_SEGMENT_BYTES else EpochGrain.NONE


def version_tag(version: int) -> str:
    """Tag name of a published version."""
    return f"v{version}"


def claim_tag(version: int) -> str:
    """Tag name of a decided version."""
    return f"claim-v{version}"


def parse_version_tag(tag: str) -> int | None:
    """Version number of a version tag; ``None`` for any other tag."""
    match = _VERSION_TAG.fullmatch(tag)
    return int(match.group(1)) if match else None

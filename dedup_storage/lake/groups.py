"""Feature groups as a version knows them: which tables, which grain, which columns, computed how and from what.

A group's definition is JSON in the summary of the snapshot that a version names in the group's table. So every
version, pin and rollback has the definitions of its own time, and a version that does not name the table has no such
group. A later snapshot without a definition of its own (rows rewritten by a backfill, files moved by compaction)
keeps that of the snapshot it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dedup_storage.errors import SchemaError, UnknownColumnError, known_names
from dedup_storage.event_groups import EventGroup, features_prefix, is_features_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import DatasetSpec, Layout, TableRole, TableSpec
from dedup_storage.schema import Grain, explain_validation

__all__ = [
    "Coverage",
    "FeatureColumn",
    "FeatureGroup",
    "FeatureSource",
    "SourceKind",
    "bundle_table",
    "bundled_columns",
    "by_table",
    "columns_of",
    "feature_groups",
    "find_group",
    "grain_table",
    "group_table",
    "is_group_table",
    "known_columns",
    "promoted_columns",
    "table_name",
]

_PREFIX = "fg_"
_BUNDLE_PREFIX = "fb_"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceKind(StrEnum):
    """What a group is computed by."""

    EXPRESSION = "expression"
    FUNCTION = "function"
    JOIN = "join"
    FRAME = "frame"


class FeatureColumn(_Frozen):
    """One column: its name, its Spark DDL type, and whether the gate refuses nulls in it."""

    name: str
    type: str
    not_null: bool = False


class FeatureSource(_Frozen):
    """What a group is computed by, as far as text can say it.

    Attributes:
        kind: Which of the following counts; a ``frame`` was handed in and leaves no recipe.
        expressions: Column -> SQL expression over the columns of the grain.
        function: ``module:name``, when it can be imported under that name.
        text: Source text of a function, for reading.
        table: Joined table, ``namespace.table`` of the same catalog.
        on: Column of the dataset -> column of the joined table.
        columns: Column of the group -> column of the joined table.
    """

    kind: SourceKind
    expressions: Mapping[str, str] = Field(default_factory=dict)
    function: str | None = None
    text: str | None = None
    table: str | None = None
    on: Mapping[str, str] = Field(default_factory=dict)
    columns: Mapping[str, str] = Field(default_factory=dict)


class Coverage(_Frozen):
    """Event dates that were computed from one state of the inputs.

    Attributes:
        start, end: Half-open range of event dates (ISO); an empty text is no bound.
        version: The version that was read.
        snapshots: Its snapshot of each input table.
        lookups: State of each further table that was looked up in, ``namespace.table`` (see ``Lake.state``).
    """

    start: str = ""
    end: str = ""
    version: int
    snapshots: Mapping[str, int]
    lookups: Mapping[str, int] = Field(default_factory=dict)


class FeatureGroup(_Frozen):
    """A feature group's definition.

    Attributes:
        name: Its name now; ``table`` keeps the first one.
        table: Its table.
        grain: What one row stands for.
        columns: Its columns, without keys.
        source: What it is computed by.
        uses: Other groups whose columns it reads.
        lookback: Days of history before its own event date that a row depends on; ``None`` for all of it.
        across_users: Whether a row depends on other users' rows, so that one changed segment concerns every bucket.
        missing: ``refuse`` or ``null``: what a request, an impression or an event without a row means.
        run_id: The run that defined or last refreshed it.
        coverage: What was computed from which version; what lies outside was not computed.
        promoted: The table that holds its columns since it was promoted; its own is empty then.
        bundled: The table that holds its columns beside those of other groups since they were bundled; its own is
            empty then.
        sequence: At event grain the sequence group of whose events it has a row each; ``None`` at other grains.
    """

    name: str
    table: str
    grain: Grain
    columns: tuple[FeatureColumn, ...]
    source: FeatureSource
    uses: tuple[str, ...] = ()
    lookback: int | None = 0
    across_users: bool = False
    missing: str = "refuse"
    run_id: str = ""
    coverage: tuple[Coverage, ...] = ()
    promoted: str | None = None
    bundled: str | None = None
    sequence: str | None = None

    @property
    def home(self) -> str:
        """The table that holds its columns."""
        return self.promoted or self.bundled or self.table

    @property
    def moved(self) -> bool:
        """Whether its columns lie in another table than its own, which has no rows then."""
        return self.home != self.table

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(c.name for c in self.columns)

    @property
    def types(self) -> dict[str, str]:
        """Spark DDL type of each column."""
        return {c.name: c.type for c in self.columns}

    def key(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns that identify a row."""
        if self.grain is Grain.EVENT:
            return self.events_of(spec).key(spec.schema_.user)
        return spec.request_key if self.grain is Grain.REQUEST else spec.impression_key

    def events_of(self, spec: DatasetSpec) -> EventGroup:
        """The sequence group of whose events it has a row each.

        Raises:
            SchemaError: the dataset has none of that name.
        """
        return _sequence(spec, self.sequence)

    def to_json(self) -> str:
        """The definition as a snapshot keeps it."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str) -> FeatureGroup:
        """Read a definition.

        Raises:
            SchemaError: the text is none that this release understands.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SchemaError(
                "a feature group's definition is not valid: " + explain_validation(error, cls),
                fix="Install a newer dedup_storage.",
            ) from None


def table_name(group: str, taken: Iterable[str] = (), *, bundle: bool = False, events: int | None = None) -> str:
    """Name of a new group's table: ``fg_<group>``, numbered where that is taken; of a bundle's: ``fb_<bundle>``; at
    event grain ``fe<number of the sequence group>_<group>``."""
    prefix = _PREFIX if events is None else features_prefix(events)
    first = (_BUNDLE_PREFIX if bundle else prefix) + group
    names, number, name = set(taken), 2, first
    while name in names:
        name, number = f"{first}_{number}", number + 1
    return name


def grain_table(spec: DatasetSpec, grain: Grain, sequence: str | None = None) -> TableSpec:
    """The table that holds the dataset's own columns of one grain.

    Args:
        spec: The dataset.
        grain: The grain.
        sequence: At event grain the sequence group.
    """
    if grain is Grain.EVENT:
        events = _sequence(spec, sequence).table
        return next(table for table in spec.tables if table.name == events)
    if spec.layout is Layout.FLAT:
        return spec.table(TableRole.LOGS)
    return spec.table(TableRole.REQUESTS if grain is Grain.REQUEST else TableRole.IMPRESSIONS)


def _sequence(spec: DatasetSpec, name: str | None) -> EventGroup:
    for group in spec.events:
        if group.name == name:
            return group
    raise SchemaError(
        f"the dataset {spec.name} has no sequence group {name} whose events are stored once",
        expected=known_names(str(name), (g.name for g in spec.events)) if spec.events else "a dataset in layout user",
    )


def group_table(spec: DatasetSpec, group: FeatureGroup) -> TableSpec:
    """A group's own table: the key, the event date (of events the epoch of first appearance), the columns."""
    key = group.key(spec)
    if group.grain is Grain.EVENT:
        columns = (*key, group.events_of(spec).epoch_column, *group.names)
        return TableSpec(role=TableRole.FEATURES, name=group.table, columns=columns, sort_columns=key)
    dates = (spec.event_date_column,) if spec.event_date_column else ()
    return TableSpec(
        role=TableRole.FEATURES,
        name=group.table,
        columns=tuple(dict.fromkeys((*spec.request_key, *dates, *key, *group.names))),
        sort_columns=key,
    )


def bundle_table(spec: DatasetSpec, table: str, groups: Sequence[FeatureGroup]) -> TableSpec:
    """A table that holds the columns of several groups of one grain."""
    alone = group_table(spec, groups[0].model_copy(update={"table": table}))
    columns = (c for group in groups for c in group_table(spec, group).columns)
    return alone.model_copy(update={"columns": tuple(dict.fromkeys(columns))})


def by_table(groups: Iterable[FeatureGroup]) -> dict[str, tuple[FeatureGroup, ...]]:
    """The groups by the tables that hold their columns."""
    found: dict[str, tuple[FeatureGroup, ...]] = {}
    for group in groups:
        found[group.home] = (*found.get(group.home, ()), group)
    return found


def bundled_columns(groups: Iterable[FeatureGroup], table: str) -> dict[str, str]:
    """Columns that were bundled into a table, with their Spark DDL types."""
    return {c.name: c.type for g in groups if g.bundled == table for c in g.columns}


def promoted_columns(groups: Iterable[FeatureGroup], table: str) -> dict[str, str]:
    """Columns that were promoted into a table, with their Spark DDL types."""
    return {c.name: c.type for g in groups if g.promoted == table for c in g.columns}


def columns_of(meta: DatasetMetadata, version: int, table: str) -> tuple[str, ...]:
    """Columns that a table has in a version, in their order.

    One of the log's own tables may hold others beside them: those of versions that a rollback left behind, of feature
    groups that were dropped, of a write that was refused. So may one that groups are bundled in.
    """
    stored, spec = meta.columns(table, meta.snapshots(version)[table]), meta.spec_of(version)
    own = next((t.columns for t in spec.tables if t.name == table), None)
    if own is not None and set(stored) <= set(own):
        return stored
    if own is None and (meta.role(table) != TableRole.FEATURES or meta.definition(version, table)):
        return stored
    known = known_columns(spec, feature_groups(meta, version).values(), table)
    return stored if known is None else tuple(c for c in stored if c in known)


def known_columns(spec: DatasetSpec, groups: Iterable[FeatureGroup], table: str) -> set[str] | None:
    """Columns of a table that count, of one that may hold others beside them; ``None`` for all that it has.

    Args:
        spec: The dataset, as a version has it.
        groups: The version's groups.
        table: The table.
    """
    groups = tuple(groups)
    own = next((t.columns for t in spec.tables if t.name == table), None)
    if own is not None:
        return {*own, *promoted_columns(groups, table)}
    there = [group for group in groups if group.bundled == table]
    return set(bundle_table(spec, table, there).columns) if there else None


def feature_groups(meta: DatasetMetadata, version: int) -> dict[str, FeatureGroup]:
    """The feature groups of a version, by name; 0 is the version before the first."""
    if version == 0:
        return {}
    found = {}
    for name in meta.snapshots(version):
        if meta.role(name) != TableRole.FEATURES:
            continue
        text = meta.definition(version, name)
        if text:
            group = FeatureGroup.from_json(text)
            found[group.name] = group
    return dict(sorted(found.items()))


def find_group(groups: Mapping[str, FeatureGroup], name: str, dataset: str) -> FeatureGroup:
    """A group by name.

    Raises:
        UnknownColumnError: names those that are there.
    """
    if name not in groups:
        raise UnknownColumnError(
            f"the dataset {dataset} has no feature group {name}",
            expected=known_names(name, groups) if groups else "one that was added",
            got=name,
            fix="List them with: dedup-storage features list.",
        )
    return groups[name]


def is_group_table(table: str) -> bool:
    """Whether a table of a dataset is named as those that hold a feature group's columns, or a bundle's."""
    return table.startswith((_PREFIX, _BUNDLE_PREFIX)) or is_features_table(table)

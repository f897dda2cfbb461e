"""Which table each column comes from, and at which grain it is delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dedup_storage.errors import ConfigError, SchemaError, UnknownColumnError, known_names
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.layout import DatasetSpec, EventGroup, Layout, TableRole
from dedup_storage.reader.decode.encode import can_be_tensor, is_list
from dedup_storage.reader.open.conditions import Condition
from dedup_storage.reader.open.cut import Cut, CutTable
from dedup_storage.reader.options import ReadOptions
from dedup_storage.schema import Grain

__all__ = ["Events", "Group", "Projection", "project"]


@dataclass(frozen=True)
class Group:
    """A feature group of which columns are read.

    Attributes:
        table: The table that holds it, and others that are bundled with it.
        grain: Grain of its rows.
        columns: Those to read.
        whole: Groups of these columns that have a row for every key of the log, unless they are out of date.
    """

    table: CutTable
    grain: Grain
    columns: tuple[str, ...]
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Events:
    """A sequence group of which columns are read, or features of its events.

    Attributes:
        table: The table that holds them.
        group: The group; of features with these for columns.
        columns: Those to read.
        beside: Of features the column whose lists theirs stand beside, where these are no windows.
    """

    table: CutTable
    group: EventGroup
    columns: tuple[str, ...]
    beside: str | None = None


@dataclass(frozen=True)
class Projection:
    """What is read from where.

    Attributes:
        requests: Table with the request columns.
        impressions: Table with the impression columns; the same in flat layout.
        own_requests: Columns of the former to decode.
        own_impressions: Columns of the latter to decode.
        groups: Feature groups to join.
        request_columns: Columns to deliver at request grain, the request key first.
        impression_columns: Columns to deliver at impression grain.
        conditions: What is asked of columns, whether they are read or not.
        events: Sequence groups whose events are read, in layout ``user``.
        cut: History lists of the requests' own table to cut to the newest elements.
        cut_first: Those of them whose newest elements come first.
        left_out: Columns that were not delivered because they have no tensor form, where all columns were asked for.
    """

    requests: CutTable
    impressions: CutTable
    own_requests: tuple[str, ...]
    own_impressions: tuple[str, ...]
    groups: tuple[Group, ...]
    request_columns: tuple[str, ...]
    impression_columns: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    events: tuple[Events, ...] = ()
    cut: tuple[str, ...] = ()
    cut_first: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def project(cut: Cut, options: ReadOptions) -> Projection:
    """Choose columns.

    Raises:
        UnknownColumnError: a column that no table of the version has.
        SchemaError: a column that was named has no tensor form, or is filtered and holds no single values.
        ConfigError: a column of an impression-grain feature group is filtered.
    """
    spec = cut.spec
    flat = spec.layout is Layout.FLAT
    requests = cut.by_role(TableRole.LOGS if flat else TableRole.REQUESTS)[0]
    impressions = requests if flat else cut.by_role(TableRole.IMPRESSIONS)[0]
    tables, groups = _groups(cut)
    features = tuple(_features_of_events(cut, groups))
    grains = _grains(spec) | {c: g.grain for g in groups for c in g.names}
    # A table may hold columns of other versions: log columns that a rollback left behind, of groups promoted there.
    own = {c for t in spec.tables if t.role is not TableRole.EVENTS for c in t.columns} | {
        c for g in groups if g.promoted is not None for c in g.names
    }
    stored = {*requests.stored.types(), *impressions.stored.types()}
    if not own <= stored:
        # Another tool renamed a column, which is read by its field under the new name.
        own |= stored
    # Column -> (type, grain, table), requests before impressions before feature groups.
    known: dict[str, tuple[pa.DataType, Grain, CutTable]] = {}
    # What nobody declared, such as a column that another tool renamed, may differ from row to row of a flat table.
    unknown = Grain.IMPRESSION if flat else Grain.REQUEST
    for name, type_ in requests.stored.types().items():
        grain = grains.get(name, unknown)
        if name in own and (not flat or grain is Grain.REQUEST):
            known[name] = (type_, Grain.REQUEST, requests)
    for name, type_ in impressions.stored.types().items():
        if name in own and name not in known:
            known[name] = (type_, grains.get(name, Grain.IMPRESSION), impressions)
    system = {*spec.impression_key, spec.event_date_column}
    types_of = {table.name: table.stored.types() for table, _ in tables}
    for runs in spec.runs_columns:
        known.pop(runs, None)
    for table, names in tables:
        types = types_of[table.name]
        grain = Grain.IMPRESSION if spec.position_column in types else Grain.REQUEST
        # Of one in which another tool renamed a column, whatever it has, as above.
        for name in types if names is None or not set(names) <= types.keys() else names:
            if name not in system:
                known.setdefault(name, (types[name], grain, table))
    for each in features:
        types = each.table.stored.types()
        for name in each.columns:
            known.setdefault(name, (pa.list_(types[name]), Grain.REQUEST, each.table))
    wanted = options.columns
    if wanted is None:
        wanted = tuple(name for name, (type_, _, _) in known.items() if can_be_tensor(type_))
    _check(spec, known, (*wanted, *([options.tokens] if options.tokens else [])))
    if options.tokens is not None:
        _check_measure(options.tokens, *known[options.tokens], requests)
    chosen = tuple(dict.fromkeys((*spec.request_key, *wanted)))

    def of(grain: Grain, table: CutTable | None = None) -> tuple[str, ...]:
        return tuple(c for c in chosen if known[c][1] is grain and (table is None or known[c][2] is table))

    joined = []
    for table in {table.name: table for table, _ in tables}.values():
        columns = tuple(c for c in chosen if known[c][2] is table)
        if columns:
            own_groups = [g for g in groups if g.promoted is None and g.home == table.name and {*g.names} & {*columns}]
            whole = tuple(g.name for g in own_groups if g.missing != "null")
            joined.append(Group(table, known[columns[0]][1], columns, whole))
    events = tuple(_events(cut, group, chosen) for group in spec.events if {*group.columns} & {*chosen})
    of_events = [replace(each, columns=tuple(c for c in each.columns if c in chosen)) for each in features]
    events += tuple(each for each in of_events if each.columns)
    shared = {c for group in events for c in group.columns}
    histories = [c for c in chosen if (c in spec.schema_.sequence_columns and known[c][2] is requests) or c in shared]
    if options.history_length is not None and not histories:
        raise ConfigError(
            "history_length cuts history lists, and none is read",
            expected="one of " + ", ".join(spec.schema_.sequence_columns)
            if spec.schema_.sequence_columns
            else "a list",
            fix="Name it in columns, or leave history_length out.",
        )
    # Where a list is no window, those of features are as long as it is.
    beside = (each.beside for each in events if each.beside is not None)
    own_histories = tuple(c for c in histories if c not in shared) if options.history_length is not None else ()
    return Projection(
        requests=requests,
        impressions=impressions,
        own_requests=tuple(dict.fromkeys((*of(Grain.REQUEST, requests), *beside))),
        own_impressions=of(Grain.IMPRESSION, impressions),
        groups=tuple(joined),
        request_columns=of(Grain.REQUEST),
        impression_columns=of(Grain.IMPRESSION),
        conditions=tuple(_condition(spec, known, column, wanted) for column, wanted in options.filters.where.items()),
        events=events,
        cut=own_histories,
        cut_first=_newest_first(spec, own_histories),
        left_out=() if options.columns is not None else tuple(c for c in known if c not in chosen),
    )


def _newest_first(spec: DatasetSpec, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some history lists whose sequence group has lists that were found to begin with the newest element."""
    found = {c for group in spec.events if group.newest_first for c in group.columns}
    group_of = {s.column: s.group for s in spec.schema_.sequences if s.group is not None}
    turned = {group for column, group in group_of.items() if column in found}
    return tuple(c for c in columns if group_of.get(c) in turned)


def _events(cut: Cut, group: EventGroup, chosen: tuple[str, ...]) -> Events:
    return Events(cut.tables[group.table], group, tuple(c for c in group.columns if c in chosen))


def _features_of_events(cut: Cut, groups: Sequence[FeatureGroup]) -> Iterator[Events]:
    """Feature groups at event grain, in the order of their names."""
    for feature in sorted((g for g in groups if g.grain is Grain.EVENT), key=lambda g: g.name):
        table, group = cut.tables[feature.table], feature.events_of(cut.spec)
        types = table.stored.types()
        system = {*group.table_columns(cut.spec.schema_.user)}
        # Of one in which another tool renamed a column, whatever it has.
        names = feature.names if {*feature.names} <= types.keys() else tuple(c for c in types if c not in system)
        yield Events(table, group.model_copy(update={"columns": names}), names, group.columns[0])


def _condition(
    spec: DatasetSpec,
    known: dict[str, tuple[pa.DataType, Grain, CutTable]],
    column: str,
    wanted: object,
) -> Condition:
    if column not in known:
        raise UnknownColumnError(
            f"the filters name {column}, which is no column of {spec.name}",
            expected=known_names(column, known),
            fix="Name one of these, or start, end, users or buckets.",
        )
    type_, grain, table = known[column]
    if not can_be_tensor(type_) or is_list(type_):
        raise SchemaError(f"the filters name the column {column}", expected="single values", got=str(type_))
    if table.role is TableRole.FEATURES and grain is Grain.IMPRESSION:
        raise ConfigError(
            f"the filters name the column {column} of an impression-grain feature group",
            expected="a column of the log, or of a request-grain group",
            fix="Promote the group, or leave impressions out in the model by a mask.",
        )
    return Condition(column, type_, grain, table, wanted)


def _groups(cut: Cut) -> tuple[list[tuple[CutTable, tuple[str, ...] | None]], list[FeatureGroup]]:
    """What to join, in the order of the groups' names, and all definitions.

    Returns:
        Tables, each with the columns of it that count (``None``: all but its keys); one that groups are bundled in once
        for each of them.
    """
    tables = {table.name: table for table in cut.by_role(TableRole.FEATURES)}
    groups = {n: FeatureGroup.from_json(t.definition) for n, t in tables.items() if t.definition}
    bundles = {group.bundled for group in groups.values()}
    named: list[tuple[str, CutTable, tuple[str, ...] | None]] = []
    for name, table in tables.items():
        group = groups.get(name)
        if group is not None and group.grain is Grain.EVENT:
            continue
        if group is None and name not in bundles:
            named.append((name, table, None))
        elif group is not None and group.promoted is None:
            named.append((group.name, tables[group.home], group.names if group.moved else None))
    in_order = sorted(named, key=lambda each: each[0])
    return [(table, names) for _, table, names in in_order], list(groups.values())


def _grains(spec: DatasetSpec) -> dict[str, Grain]:
    grains = spec.schema_.declared_grains()
    grains[spec.position_column] = Grain.IMPRESSION
    if spec.event_date_column is not None:
        grains[spec.event_date_column] = Grain.REQUEST
    return grains


def _check(spec: DatasetSpec, known: dict[str, tuple[pa.DataType, Grain, CutTable]], wanted: tuple[str, ...]) -> None:
    for column in wanted:
        if column not in known:
            raise UnknownColumnError(
                f"the dataset {spec.name} has no column {column}",
                expected=known_names(column, known),
                fix="Name one of these.",
            )
        if not can_be_tensor(known[column][0]):
            raise SchemaError(
                f"the column {column} has no tensor form",
                expected="a scalar or a list of scalars",
                got=str(known[column][0]),
                fix="Leave it out of columns.",
            )


def _check_measure(column: str, type_: pa.DataType, grain: Grain, table: CutTable, requests: CutTable) -> None:
    """Refuse to measure batches in what no request row of the log has elements of."""
    if not is_list(type_) or grain is not Grain.REQUEST or table is not requests:
        raise SchemaError(
            f"batches cannot be measured in tokens of the column {column}",
            expected="a list column of the log at request grain",
            got=f"{type_} at {grain.value} grain in the table {table.name}",
            fix="Name another column, or count requests or impressions.",
        )

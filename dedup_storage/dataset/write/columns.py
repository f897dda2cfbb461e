"""A log's columns beside those of the dataset it is written into: fitted, added, filled with nulls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import SchemaError, known_names
from dedup_storage.lake.groups import feature_groups
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import PROMOTED_PROPERTY, DatasetSpec, TableRole
from dedup_storage.schema import Grain
from dedup_storage.sources.absent import ALL, ColumnChoice, among, chosen_names, fixed_columns, never_null
from dedup_storage.sources.declared import declared_types
from dedup_storage.sources.glance import dictionary_columns
from dedup_storage.sources.grains import detect_grains
from dedup_storage.sources.raw import RawLog
from dedup_storage.sources.remedies import change_of

__all__ = ["Fitted", "extend_tables", "fitted", "refuse_taken"]


@dataclass(frozen=True)
class Fitted:
    """A log with the columns and types of a dataset, and the dataset as the log leaves it.

    Attributes:
        raw: The log.
        spec: The dataset's description from the version on that holds the log.
        added: Columns that the dataset did not have before.
        filled: Columns that the log does not have, null in each of its rows.
    """

    raw: RawLog
    spec: DatasetSpec
    added: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """What a version remembers of it."""
        told = {"added-columns": self.added, "filled-columns": self.filled}
        return {key: ",".join(names) for key, names in told.items() if names}


def fitted(
    raw: RawLog, handle: Handle, meta: DatasetMetadata, add: ColumnChoice = None, fill: ColumnChoice = None
) -> Fitted:
    """The log with the dataset's columns and types, where that changes no value.

    Args:
        raw: The log.
        handle: The dataset.
        meta: Its tables now.
        add: Columns that the dataset may get from the log.
        fill: Columns that the log may lack.

    Raises:
        SchemaError: a column is missing or unknown to the dataset and not chosen, has a name that is taken, or a type
            that cannot be made the dataset's; or a choice names a column that neither has.
    """
    spec, found = meta.spec, raw.source_types()
    _refuse_unknown("add-columns", add, {**found, **spec.types})
    _refuse_unknown("fill-columns", fill, {**spec.types, **dict.fromkeys(among(add, found), "")})
    lacking = [c for c in spec.types if c not in found]
    filled = among(fill, lacking)
    for column in lacking:
        if column in (*fixed_columns(spec.schema_), spec.event_date_column):
            raise never_null(column)
        if column not in filled:
            raise SchemaError(
                f"the log lacks the column {column} of the dataset {spec.name}",
                expected=", ".join(spec.types),
                got=known_names(column, found),
                fix=f"Give --fill-columns {','.join(lacking)} (in Python fill_columns) to write nulls, or add it to "
                "the log.",
            )
    new = {c: kind for c, kind in found.items() if c not in spec.types}
    added = among(add, new)
    for column in (c for c in new if c not in added):
        raise SchemaError(
            f"the dataset {spec.name} does not have the log's column {column}",
            expected=known_names(column, spec.types),
            fix=f"Give --add-columns {','.join(new)} (in Python add_columns) to add it to the dataset, null in the "
            "rows before; drop it from the log; or add it as a feature group.",
        )
    if added:
        handle.require("adding a column")
        refuse_taken(handle, meta, new)
        spec = _extended(raw, spec, new)
    if filled:
        grains = spec.schema_.declared_grains()
        raw = raw.with_nulls({c: grains[c] for c in filled}, spec.types)
    return Fitted(_typed(raw, spec), spec, tuple(added), tuple(filled))


def _refuse_unknown(option: str, choice: ColumnChoice, known: Mapping[str, str]) -> None:
    for name in chosen_names(choice):
        if name != ALL and name not in known:
            raise SchemaError(
                f"{option} names the column {name}, which neither the log nor the dataset has"
                if option == "add-columns"
                else f"{option} names the column {name}, which the dataset does not have",
                expected=known_names(name, known),
                fix="Correct the name.",
            )


def _typed(raw: RawLog, spec: DatasetSpec) -> RawLog:
    if raw.source_types() == spec.types:
        return raw
    made = raw.with_types(spec.types)
    for name, kind in made.source_types().items():
        if kind != spec.types[name]:
            raise SchemaError(
                f"the column {name} has another type than before",
                expected=spec.types[name],
                got=kind,
                fix=f"{change_of(raw.kind, name, declared_types(spec.types).get(name))}.",
            )
    return replace(made, schema=raw.schema)


def refuse_taken(handle: Handle, meta: DatasetMetadata, added: Mapping[str, str]) -> None:
    """Refuse names for new columns of the log that something else has.

    Args:
        handle: The dataset.
        meta: Its tables now.
        added: Column -> Spark DDL type.

    Raises:
        SchemaError: names the column and what has it.
    """
    spec = meta.spec
    taken: dict[str, str] = {}
    for table in (t.name for t in spec.tables):
        for column in filter(None, meta.properties(table).get(PROMOTED_PROPERTY, "").split(",")):
            taken[column.lower()] = f"a feature group that was promoted to {table}"
    for group in feature_groups(meta, meta.current).values():
        taken |= {c.lower(): f"the feature group {group.name}" for c in group.names}
    made = (spec.position_column, spec.event_date_column, *handle.tables.hidden(spec), *spec.runs_columns)
    taken |= {c.lower(): "the toolkit" for c in made if c}
    taken |= {c.lower(): f"the log, written {c}" for c in spec.source_columns}
    for version, other in sorted(meta.described.items()):
        for column, kind in other.types.items():
            if column.lower() not in taken and (added.get(column) != kind):
                taken[column.lower()] = f"the log as {column} {kind}, in version {version}"
    for column, kind in added.items():
        if column.lower() in taken:
            raise SchemaError(
                f"the column {column} cannot be added to the dataset {spec.name}: its name is taken",
                expected="a name that no column of the dataset has or had",
                got=f"{column} {kind}, and {column.lower()} is a column of {taken[column.lower()]}",
                fix="Give the column another name in the log.",
            )


def _extended(raw: RawLog, spec: DatasetSpec, added: Mapping[str, str]) -> DatasetSpec:
    """The description with the log's new columns: grains as its schema says, or as its rows tell."""
    told = {c: g for c, g in raw.schema.declared_grains().items() if c in added}
    known = raw.schema.with_grains({**raw.schema.declared_grains(), **spec.schema_.declared_grains(), **told})
    grains: dict[str, Grain] = {c.column: c.grain for c in detect_grains(raw, known).columns if c.column in added}
    return spec.extended(spec.schema_.with_columns_of(raw.schema, grains), added)


def extend_tables(handle: Handle, log: Fitted) -> None:
    """Give the dataset's tables the log's new columns; until a version is described with them, nobody sees them.

    Raises:
        UsageError: a write that was refused left one of them with another type, and the format takes no column away.
    """
    new = set(log.added)
    lists = new & {*log.spec.schema_.sequence_columns}
    dictionaries = dictionary_columns(log.raw, log.spec.schema_) if lists else ()
    for table in log.spec.tables:
        # A table of events has columns of its own, which may have the names of the log's.
        of_log = () if table.role is TableRole.EVENTS else table.columns
        columns = {c: log.spec.types[c] for c in of_log if c in new}
        if columns:
            handle.tables.extend(log.spec, table, columns, dictionaries=dictionaries)

"""Which columns a rule can read: the scalars of each grain, and short ones that stand for the lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from pydantic import BaseModel, ConfigDict

from dedup_storage.layout import DatasetSpec, free_name
from dedup_storage.schema import Grain, LogSchema

__all__ = [
    "MOMENTS",
    "NUMBERS",
    "DerivedColumns",
    "base_type",
    "column_types",
    "derived_columns",
    "is_scalar",
    "scalar_columns",
    "time_bounds",
]

Bound = float | date | datetime | None

NUMBERS = frozenset({"tinyint", "smallint", "int", "bigint", "float", "double", "decimal"})
MOMENTS = frozenset({"date", "timestamp", "timestamp_ntz"})
PLAUSIBLE = (date(1990, 1, 1), date(2099, 12, 31))
_SCALARS = NUMBERS | {"boolean", "string", "char", "varchar", "date", "timestamp", "timestamp_ntz"}
_ALIASES = {"integer": "int", "long": "bigint", "short": "smallint", "byte": "tinyint", "real": "float"}


class DerivedColumns(BaseModel):
    """Short columns that stand for the lists in an audited frame.

    Attributes:
        lengths: Sequence column -> int column: its elements; null for a missing list.
        parallel: Sequence group -> boolean column: its lists have equal lengths, a missing list counting as empty.
        not_later: Sequence column of times -> boolean column: no element is later than the request's event time.
        ordered: Sequence column of times -> boolean column: no element is earlier than the one before it.
        within: Column of times, or of lists of them -> boolean column: all lie between the bounds that are stated for
            it, or else between those of plausible times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lengths: Mapping[str, str]
    parallel: Mapping[str, str]
    not_later: Mapping[str, str]
    ordered: Mapping[str, str]
    within: Mapping[str, str]

    @property
    def flags(self) -> set[str]:
        """Those that hold a truth value."""
        named = (self.parallel, self.not_later, self.ordered, self.within)
        return {name for columns in named for name in columns.values()}


def time_bounds(spec: DatasetSpec) -> dict[str, tuple[tuple[Bound, Bound], bool]]:
    """Columns of times that are held against bounds: least and greatest time (inclusive), and whether they are stated.

    Times nobody has set bounds for shall lie between 1990 and 2100: seconds that were taken for milliseconds, and the
    like, do not.
    """
    types, schema = column_types(spec), spec.schema_
    checked = [c for c, check in schema.checks.items() if check.minimum is not None or check.maximum is not None]
    found: dict[str, tuple[tuple[Bound, Bound], bool]] = {}
    for column in dict.fromkeys((*([schema.event_time] if schema.event_time else []), *_lists(schema), *checked)):
        kind = types.get(column, "")
        if base_type(kind.removeprefix("array<").removesuffix(">")) in MOMENTS:
            check = schema.checks.get(column)
            stated = check is not None and column in checked
            found[column] = ((check.minimum, check.maximum) if check and stated else PLAUSIBLE, stated)
    return found


def _lists(schema: LogSchema) -> tuple[str, ...]:
    return tuple(s.column for s in schema.sequences if s.times)


def column_types(spec: DatasetSpec) -> dict[str, str]:
    """Type of each column that a data table can have, system columns included, as Spark DDL in lower case."""
    types = {c: t.strip().lower() for c, t in zip(spec.source_columns, spec.source_types, strict=True)}
    types.setdefault(spec.position_column, "int")
    if spec.event_date_column:
        types.setdefault(spec.event_date_column, "date")
    return types


def is_scalar(ddl: str) -> bool:
    """Whether a Spark DDL type holds one number, text, truth value or point in time."""
    return base_type(ddl) in _SCALARS


def base_type(ddl: str) -> str:
    """A Spark DDL type's name without its parameters: ``decimal(10,2)`` -> ``decimal``."""
    name = ddl.strip().lower().partition("(")[0].strip()
    return _ALIASES.get(name, name)


def scalar_columns(spec: DatasetSpec, grain: Grain) -> tuple[str, ...]:
    """Columns of one grain's rows that a rule can read, keys first; lists, structs and maps are left out."""
    types = column_types(spec)
    dates = (spec.event_date_column,) if spec.event_date_column else ()
    keys = spec.request_key if grain is Grain.REQUEST else spec.impression_key
    names = dict.fromkeys((*keys, *dates, *spec.columns_of(grain)))
    return tuple(name for name in names if is_scalar(types[name]))


def derived_columns(spec: DatasetSpec) -> DerivedColumns:
    """Names of the columns that stand for the lists; none of them is a column of the log."""
    taken = [*column_types(spec)]

    def name(wanted: str) -> str:
        taken.append(free_name(wanted, taken))
        return taken[-1]

    sequences = spec.schema_.sequences
    members: dict[str, int] = {}
    for sequence in sequences:
        if sequence.group is not None:
            members[sequence.group] = members.get(sequence.group, 0) + 1
    return DerivedColumns(
        lengths={s.column: name(f"{s.column}_length") for s in sequences},
        parallel={group: name(f"{group}_parallel") for group, count in members.items() if count > 1},
        not_later={s.column: name(f"{s.column}_not_later") for s in sequences if s.times},
        ordered={s.column: name(f"{s.column}_ordered") for s in sequences if s.times},
        within={column: name(f"{column}_within") for column in time_bounds(spec)},
    )

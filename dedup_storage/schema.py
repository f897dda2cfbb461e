"""LogSchema: what the columns of a training log mean. Pure; knows no engine and no file format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, model_validator

from dedup_storage.documents import WholeNumber, number, read_values
from dedup_storage.errors import SchemaError, UnsafeNameError, known_names
from dedup_storage.forms import RawForm, check_forms, made_columns

__all__ = [
    "ColumnCheck",
    "DateGrain",
    "Grain",
    "LogSchema",
    "SequenceColumn",
    "TimeUnit",
    "check_name",
    "explain_validation",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LEVEL_SEPARATOR = "."
# Roles of columns of the impression.
_BELOW = ("item", "position", "labels")


class Grain(StrEnum):
    """What one row stands for."""

    REQUEST = "request"
    IMPRESSION = "impression"
    EVENT = "event"


class DateGrain(StrEnum):
    """The date part of a segment."""

    DAY = "day"
    MONTH = "month"
    NONE = "none"


def check_name(name: str, what: str = "name") -> str:
    """Return ``name`` if it can be an identifier everywhere (letters, digits, underscore).

    Raises:
        UnsafeNameError: anything else, so that no text reaches an SQL statement or a path unchecked.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnsafeNameError(
            f"the {what} {str(name)[:80]!r} cannot be used",
            expected="letters, digits and underscores, not starting with a digit, at most 128 characters",
            fix="Choose another name.",
        )
    return name


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple)) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Bound = Annotated[float | date | datetime | None, BeforeValidator(number)]


class TimeUnit(StrEnum):
    """What a number of a time column counts, since 1970 in UTC."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"

    @property
    def per_second(self) -> int:
        """How many of it are a second."""
        return 10 ** (3 * list(TimeUnit).index(self))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SequenceColumn(_Frozen):
    """A history list, newest element last.

    Attributes:
        column: Name of a request-grain list column.
        group: Lists of one group run in parallel and must have equal length in every row.
        times: The elements are event times; none may be later than the request's event time.
        unit: Of times that are no timestamps: ``s``, ``ms``, ``us`` or ``ns`` since 1970, UTC, or the pattern of a
            text; ``None`` finds out.
        max_length: Longest list allowed, in elements.
        longer: What becomes of a longer list: the gate refuses it, or it is cut to its ``newest`` elements. Lists of
            one group are cut alike.
    """

    column: str
    group: str | None = None
    times: StrictBool = False
    unit: str | None = None
    max_length: WholeNumber | None = Field(default=None, ge=1)
    longer: Literal["refuse", "newest"] = "refuse"

    @model_validator(mode="after")
    def _whole(self) -> SequenceColumn:
        if self.unit is not None and not self.times:
            raise ValueError(f"{self.column}: unit needs times: true")
        if self.longer == "newest" and self.max_length is None:
            raise ValueError(f"{self.column}: longer: newest needs max_length")
        return self


class ColumnCheck(_Frozen):
    """What the quality gate asks of one scalar column; all bounds inclusive, and NaN lies outside of each.

    Bounds of times are dates or times, UTC. They take the place of the range in which times are plausible.
    """

    not_null: StrictBool = False
    minimum: Bound = None
    maximum: Bound = None
    allowed: tuple[str | int | float | bool, ...] | None = None


class LogSchema(_Frozen):
    """The meaning of a training log's columns.

    Attributes:
        user: User key column, bigint (or int) or string.
        request: One or several columns that identify a request of a user.
        item: The candidate's item column (impression grain).
        event_time: Timestamp of the request. Needed unless ``date_grain`` is ``none``. In a file also
            ``{column: ts, unit: s}``.
        time_unit: How the event time is told where it is no timestamp: ``s``, ``ms``, ``us``, ``ns`` since 1970, or the
            pattern of a text such as ``M/d/yyyy h:mm:ss a``; ``None`` finds out.
        types: Spark type of columns that come as texts (CSV, parts of paths), or that have no value yet.
        position: The candidate's ordinal inside its request; ``None`` lets ``write`` assign it
            in a deterministic order of the row's content.
        columns: Grain of each further column; one left out is detected (a column that is constant inside every
            request is request-grain).
        sequences: The history lists.
        labels: Impression-grain columns that are predicted.
        candidates: For nested input (a row per request): list column -> impression column. A list of
            structs takes its fields as impression columns and maps to ``"*"``. Several lists run in parallel.
        checks: Bounds for the quality gate, by column.
        forms: How columns of the log are written where they are no plain columns: lists as text, padded lists and so
            on (``dedup_storage.forms``). All other keys name columns as they are after that.
        header: Columns of CSV and TSV files that have no header, in their order.
        buckets: Number of user buckets; ``None`` proposes one from the input's size.
        date_grain: Date part of a segment; ``None`` proposes one.
    """

    user: str
    request: Names
    item: str
    event_time: str | None = None
    time_unit: str | None = None
    position: str | None = None
    columns: Mapping[str, Grain] = Field(default_factory=dict)
    sequences: tuple[SequenceColumn, ...] = ()
    labels: Names = ()
    candidates: Mapping[str, str] = Field(default_factory=dict)
    checks: Mapping[str, ColumnCheck] = Field(default_factory=dict)
    buckets: WholeNumber | None = Field(default=None, ge=1, le=65536)
    date_grain: DateGrain | None = None
    types: Mapping[str, str] = Field(default_factory=dict)
    forms: Mapping[str, RawForm] = Field(default_factory=dict)
    header: Names = ()

    @model_validator(mode="before")
    @classmethod
    def _unit_beside_time(cls, values: Any) -> Any:
        """Takes ``event_time: {column: ts, unit: s}`` apart."""
        if not isinstance(values, Mapping) or not isinstance(values.get("event_time"), Mapping):
            return values
        told = dict(values["event_time"])
        column, unit = told.pop("column", None), told.pop("unit", None)
        if column is None or told:
            raise ValueError("event_time: a column's name, or {column: NAME, unit: UNIT}")
        return {**values, "event_time": column, **({} if unit is None else {"time_unit": unit})}

    @model_validator(mode="after")
    def _consistent(self) -> LogSchema:
        named = [self.user, *self.request, self.item, *self.labels, *self.columns, *self.sequence_columns]
        named += [c for c in (self.event_time, self.position) if c]
        named += [c for c in self.candidates.values() if c != "*"]
        named += [*self.types, *self.forms, *self.made_by_forms, *self.header]
        for name in (*named, *self.candidates, *self.checks):
            check_name(name, "column name")
        twice = sorted({c for c in self.header if self.header.count(c) > 1})
        if twice:
            raise ValueError(f"header: the column {twice[0]} is named twice")
        groups: dict[str, list[str]] = {}
        for sequence in self.sequences:
            if sequence.group is not None:
                groups.setdefault(sequence.group, []).append(sequence.column)
        check_forms(self.forms, self.candidates, self.item, groups)
        if not self.request:
            raise ValueError("request: at least one column must identify a request")
        keys = [self.user, *self.request, self.item, *([self.position] if self.position else [])]
        twice = sorted({k for k in keys if keys.count(k) > 1})
        if twice:
            raise ValueError(f"the key column {twice[0]} has two roles")
        if len(set(self.sequence_columns)) != len(self.sequence_columns):
            raise ValueError("sequences: a column is named twice")
        made = [c for c in self.candidates.values() if c != "*"]
        twice = sorted({c for c in made if made.count(c) > 1})
        if twice:
            raise ValueError(f"candidates: the column {twice[0]} is named twice")
        self._one_role_each()
        cut = {s.group: s for s in self.sequences if s.longer == "newest"}
        for member in self.sequences:
            other = cut.get(member.group) if member.group is not None else None
            if other is not None and (member.max_length, member.longer) != (other.max_length, other.longer):
                raise ValueError(
                    f"sequences: {member.column} and {other.column} run in parallel and are cut differently"
                )
        for name, grain in self.columns.items():
            if grain is Grain.EVENT:
                raise ValueError(f"columns.{name}: event grain is for feature groups; a log has request and impression")
            fixed = self.fixed_grains().get(name)
            if fixed is not None and fixed is not grain:
                raise ValueError(f"columns.{name}: {grain.value} grain, but its role makes it {fixed.value} grain")
        if self.time_unit is not None and self.event_time is None:
            raise ValueError("time_unit needs event_time")
        if self.date_grain not in (None, DateGrain.NONE) and self.event_time is None:
            raise ValueError(f"date_grain {self.date_grain.value} needs event_time")
        return self

    def _one_role_each(self) -> None:
        """A column is of the request or of the impression, and is one thing; but the time of an event may be its key,
        an item what is predicted, and a list of candidates becomes the column of its name."""
        roles: dict[str, tuple[str | None, ...]] = {
            "user": (self.user,), "request": self.request, "event_time": (self.event_time,),
            "sequences": self.sequence_columns, "candidates": tuple(self.candidates), "item": (self.item,),
            "position": (self.position,), "labels": self.labels,
        }  # fmt: skip
        known: dict[str, str] = {}
        for role, columns in roles.items():
            for column in columns:
                other = known.setdefault(column, role) if column is not None else role
                both = (other, role) == ("request", "event_time") or (
                    other in ("candidates", *_BELOW) and role in _BELOW
                )
                if other != role and not both:
                    raise ValueError(f"the column {column} has two roles: {other} and {role}")

    @property
    def made_by_forms(self) -> list[str]:
        """Columns that forms make, in order."""
        return [
            made for column, form in self.forms.items()
            for made in made_columns(column, form, candidates=column in self.candidates)
        ]  # fmt: skip

    def of_standard_rows(self) -> LogSchema:
        """The meaning of rows whose forms are applied already: those of a dataset, or of a frame."""
        return self.model_copy(update={"forms": {}, "header": ()})

    @property
    def request_key(self) -> tuple[str, ...]:
        """Columns that identify a request: user first, the request columns after it."""
        return (self.user, *self.request)

    @property
    def sequence_columns(self) -> tuple[str, ...]:
        """Names of the history lists."""
        return tuple(s.column for s in self.sequences)

    def fixed_grains(self) -> dict[str, Grain]:
        """Grain of every column whose role decides it."""
        grains = dict.fromkeys((*self.request_key, *self.sequence_columns), Grain.REQUEST)
        if self.event_time:
            grains[self.event_time] = Grain.REQUEST
        grains.update(dict.fromkeys((self.item, *self.labels), Grain.IMPRESSION))
        if self.position:
            grains[self.position] = Grain.IMPRESSION
        grains.update({c: Grain.IMPRESSION for c in self.candidates.values() if c != "*"})
        return grains

    def declared_grains(self) -> dict[str, Grain]:
        """Grain of every column whose role or declaration decides it."""
        return {**self.columns, **self.fixed_grains()}

    def absent(self, present: Iterable[str]) -> list[str]:
        """Columns that are named and not among ``present`` (impression columns of nested input excepted)."""
        there, nested = set(present), bool(self.candidates)
        needed = [*self.request_key, *([self.event_time] if self.event_time else []), *self.sequence_columns]
        needed += list(self.candidates) if nested else [self.item, *self.labels]
        needed += [c for c, g in self.columns.items() if not (nested and g is Grain.IMPRESSION)]
        if self.position and not nested:
            needed.append(self.position)
        return [name for name in dict.fromkeys(needed) if name not in there]

    def require_columns(self, present: Iterable[str], where: str = "the log") -> None:
        """Check that no column is ``absent``.

        Raises:
            SchemaError: names the first column that is not there, and those that are.
        """
        there = list(present)
        absent = self.absent(there)
        for name in absent:
            always = (*self.request_key, self.item, self.event_time, self.position)
            nulls = ",".join(c for c in absent if c not in always)
            later = f" For a log of a dataset that lacks it: --fill-columns {nulls} (in Python fill_columns)."
            raise SchemaError(
                f"the column {name} is not in {where}",
                expected=known_names(name, there),
                fix=f"Correct the name, in the schema file or in the log.{'' if name in always else later}",
            )

    def without(self, columns: Collection[str]) -> LogSchema:
        """The schema without what it says of some columns, none of which is a key, the item or the event time."""
        gone = set(columns)
        candidates = {c: name for c, name in self.candidates.items() if not {c, name} & gone}
        forms = {
            c: form for c, form in self.forms.items()
            if c not in gone and not {*made_columns(c, form, candidates=c in self.candidates)} <= gone
        }  # fmt: skip
        return self.model_copy(
            update={
                "candidates": candidates,
                "forms": forms,
                "columns": {c: grain for c, grain in self.columns.items() if c not in gone},
                "sequences": tuple(s for s in self.sequences if s.column not in gone),
                "labels": tuple(c for c in self.labels if c not in gone),
                "checks": {c: check for c, check in self.checks.items() if c not in gone},
                "types": {c: kind for c, kind in self.types.items() if c not in gone},
            }
        )

    def with_columns_of(self, other: LogSchema, columns: Mapping[str, Grain]) -> LogSchema:
        """The schema with further columns, and with what another schema says of them.

        Args:
            other: The schema of a log that has them.
            columns: The columns, which this schema does not name, and their grains.

        Raises:
            SchemaError: what it says of them does not go with what this one says.
        """
        candidates = {c: name for c, name in other.candidates.items() if name in columns or c in columns}
        forms = {
            c: form for c, form in other.forms.items()
            if {*made_columns(c, form, candidates=c in other.candidates)} <= columns.keys()
        }  # fmt: skip
        both = self.model_copy(
            update={
                "candidates": {**self.candidates, **candidates},
                "forms": {**self.forms, **forms},
                "sequences": (*self.sequences, *(s for s in other.sequences if s.column in columns)),
                "labels": (*self.labels, *(c for c in other.labels if c in columns)),
                "checks": {**self.checks, **{c: check for c, check in other.checks.items() if c in columns}},
                "types": {**self.types, **{c: kind for c, kind in other.types.items() if c in columns}},
                "header": other.header if columns.keys() <= set(other.header) else self.header,
            }
        )
        grains = {**self.declared_grains(), **columns}
        return LogSchema.from_dict(both.with_grains(grains).to_dict())

    def with_grains(self, grains: Mapping[str, Grain]) -> LogSchema:
        """The same schema with every column's grain declared."""
        fixed = self.fixed_grains()
        return self.model_copy(update={"columns": {c: g for c, g in grains.items() if c not in fixed}})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogSchema:
        """Validate plain values.

        Raises:
            SchemaError: names each key that is unknown, missing or of the wrong type.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SchemaError(
                "the log schema is not valid: " + explain_validation(error, cls), fix="Correct the schema file."
            ) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> LogSchema:
        """Read a schema file.

        Raises:
            SchemaError: the file is missing, is no YAML mapping, or does not validate.
        """
        return cls.from_dict(cls.values_of(path))

    @staticmethod
    def values_of(path: str | Path) -> dict[str, Any]:
        """A schema file's keys and values, which may be some of a schema's.

        Raises:
            SchemaError: the file is missing, or is no YAML mapping.
        """
        values = read_values(path, "the schema file", SchemaError)
        if not isinstance(values, dict):
            raise SchemaError(f"the schema file {path} is not a mapping", expected="keys such as user, request, item")
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults left out; ``from_dict`` gives the same schema back."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        unit = values.pop("time_unit", None)
        if unit is not None:
            values["event_time"] = {"column": self.event_time, "unit": unit}
        return values

    def to_yaml(self) -> str:
        """The schema file's text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def explain_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """One readable clause for each problem of a pydantic error, with near names for unknown keys."""
    clauses = []
    for problem in error.errors(include_url=False):
        where = _LEVEL_SEPARATOR.join(str(part) for part in problem["loc"])
        named = "[key]" in problem["loc"] or problem["msg"] == "Keys should be strings"
        if named and not isinstance(problem["input"], str):
            above = _LEVEL_SEPARATOR.join(str(part) for part in problem["loc"][:-2])
            clauses.append(
                f"a name{f' under {above}' if above else ''} is no text; put it in quotes (YAML reads on, off, yes and "
                "no as truth values, and digits as numbers)"
            )
        elif problem["type"] == "extra_forbidden":
            level: type[BaseModel] | None = model if len(problem["loc"]) == 1 else None
            hint = f" (known keys: {known_names(where, level.model_fields)})" if level else ""
            clauses.append(f"the key {where} is unknown{hint}")
        elif problem["type"] == "missing":
            clauses.append(f"the key {where} is missing")
        elif problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float | date):
            clauses.append(f"{where} is no text; put it in quotes")
        else:
            said = problem["msg"].removeprefix("Value error, ")
            # What is wrong with all of it together has no place.
            clauses.append(f"{where}: {said}" if where else said)
    return "; ".join(clauses)

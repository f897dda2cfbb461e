"""LogSchema: what the columns of a training log mean. Pure; knows no engine and no file format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dedup_storage.errors import SchemaError, UnsafeNameError, known_names

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


class Grain(StrEnum):
    """What one row stands for."""

    REQUEST = "request"
    IMPRESSION = "impression"


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


class TimeUnit(StrEnum):
    """What a number of a time column counts, since 1970 in UTC."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SequenceColumn(_Frozen):
    """A history list, newest element last.

    Attributes:
        column: Name of a request-grain list column.
        group: Lists of one group run in parallel and must have equal length in every row.
        times: The elements are event times; none may be later than the request's event time.
        unit: Of times that are numbers: ``s``, ``ms``, ``us`` or ``ns`` since 1970, UTC.
        max_length: Longest list allowed, in elements.
    """

    column: str
    group: str | None = None
    times: bool = False
    unit: TimeUnit | None = None
    max_length: int | None = Field(default=None, ge=1)


class ColumnCheck(_Frozen):
    """What the quality gate asks of one scalar column; all bounds inclusive."""

    not_null: bool = False
    minimum: float | None = None
    maximum: float | None = None
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
    buckets: int | None = Field(default=None, ge=1, le=65536)
    date_grain: DateGrain | None = None
    types: Mapping[str, str] = Field(default_factory=dict)

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
        for name in (*named, *self.candidates, *self.checks, *self.types):
            check_name(name, "column name")
        if not self.request:
            raise ValueError("request: at least one column must identify a request")
        keys = [self.user, *self.request, self.item, *([self.position] if self.position else [])]
        twice = sorted({k for k in keys if keys.count(k) > 1})
        if twice:
            raise ValueError(f"the key column {twice[0]} has two roles")
        if len(set(self.sequence_columns)) != len(self.sequence_columns):
            raise ValueError("sequences: a column is named twice")
        for name, grain in self.columns.items():
            fixed = self.fixed_grains().get(name)
            if fixed is not None and fixed is not grain:
                raise ValueError(f"columns.{name}: {grain.value} grain, but its role makes it {fixed.value} grain")
        if self.time_unit is not None and self.event_time is None:
            raise ValueError("time_unit needs event_time")
        if self.date_grain not in (None, DateGrain.NONE) and self.event_time is None:
            raise ValueError(f"date_grain {self.date_grain.value} needs event_time")
        return self

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

    def require_columns(self, present: Iterable[str], where: str = "the log") -> None:
        """Check that every named column is among ``present`` (impression columns of nested input excepted).

        Raises:
            SchemaError: names the first column that is not there, and those that are.
        """
        there = list(present)
        nested = bool(self.candidates)
        needed = [*self.request_key, *([self.event_time] if self.event_time else []), *self.sequence_columns]
        needed += list(self.candidates) if nested else [self.item, *self.labels]
        needed += [c for c, g in self.columns.items() if not (nested and g is Grain.IMPRESSION)]
        if self.position and not nested:
            needed.append(self.position)
        for name in needed:
            if name not in there:
                raise SchemaError(
                    f"the column {name} is not in {where}",
                    expected=known_names(name, there),
                    fix="Correct the name in the schema file.",
                )

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
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SchemaError(f"the schema file {path} cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "malformed"
            mark = getattr(error, "problem_mark", None)
            place = f" in line {mark.line + 1}" if mark else ""
            raise SchemaError(f"the schema file {path} is not YAML: {problem}{place}") from None
        if not isinstance(values, dict):
            raise SchemaError(f"the schema file {path} is not a mapping", expected="keys such as user, request, item")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults left out; ``from_dict`` gives the same schema back."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
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
    for problem in error.errors(include_url=False, include_input=False):
        where = _LEVEL_SEPARATOR.join(str(part) for part in problem["loc"]) or "schema"
        if problem["type"] == "extra_forbidden":
            level: type[BaseModel] | None = model if len(problem["loc"]) == 1 else None
            hint = f" (known keys: {known_names(where, level.model_fields)})" if level else ""
            clauses.append(f"the key {where} is unknown{hint}")
        elif problem["type"] == "missing":
            clauses.append(f"the key {where} is missing")
        else:
            clauses.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(clauses)

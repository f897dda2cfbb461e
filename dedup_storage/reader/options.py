"""What a reader can be asked for, frozen and validated."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from dedup_storage.errors import ConfigError
from dedup_storage.keys import KeyKind, plain_keys
from dedup_storage.schema import explain_validation

__all__ = ["Ends", "Filters", "ReadOptions", "Unit"]

_MOST_LISTED = 20
# Options that came after states were first saved.
_LATER = ("history_length", "together", "across_dates", "histories")
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


class Unit(StrEnum):
    """What ``batch_size`` counts."""

    IMPRESSIONS = "impressions"
    REQUESTS = "requests"
    TOKENS = "tokens"


class Ends(StrEnum):
    """What happens when the last round does not hold a batch for every rank."""

    DROP = "drop"
    PAD = "pad"
    REPEAT = "repeat"
    UNEVEN = "uneven"


class Filters(BaseModel):
    """Which requests to read; all conditions hold.

    A mapping may name columns beside the fields: ``{"start": "2024-06-01", "country": ["DE", "FR"]}``.

    Attributes:
        start: First event date (inclusive).
        end: Last event date (inclusive).
        users: User keys: integers, or texts in their plain form. Floats and truth values are no keys.
        buckets: User buckets.
        where: Column -> a value, a list of values (``None`` is null), or comparisons such as ``{">=": 18, "<": 30}``,
            which no null satisfies. Values and lists of NumPy, Arrow or pandas are taken as Python's own. On an
            impression's column they choose impressions, and requests without any of these are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: dt.date | None = None
    end: dt.date | None = None
    users: tuple[int | str, ...] | None = None
    buckets: tuple[int, ...] | None = None
    where: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _columns(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        named = {k: v for k, v in values.items() if k not in cls.model_fields}
        given = {k: v for k, v in values.items() if k in cls.model_fields}
        twice = set(named) & set(given.get("where", {}))
        if twice:
            raise ValueError(f"the column {min(twice)} is named twice")
        return {**given, "where": {**given.get("where", {}), **named}} if named else given

    @field_validator("start", "end", mode="before")
    @classmethod
    def _dates(cls, value: Any) -> Any:
        """Pydantic would take a number for seconds since 1970."""
        number = isinstance(value, (int, float)) or (isinstance(value, str) and value.strip().isdigit())
        if number or (isinstance(value, dt.datetime) and value.time() != dt.time()):
            raise ValueError(f"{value!r} is no date, which is written as 2026-01-31")
        return value

    @field_validator("where")
    @classmethod
    def _conditions(cls, where: dict[str, Any]) -> dict[str, Any]:
        where = {column: _plain_wanted(wanted) for column, wanted in where.items()}
        for column, wanted in where.items():
            if isinstance(wanted, Mapping):
                unknown = [sign for sign in wanted if sign not in _COMPARISONS]
                if unknown or not wanted or None in wanted.values():
                    raise ValueError(
                        f"the filter on {column} compares by {', '.join(map(str, unknown)) or 'nothing'}; "
                        f"comparisons are {', '.join(_COMPARISONS)} with a value"
                    )
            elif isinstance(wanted, tuple | list) and not wanted:
                raise ValueError(f"the filter on {column} lists no value")
        return where

    @field_serializer("where", when_used="json")
    def _described(self, where: dict[str, Any]) -> dict[str, Any]:
        """Bytes that are no text as their hexadecimal digits, NaN and infinity as words: JSON has none of them."""
        return {column: _each(wanted, _shown) for column, wanted in where.items()}

    @field_validator("users", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        """Pydantic would take 1.0 and True for the user 1."""
        if value is None or isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return value
        given = list(value)
        keys, wrong = plain_keys(given, KeyKind.TEXT)
        if wrong is not None:
            raise ValueError(f"some are no user keys, which are integers or texts: {wrong}")
        return tuple(v if isinstance(v, str) else int(k) for v, k in zip(given, keys, strict=True))

    @field_validator("buckets", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return value
        keys, wrong = plain_keys(value, KeyKind.INTEGER)
        if wrong is not None:
            raise ValueError(f"some are no numbers of buckets: {wrong}")
        return tuple(keys)

    def of_users(self, user: str, kind: str) -> Filters:
        """The same filters, their user keys in the type in which the dataset keeps them.

        Args:
            user: The user column.
            kind: Its type: ``int``, ``bigint`` or ``string``.

        Raises:
            ConfigError: some are no keys of that type; says how many and where.
        """
        if self.users is None:
            return self
        stored = KeyKind.TEXT if kind == "string" else KeyKind.INTEGER
        keys, wrong = plain_keys(self.users, stored, 32 if kind in ("int", "integer") else 64)
        if wrong is not None:
            raise ConfigError(
                f"some of the users to read are no keys of {user}: {wrong}",
                expected=f"values of type {kind}, or texts of them in their plain form",
                fix="0042, 4e1 and 42.0 are not the key 42.",
            )
        return self.model_copy(update={"users": tuple(keys)})

    @model_validator(mode="after")
    def _ordered(self) -> Filters:
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"start {self.start} lies after end {self.end}")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether nothing is filtered."""
        return self == Filters()

    def dumped(self) -> dict[str, Any]:
        """As JSON values; without ``where`` as before there was one."""
        values = self.model_dump(mode="json")
        return values if self.where else {name: value for name, value in values.items() if name != "where"}


class ReadOptions(BaseModel):
    """Options that decide which batches there are and in which order.

    Attributes:
        columns: Columns to read; ``None`` reads all that a tensor can hold.
        filters: Which requests.
        batch_size: Size of a batch in ``unit``; a larger request is a batch of its own.
        unit: What ``batch_size`` counts.
        tokens: With unit ``tokens``, the list column whose elements count.
        shuffle: Whether the order of requests changes with seed and epoch.
        seed: Seed of the order.
        splits: Logical splits that the batches are dealt from in turn; more splits allow more workers and need
            more open files. ``None`` chooses from the dataset.
        buffer_bytes: Decoded bytes that the shuffle windows of all splits hold together.
        mix: Segments whose requests are mixed in one shuffle window.
        oversize: A request larger than a batch is a batch of its own (``own``), or several, marked (``split``).
        drop_last: Whether a split's last, smaller batch is left out.
        strings: Codes into the batch's vocabulary (``dictionary``) or a stable 64-bit hash (``hash``).
        sample: Name of a stored sample to read; its filters are used in place of ``filters``.
        orphans: Impressions without a request are an error (``raise``) or left out (``skip``).
        history_length: Newest elements of each history list to deliver; ``None`` for all.
        together: Requests of one user that the shuffle keeps one after the other, at most.
        across_dates: Requests of a user bucket are one unit, whatever the date grain.
        histories: Request-grain lists as lists of their own (``lists``), or as windows of events that requests share
            (``shared``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] | None = None
    filters: Filters = Filters()
    batch_size: int = Field(default=4096, ge=1)
    unit: Unit = Unit.IMPRESSIONS
    tokens: str | None = None
    shuffle: bool = True
    seed: int = Field(default=0, ge=0, lt=2**63)
    splits: int | None = Field(default=None, ge=1, le=65536)
    buffer_bytes: int = Field(default=512 * 1024**2, ge=1024)
    mix: int = Field(default=4, ge=1, le=1024)
    oversize: Literal["own", "split"] = "own"
    drop_last: bool = False
    strings: Literal["dictionary", "hash"] = "dictionary"
    sample: str | None = None
    orphans: Literal["raise", "skip"] = "raise"
    history_length: int | None = Field(default=None, ge=1)
    together: int = Field(default=1, ge=1)
    across_dates: bool = False
    histories: Literal["lists", "shared"] = "lists"

    @field_validator("batch_size", "seed", "splits", "buffer_bytes", "mix", "history_length", "together", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Pydantic would take true for 1."""
        if isinstance(value, bool):
            raise ValueError(f"{value} is no number")
        return value

    @field_validator("columns", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _tokens(self) -> ReadOptions:
        if (self.unit is Unit.TOKENS) != (self.tokens is not None):
            raise ValueError("unit='tokens' and tokens='<list column>' go together")
        if self.oversize == "split" and self.unit is not Unit.IMPRESSIONS:
            raise ValueError("oversize='split' needs unit='impressions'")
        if self.sample is not None and not self.filters.is_empty:
            raise ValueError("sample and filters exclude each other")
        return self

    def asked_for(self) -> dict[str, Any]:
        """As JSON values, without options of later releases that say nothing: states of older ones stay good."""
        values = self.model_dump(mode="json")
        fields = type(self).model_fields
        return {n: v for n, v in values.items() if n not in _LATER or getattr(self, n) != fields[n].default}

    def described(self) -> dict[str, Any]:
        """As JSON values for people: of long lists only how many values they have."""
        return {name: _shortened(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> ReadOptions:
        """Validate fields by name.

        Raises:
            ConfigError: names each one that is unknown or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("the reader's options are not valid: " + explain_validation(error, cls)) from None


def _plain_wanted(wanted: Any) -> Any:
    """What a filter asks of a column, in values of Python; sets in an order of their own."""
    if isinstance(wanted, set | frozenset):
        wanted = sorted(wanted, key=str)
    elif isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes | Mapping | tuple | list | pa.Scalar):
        # An array without a dimension is one value.
        wanted = list(wanted) if getattr(wanted, "ndim", 1) else wanted
    return _each(wanted, _plain_value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        # Python's times have microseconds; of nanoseconds NumPy would give a bare number.
        days = np.datetime_data(value.dtype)[0] in ("Y", "M", "W", "D")
        return value.astype("datetime64[D]" if days else "datetime64[us]").item()
    if isinstance(value, pa.Scalar):
        return value.as_py()
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _shown(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def _each(wanted: Any, change: Callable[[Any], Any]) -> Any:
    """A value, each of a list, or each that something is compared with, changed."""
    if isinstance(wanted, Mapping):
        return {sign: change(value) for sign, value in wanted.items()}
    if not isinstance(wanted, tuple | list):
        return change(wanted)
    changed = [change(value) for value in wanted]
    return tuple(changed) if isinstance(wanted, tuple) else changed


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items() if inner not in (None, {})}
    return f"{len(value)} values" if isinstance(value, list) and len(value) > _MOST_LISTED else value

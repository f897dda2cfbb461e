"""The user's own expectations: a YAML list, checked before any data is touched. Pure.

    - grain: impression
      type: expect_column_mean_to_be_between
      kwargs: {column: clicked, min_value: 0.01, max_value: 0.2}
    - grain: request
      type: expect_column_values_to_be_between
      kwargs: {column: history_length, min_value: 1, mostly: 0.95}
    - grain: dataset
      type: expect_column_values_to_be_between
      kwargs: {column: impression_rows, min_value: 100000}

Request and impression grain see the scalar columns of that grain and ``<sequence>_length``; dataset grain sees one row
of facts. Expectations whose result would be a value of some row (minimum, most common value, distinct values) are not
offered: verdicts and Data Docs hold counts and averages, never the data.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dedup_storage.documents import number, read_values
from dedup_storage.errors import ConfigError, known_names
from dedup_storage.layout import DatasetSpec
from dedup_storage.quality.columns import base_type, column_types, derived_columns, is_scalar, scalar_columns
from dedup_storage.quality.expectations import BETWEEN, Rule, computed_facts, without_nan
from dedup_storage.quality.model import CheckGrain
from dedup_storage.schema import Grain, explain_validation

__all__ = ["SUPPORTED", "own_rules"]

_BOUNDS = frozenset({"min_value", "max_value"})
_STRICT = _BOUNDS | {"strict_min", "strict_max"}
# Arguments that are numbers, or dates as texts.
_NUMBERS = _BOUNDS | {"mostly", "value"}
_COLUMN = frozenset({"column"})
_MAP = _COLUMN | {"mostly"}
_PAIR = frozenset({"column_A", "column_B", "ignore_row_if", "mostly"})
_LIST = frozenset({"column_list", "ignore_row_if", "mostly"})

SUPPORTED: Mapping[str, frozenset[str]] = {
    "expect_column_values_to_not_be_null": _MAP,
    "expect_column_values_to_be_null": _MAP,
    "expect_column_values_to_be_unique": _MAP,
    "expect_column_values_to_be_between": _MAP | _STRICT,
    "expect_column_values_to_be_in_set": _MAP | {"value_set"},
    "expect_column_values_to_not_be_in_set": _MAP | {"value_set"},
    "expect_column_values_to_match_regex": _MAP | {"regex"},
    "expect_column_values_to_not_match_regex": _MAP | {"regex"},
    "expect_column_value_lengths_to_be_between": _MAP | _STRICT,
    "expect_column_value_lengths_to_equal": _MAP | {"value"},
    "expect_column_pair_values_to_be_equal": _PAIR,
    "expect_column_pair_values_a_to_be_greater_than_b": _PAIR | {"or_equal"},
    "expect_compound_columns_to_be_unique": _LIST,
    "expect_column_mean_to_be_between": _COLUMN | _STRICT,
    "expect_column_stdev_to_be_between": _COLUMN | _STRICT,
    "expect_column_sum_to_be_between": _COLUMN | _STRICT,
    "expect_column_unique_value_count_to_be_between": _COLUMN | _STRICT,
    "expect_column_proportion_of_unique_values_to_be_between": _COLUMN | _STRICT,
    "expect_column_proportion_of_non_null_values_to_be_between": _COLUMN | _STRICT,
    "expect_table_row_count_to_be_between": _STRICT,
    "expect_table_row_count_to_equal": frozenset({"value"}),
}
# Over keys these would give back, or come close to, a user's identifier.
_REVEALING = frozenset(
    {"expect_column_mean_to_be_between", "expect_column_stdev_to_be_between", "expect_column_sum_to_be_between"}
)


class OwnExpectation(BaseModel):
    """One entry of the user's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grain: CheckGrain
    type: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_. -]{1,80}$")


def own_rules(path: str | Path, spec: DatasetSpec) -> tuple[Rule, ...]:
    """Read and check the user's file.

    Args:
        path: YAML file: a list of ``{grain, type, kwargs}`` and, optionally, ``name``.
        spec: The dataset it is meant for.

    Raises:
        ConfigError: the file cannot be read, or names an expectation, argument or column that does not exist.
    """
    rules: dict[str, Rule] = {}
    for place, values in enumerate(_read(path), start=1):
        where = f"expectation {place} of {path}"
        try:
            entry = OwnExpectation.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{where} is not valid: {explain_validation(error, OwnExpectation)}") from None
        kwargs = {key: _plain(value) for key, value in entry.kwargs.items()}
        _require_type(where, entry.type, kwargs)
        columns = tuple(_columns(kwargs))
        _require_columns(where, entry, columns, spec)
        if entry.type == BETWEEN and entry.grain != "dataset":
            # A bound from below alone would let NaN through.
            kwargs |= without_nan(kwargs, base_type(column_types(spec).get(columns[0], "")))
        name = entry.name or ".".join((entry.type.removeprefix("expect_"), *columns))
        name = f"own.{entry.grain}.{name}"
        if name in rules:
            name = f"{name}.{place}"
        rules[name] = Rule(
            name=name,
            grain=entry.grain,
            column=columns[0] if len(columns) == 1 else None,
            expected=entry.type.removeprefix("expect_").replace("_", " "),
            type=entry.type,
            kwargs=kwargs,
            own=True,
        )
    return tuple(rules.values())


def _read(path: str | Path) -> Sequence[Any]:
    values = read_values(path, "the file of expectations", ConfigError, fix="Correct quality.expectations.")
    if not isinstance(values, list):
        raise ConfigError(f"the expectations {path} are not a list", expected="a list of {grain, type, kwargs}")
    return values


def _plain(value: Any) -> Any:
    # YAML turns an unquoted day into a date, which the JSON inside Great Expectations cannot hold.
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _require_type(where: str, kind: str, kwargs: Mapping[str, Any]) -> None:
    allowed = SUPPORTED.get(kind)
    if allowed is None:
        raise ConfigError(f"{where} has the unknown type {kind!r}", expected=known_names(kind, SUPPORTED))
    for key in kwargs:
        if key not in allowed:
            raise ConfigError(f"{where}: {kind} takes no argument {key!r}", expected=known_names(key, sorted(allowed)))
    for key in _NUMBERS & kwargs.keys():
        try:
            number(kwargs[key])
        except ValueError as error:
            raise ConfigError(f"{where}: {key}: {error}", expected="a number, or a date as a text") from None
    for key in ("column", "column_A", "column_B", "column_list"):
        if key in allowed and key not in kwargs:
            raise ConfigError(f"{where}: {kind} needs the argument {key}")
    listed = kwargs.get("column_list", [])
    named = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    if not isinstance(listed, list) or not all(isinstance(c, str) for c in (*named, *listed)):
        raise ConfigError(f"{where}: {kind} takes column names as text, and column_list as a list of them")


def _columns(kwargs: Mapping[str, Any]) -> Iterator[str]:
    yield from (kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs)
    yield from kwargs.get("column_list", ())


def _require_columns(where: str, entry: OwnExpectation, columns: Sequence[str], spec: DatasetSpec) -> None:
    if entry.grain == "dataset":
        known: tuple[str, ...] = computed_facts(spec)
        keys: tuple[str, ...] = ()
    else:
        grain = Grain(entry.grain)
        known, keys = scalar_columns(spec, grain), spec.impression_key
        if grain is Grain.REQUEST:
            known += tuple(derived_columns(spec).lengths.values())
    types = column_types(spec)
    for column in columns:
        if column in known:
            if column in keys and entry.type in _REVEALING:
                raise ConfigError(
                    f"{where}: {entry.type} of the key column {column} would show identifiers",
                    fix="Use an expectation that counts rows.",
                )
            continue
        length = derived_columns(spec).lengths.get(column)
        if entry.grain == "request" and length is not None:
            hint = f"Use {length}, its number of elements."
        elif column in types and not is_scalar(types[column]):
            hint = f"{column} is {types[column]}; only scalar columns can be checked."
        else:
            hint = "Correct the column or the grain."
        raise ConfigError(
            f"{where} names the column {column!r}, which {entry.grain} grain does not have",
            expected=known_names(column, known),
            fix=hint,
        )

"""The gate's rules, built from a dataset's description and from the user's own file. Pure: knows no engine.

A rule is one Great Expectations expectation as plain values. Rules of the request and impression grain run over rows,
with each history list replaced by short derived columns; rules of the dataset grain run over one row of facts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.quality.columns import (
    MOMENTS,
    NUMBERS,
    base_type,
    column_types,
    derived_columns,
    scalar_columns,
    time_bounds,
)
from dedup_storage.quality.model import CheckGrain, GateFacts
from dedup_storage.schema import ColumnCheck, DateGrain, Grain

__all__ = ["Rule", "build_rules", "computed_facts", "without_nan", "zero_rule"]

NOT_NULL = "expect_column_values_to_not_be_null"
BETWEEN = "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
# Share of the rows whose times shall be plausible.
_MOST = 0.5


class Rule(BaseModel):
    """One expectation.

    Attributes:
        name: Unique among a gate's rules.
        grain: What one checked row stands for.
        column: The column of the log (or the fact) it is about.
        expected: The rule in words, without values of the data.
        type: Snake-case name of the Great Expectations expectation.
        kwargs: Its arguments.
        own: Whether the user's file asked for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    grain: CheckGrain
    column: str | None
    expected: str
    type: str
    kwargs: dict[str, Any]
    own: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the audited frame that it reads."""
        named = [self.kwargs.get(key) for key in ("column", "column_A", "column_B")]
        return tuple(c for c in (*named, *self.kwargs.get("column_list", ())) if c is not None)


def computed_facts(spec: DatasetSpec) -> tuple[str, ...]:
    """Names of the dataset facts that the gate counts itself."""
    names = ("request_rows", "impression_rows", "dedup_factor", "duplicate_impression_keys", "null_items")
    split = ("duplicate_request_keys", "orphan_impressions", "empty_requests")
    return names if spec.layout is Layout.FLAT else (*names, *split)


def build_rules(spec: DatasetSpec, facts: GateFacts) -> tuple[Rule, ...]:
    """Every rule that follows from the schema and from what the writer knows.

    Raises:
        SchemaError: a check of the schema names a column that the dataset lacks, that is not a scalar, or whose type
            does not go with its bounds; or a sequence of times cannot be compared with the event time.
    """
    return (*_row_rules(spec), *_dataset_rules(spec, facts))


def _row_rules(spec: DatasetSpec) -> Iterator[Rule]:
    schema, derived, types = spec.schema_, derived_columns(spec), column_types(spec)
    dated = schema.event_time if spec.date_grain is not DateGrain.NONE else None
    for column in (*spec.request_key, *([dated] if dated else [])):
        yield _not_null("request", column)
    for column in (*(spec.request_key if spec.layout.divided else ()), spec.position_column):
        yield _not_null("impression", column)
    required = {c: NOT_NULL for c in (*spec.request_key, spec.position_column, dated) if c}
    for column, check in schema.checks.items():
        yield from _check_rules(spec, column, check, types, skip_not_null=column in required)
    for sequence in schema.sequences:
        if not types[sequence.column].startswith("array<"):
            raise SchemaError(
                f"the sequence column {sequence.column} is not a list",
                expected="array<...>",
                got=types[sequence.column],
            )
        if sequence.max_length is not None:
            yield Rule(
                name=f"request.{sequence.column}.max_length",
                grain="request",
                column=sequence.column,
                expected=f"at most {sequence.max_length} elements",
                type=BETWEEN,
                kwargs={"column": derived.lengths[sequence.column], "max_value": sequence.max_length},
            )
        if sequence.times:
            _require_comparable(spec, sequence.column, types)
            yield Rule(
                name=f"request.{sequence.column}.not_later",
                grain="request",
                column=sequence.column,
                expected=f"no element later than {schema.event_time}",
                type=IN_SET,
                kwargs={"column": derived.not_later[sequence.column], "value_set": [True]},
            )
            # Lists padded at their end, and lists with the newest element first, are told by this.
            yield Rule(
                name=f"request.{sequence.column}.in_order",
                grain="request",
                column=sequence.column,
                expected="times that ascend, the newest element last, without padding (forms: order, padding)",
                type=IN_SET,
                kwargs={"column": derived.ordered[sequence.column], "value_set": [True]},
            )
    yield from _time_rules(spec)
    for group, column in derived.parallel.items():
        members = ", ".join(s.column for s in schema.sequences if s.group == group)
        yield Rule(
            name=f"request.{group}.parallel",
            grain="request",
            column=None,
            expected=f"equal lengths of {members}",
            type=IN_SET,
            kwargs={"column": column, "value_set": [True]},
        )


def _time_rules(spec: DatasetSpec) -> Iterator[Rule]:
    """Times between bounds: every one where they are stated, most of them where they are only plausible.

    A wrong unit moves all times of a log, a broken clock those of some rows, which are counted and said.
    """
    for column, ((low, high), stated) in time_bounds(spec).items():
        words = [f"{word} {bound}" for word, bound in (("not before", low), ("not after", high)) if bound is not None]
        expected = " and ".join(words) if stated else f"most of it {' and '.join(words)}, UTC"
        grain = _grain_of(spec, column) or Grain.REQUEST
        yield Rule(
            name=f"{grain.value}.{column}.{'between' if stated else 'plausible'}",
            grain=grain.value,
            column=column,
            expected=expected,
            type=IN_SET,
            kwargs={
                "column": derived_columns(spec).within[column],
                "value_set": [True],
                **({} if stated else {"mostly": _MOST}),
            },
        )


def _grain_of(spec: DatasetSpec, column: str) -> Grain | None:
    return next((g for g in (Grain.REQUEST, Grain.IMPRESSION) if column in scalar_columns(spec, g)), None)


def _not_null(grain: CheckGrain, column: str) -> Rule:
    return Rule(
        name=f"{grain}.{column}.not_null",
        grain=grain,
        column=column,
        expected="no null",
        type=NOT_NULL,
        kwargs={"column": column},
    )


def _check_rules(
    spec: DatasetSpec, column: str, check: ColumnCheck, types: Mapping[str, str], *, skip_not_null: bool
) -> Iterator[Rule]:
    grain = _grain_of(spec, column)
    if grain is None and column in time_bounds(spec) and check.allowed is None and not check.not_null:
        return
    if grain is None:
        known = [c for g in (Grain.REQUEST, Grain.IMPRESSION) for c in scalar_columns(spec, g)]
        raise SchemaError(
            f"checks.{column}: the dataset {spec.name} has no such scalar column",
            expected=known_names(column, known),
            got=types.get(column, "no such column"),
            fix="Correct the name under checks in the schema file.",
        )
    if check.not_null and not skip_not_null:
        yield _not_null("request" if grain is Grain.REQUEST else "impression", column)
    base = base_type(types[column])
    bounded = [b for b in (check.minimum, check.maximum) if b is not None]
    dated = [isinstance(b, date) for b in bounded]
    if bounded and not (base in MOMENTS and all(dated)):
        if base not in NUMBERS or any(dated):
            raise SchemaError(
                f"checks.{column}: minimum and maximum bound numbers, or dates and times",
                expected="numbers for a numeric column, dates or times for a column of times",
                got=types[column],
                fix="Use allowed, or an expectation of your own.",
            )
        bounds = without_nan({"min_value": check.minimum, "max_value": check.maximum}, base)
        words = [
            f"{word} {bound:.15g}"
            for word, bound in (("at least", check.minimum), ("at most", check.maximum))
            if bound is not None
        ]
        yield Rule(
            name=f"{grain.value}.{column}.between",
            grain=grain.value,
            column=column,
            expected=" and ".join(words),
            type=BETWEEN,
            kwargs={"column": column, **bounds},
        )
    if check.allowed is not None:
        _require_allowed_types(column, base, check.allowed)
        yield Rule(
            name=f"{grain.value}.{column}.allowed",
            grain=grain.value,
            column=column,
            expected=f"one of {len(check.allowed)} allowed values",
            type=IN_SET,
            kwargs={"column": column, "value_set": list(check.allowed)},
        )


def without_nan(bounds: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Bounds of a column of floats such that NaN, which Spark takes for the greatest number, lies outside of them."""
    found = {k: v for k, v in bounds.items() if v is not None}
    if base in ("float", "double") and "min_value" in found and "max_value" not in found:
        found["max_value"] = sys.float_info.max
    return found


def _require_allowed_types(column: str, base: str, allowed: tuple[str | int | float | bool, ...]) -> None:
    # Compared with another type, Spark casts the column, and a value that cannot be cast ends the whole job.
    fits: tuple[type, ...] = (str,)
    if base == "boolean":
        fits = (bool,)
    elif base in NUMBERS:
        fits = (int, float)
    for value in allowed:
        if not isinstance(value, fits) or (isinstance(value, bool) and base != "boolean"):
            raise SchemaError(
                f"checks.{column}.allowed holds a value of another type",
                expected=" or ".join(t.__name__ for t in fits) + f" for a {base} column",
                got=type(value).__name__,
                fix="Quote texts and leave numbers unquoted in the schema file.",
            )


def _require_comparable(spec: DatasetSpec, column: str, types: Mapping[str, str]) -> None:
    event_time = spec.schema_.event_time
    if event_time is None:
        raise SchemaError(
            f"the sequence {column} holds times, but the log has no event_time",
            expected="event_time in the schema",
            fix=f"Declare event_time, or set times: false for {column}.",
        )
    element, time = base_type(types[column].removeprefix("array<").removesuffix(">")), base_type(types[event_time])
    if not ((element in MOMENTS and time in MOMENTS) or (element in NUMBERS and time in NUMBERS)):
        raise SchemaError(
            f"the times of {column} cannot be compared with {event_time}",
            expected="both timestamps or dates, or both numbers of one unit",
            got=f"{element} and {time}",
            fix="Convert the list before writing, for example with transform(times, t -> timestamp_seconds(t)).",
        )


def _dataset_rules(spec: DatasetSpec, facts: GateFacts) -> Iterator[Rule]:
    split = spec.layout.divided
    if split:
        yield zero_rule("duplicate_request_keys", "every request key once")
        yield zero_rule("orphan_impressions", "a request for every impression")
    yield zero_rule("duplicate_impression_keys", "every impression key once")
    if facts.inconstant_requests is not None or not split:
        yield zero_rule("inconstant_requests", "request columns constant inside every request")
    if facts.existing_request_keys is not None:
        yield zero_rule("existing_request_keys", "no request that the dataset holds already")
    if facts.input_rows is not None:
        yield _equal("impression_rows", "expected_impression_rows", "input less quarantined and duplicate rows")
    if facts.written_impression_rows is not None:
        yield _equal("impression_rows", "written_impression_rows", "what the writer wrote")
    if facts.written_request_rows is not None:
        yield _equal("request_rows", "written_request_rows", "what the writer wrote")
    if facts.empty_requests is not None and split:
        yield _equal("empty_requests", "expected_empty_requests", "requests without impressions as in the input")


def zero_rule(fact: str, expected: str) -> Rule:
    """The rule that a dataset fact is 0."""
    return Rule(
        name=f"dataset.{fact}",
        grain="dataset",
        column=None,
        expected=expected,
        type=BETWEEN,
        kwargs={"column": fact, "min_value": 0, "max_value": 0},
    )


def _equal(fact: str, other: str, expected: str) -> Rule:
    return Rule(
        name=f"dataset.{fact}.equals_{other.removesuffix('_rows')}",
        grain="dataset",
        column=None,
        expected=expected,
        type="expect_column_pair_values_to_be_equal",
        kwargs={"column_A": fact, "column_B": other},
    )

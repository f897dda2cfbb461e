"""Columns of every type that Arrow's files hold, each of which may be kept in several ways, and their values."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

__all__ = ["Column", "columns", "moments", "same", "texts", "told"]

moments = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))
_SECONDS = moments.map(lambda t: t.replace(microsecond=0))
_OLD = st.sampled_from(
    [dt.datetime(1, 1, 1), dt.datetime(1582, 10, 4), dt.datetime(1582, 10, 15), dt.datetime(9999, 1, 1)]
)
texts = st.one_of(
    st.sampled_from(["", " ", "007", "NULL", "nan", "true", "e\u0301", "👩\u200d👧", "';--", "a,b\n\"c\"", "\u0000"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)  # fmt: skip
_EXACT = st.one_of(st.integers(-2048, 2048).map(lambda n: n / 2), st.sampled_from([-0.0, math.inf, math.nan]))


def _zones(*units: str) -> list[pa.DataType]:
    return [pa.timestamp(unit, zone) for unit in units for zone in (None, "UTC", "Europe/Berlin")]


# Types that keep the same values, and those values.
_FAMILIES: list[tuple[Sequence[pa.DataType], st.SearchStrategy[Any]]] = [
    ([pa.int8(), pa.int16(), pa.int32(), pa.int64()], st.integers(-(2**7), 2**7 - 1)),
    ([pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int64()], st.integers(0, 2**7 - 1)),
    ([pa.int64()], st.integers(-(2**63), 2**63 - 1)),
    ([pa.uint64()], st.integers(0, 2**64 - 1)),
    ([pa.float16(), pa.float32(), pa.float64()], _EXACT),
    ([pa.float32()], st.floats(width=32)),
    ([pa.float64()], st.floats()),
    ([pa.bool_()], st.booleans()),
    ([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], texts),
    ([pa.binary(), pa.large_binary(), pa.binary(3)], st.binary(min_size=3, max_size=3)),
    ([pa.uuid()], st.binary(min_size=16, max_size=16)),
    ([pa.date32(), pa.date64()], st.dates(dt.date(1, 1, 1), dt.date(9999, 1, 1))),
    (_zones("s", "ms", "us", "ns"), _SECONDS),
    (_zones("us"), moments | _OLD),
    (_zones("s", "ms"), _OLD),
    ([pa.timestamp("ns")], moments),
    ([pa.decimal128(9, 2), pa.decimal128(38, 2), pa.decimal256(9, 2)],
     st.integers(-(10**6), 10**6).map(lambda n: Decimal(n).scaleb(-2))),
    ([pa.decimal256(60, 2)], st.integers(0, 10**40).map(lambda n: Decimal(n).scaleb(-2))),
    ([pa.time32("s"), pa.time64("us")], st.times().map(lambda t: t.replace(microsecond=0))),
    ([pa.duration("s"), pa.duration("us")], st.integers(0, 10**6).map(lambda n: dt.timedelta(seconds=n))),
    ([pa.null()], st.none()),
]  # fmt: skip
# Families that are taken seldom: their columns are mostly refused.
_RARE = (pa.decimal256(60, 2), pa.time32("s"), pa.null(), pa.timestamp("ns"), pa.duration("s"))
_COMMON = [f for f in _FAMILIES if f[0][0] not in _RARE]


@dataclass(frozen=True)
class Column:
    """A column whose type may differ from file to file.

    Attributes:
        kinds: Draws one of its types.
        values: Draws a value, which each of the types holds.
    """

    kinds: st.SearchStrategy[pa.DataType]
    values: st.SearchStrategy[Any]


def _leaf(family: tuple[Sequence[pa.DataType], st.SearchStrategy[Any]]) -> Column:
    kinds, values = family
    return Column(st.sampled_from(list(kinds)), st.none() | values)


def _list(inner: Column) -> Column:
    kinds = inner.kinds.flatmap(lambda k: st.sampled_from([pa.list_(k), pa.list_(k), pa.large_list(k), pa.list_(k, 2)]))
    return Column(kinds, st.none() | st.lists(inner.values, min_size=2, max_size=2))


def _lists(inner: Column) -> Column:
    kinds = inner.kinds.flatmap(lambda k: st.sampled_from([pa.list_(k), pa.large_list(k)]))
    return Column(kinds, st.none() | st.lists(inner.values, max_size=3))


def _struct(pair: tuple[Column, Column]) -> Column:
    a, b = pair
    whole = st.tuples(a.kinds, b.kinds, st.booleans()).map(
        lambda t: pa.struct([("a", t[0]), ("b", t[1])] if t[2] else [("b", t[1]), ("a", t[0])])
    )
    return Column(whole, st.none() | st.fixed_dictionaries({"a": a.values, "b": b.values}))


def _map(inner: Column) -> Column:
    values = st.dictionaries(texts, inner.values, max_size=2).map(lambda m: list(m.items()))
    return Column(inner.kinds.map(lambda k: pa.map_(pa.string(), k)), st.none() | values)


_leaves = st.sampled_from(_COMMON * 2 + _FAMILIES).map(_leaf)
columns: st.SearchStrategy[Column] = st.recursive(
    _leaves,
    lambda inner: st.one_of(inner.map(_list), inner.map(_lists), st.tuples(inner, inner).map(_struct), inner.map(_map)),
    max_leaves=3,
)


def told(value: Any, kind: pa.DataType | None = None) -> Any:
    """A value of a plain reading as it is meant: a naive time is UTC, a duration is a number of its unit.

    Args:
        value: From ``to_pylist``.
        kind: Its type, where that says more than the value.
    """
    if isinstance(value, dt.timedelta) and kind is not None:
        return value // dt.timedelta(**{{"s": "seconds", "us": "microseconds"}[kind.unit]: 1})
    if isinstance(value, dt.datetime):
        plain = value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
        return plain.replace(tzinfo=dt.UTC) if plain.tzinfo is None else plain
    if isinstance(value, bytearray):
        return bytes(value)
    if kind is not None and isinstance(kind, pa.BaseExtensionType):
        return value.bytes if hasattr(value, "bytes") else value
    if isinstance(value, dict):
        kinds = {} if kind is None else {f.name: f.type for f in kind}
        return {k: told(v, kinds.get(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        if kind is not None and pa.types.is_map(kind):
            return [(k, told(v, kind.item_type)) for k, v in value]
        inner = None if kind is None or not hasattr(kind, "value_type") else kind.value_type
        return [told(v, inner) for v in value]
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two values are one: NaN is NaN, -0.0 is not 0.0, a field that a struct lacks is null."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(same(a.get(k), b.get(k)) for k in {*a, *b})
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b) if not (a != a and b != b) else True
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    return type(a == b) is bool and a == b

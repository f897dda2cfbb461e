"""Casts of Spark columns that change no value, and which values of a type stand for exactly one key."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.keys import PLAIN_INTEGER, KeyKind, names_keys

__all__ = ["exact_cast", "exact_key", "is_key_type", "key_kind"]

_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
# Digits of the greatest value of each.
_DIGITS = (3, 5, 10, 19)
_PLAIN_DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_PLAIN_DECIMAL = r"^-?[0-9]+([.][0-9]{1,%d})?$"
_EPOCH = "TIMESTAMP_NTZ'1970-01-01 00:00:00'"


def exact_cast(column: Column, kind: T.DataType, wanted: T.DataType) -> Column | None:
    """The column in another type that holds all values of its own; ``None`` when the types do not say so.

    Naive times are UTC, whatever zone the session has.
    """
    if kind == wanted:
        return column
    if isinstance(kind, T.NullType):
        return column.cast(wanted)
    if isinstance(kind, _INTEGERS) and isinstance(wanted, _INTEGERS):
        return column.cast(wanted) if _INTEGERS.index(type(kind)) < _INTEGERS.index(type(wanted)) else None
    if isinstance(wanted, T.DoubleType) and isinstance(kind, (T.ByteType, T.ShortType, T.IntegerType, T.FloatType)):
        return column.cast(wanted)
    if isinstance(kind, _INTEGERS) and isinstance(wanted, T.DecimalType):
        digits = _DIGITS[_INTEGERS.index(type(kind))]
        return column.cast(wanted) if wanted.precision - wanted.scale >= digits else None
    if isinstance(kind, T.DecimalType) and isinstance(wanted, T.DecimalType):
        return column.cast(wanted) if kind.scale == wanted.scale and kind.precision < wanted.precision else None
    if isinstance(kind, T.TimestampType) and isinstance(wanted, T.TimestampNTZType):
        return F.timestamp_add("MICROSECOND", F.unix_micros(column), F.expr(_EPOCH))
    if isinstance(kind, T.TimestampNTZType) and isinstance(wanted, T.TimestampType):
        return F.concat(column.cast("string"), F.lit("Z")).cast(wanted)
    if isinstance(kind, T.ArrayType) and isinstance(wanted, T.ArrayType):
        if exact_cast(F.lit(None), kind.elementType, wanted.elementType) is None:
            return None
        inner, outer = kind.elementType, wanted.elementType
        return F.transform(column, lambda x: _known(exact_cast(x, inner, outer)))
    return None


def _known(column: Column | None) -> Column:
    if column is None:
        raise ValueError("a cast that was found to be exact is not")
    return column


def key_kind(kind: T.DataType) -> KeyKind:
    """What a Spark type's values are, as far as keys go."""
    if isinstance(kind, _INTEGERS):
        return KeyKind.INTEGER
    if isinstance(kind, T.DecimalType):
        return KeyKind.DECIMAL if kind.scale else KeyKind.WHOLE_DECIMAL
    simple = {T.StringType: KeyKind.TEXT, T.DateType: KeyKind.DATE}
    return simple.get(type(kind), KeyKind.OTHER)


def is_key_type(kind: T.DataType, stored: T.DataType) -> bool:
    """Whether every value of a type stands for at most one key of the stored type."""
    return names_keys(key_kind(kind), key_kind(stored)) or exact_cast(F.lit(None), kind, stored) is not None


def exact_key(column: Column, kind: T.DataType, stored: T.DataType) -> Column:
    """A key in the stored type; null where the value is no such key in its plain form.

    A text such as ``0042`` or ``4e1`` is no key of an integer column. Ask ``is_key_type`` first.
    """
    if kind == stored or isinstance(stored, T.StringType):
        return column.cast(stored)
    exact = exact_cast(column, kind, stored)
    if exact is not None:
        return exact
    if isinstance(kind, T.StringType):
        text, made = F.trim(column), F.trim(column).try_cast(stored)
        if key_kind(stored) in (KeyKind.INTEGER, KeyKind.WHOLE_DECIMAL):
            return F.when(text.rlike(PLAIN_INTEGER), made)
        if isinstance(stored, T.DateType):
            return F.when(text.rlike(_PLAIN_DATE), made)
        # A decimal that had to be rounded is another one.
        return F.when(text.rlike(_PLAIN_DECIMAL % stored.scale), made) if isinstance(stored, T.DecimalType) else made
    return column.try_cast(stored)

"""Casts into a column that may not hold every value: which values it would cut, round or misread.

Spark refuses some of them (a text that is no number, an integer that is too great) and changes others without a word:
fractions of an integer, digits of a decimal, the time of a date, the zone of a text.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.sources.exact import exact_cast
from dedup_storage.spark.types import struct_of

__all__ = ["declared_type", "held", "lost"]

_FLOATS = (T.FloatType, T.DoubleType)
_TIMES = (T.DateType, T.TimestampType, T.TimestampNTZType)
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = rf"{_DAY}([ T][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]{{1,6}}0*)?)?%s)?"
# What a text must look like, so that its cast leaves nothing of it out.
_TEXTS: dict[type[T.DataType], str] = {
    T.DateType: _DAY,
    T.TimestampType: _CLOCK % "([zZ]|[+-][0-9]{2}:?[0-9]{2})?",
    T.TimestampNTZType: _CLOCK % "",
}
_PLAIN_DECIMAL = r"[+-]?[0-9]*([.][0-9]{0,%d}0*)?"


def declared_type(types: Mapping[str, str], column: str, stored: T.DataType) -> T.DataType:
    """The type that a column's values must have: the log's own, which may be narrower than the stored one.

    Args:
        types: Column of the log -> Spark DDL type.
        column: The column.
        stored: Its type in the table.
    """
    return struct_of({column: types[column]}).fields[0].dataType if column in types else stored


def held(value: Column, kind: T.DataType, wanted: T.DataType) -> Column:
    """The value in another type, null where the type has nothing like it; times without a zone are UTC.

    Args:
        value: Of the type ``kind``.
        kind, wanted: The types.
    """
    exact = exact_cast(value, kind, wanted)
    return exact if exact is not None else value.try_cast(wanted)


def lost(value: Column, kind: T.DataType, wanted: T.DataType) -> Column | None:
    """boolean: whether a value is another one once it is held in another type; ``None`` where the types rule it out.

    Null is null in every type. Floats and doubles round what they are given, as they do everywhere; what they take for
    infinite is lost, and so is an integer that they round.

    Args:
        value: Of the type ``kind``.
        kind, wanted: The types; nested ones are looked at value by value, and fields of structs must have equal names.
    """
    if kind == wanted or exact_cast(F.lit(None), kind, wanted) is not None:
        return None
    if isinstance(kind, T.ArrayType) and isinstance(wanted, T.ArrayType):
        return _some(value, kind.elementType, wanted.elementType)
    if isinstance(kind, T.MapType) and isinstance(wanted, T.MapType):
        keys = _some(F.map_keys(value), kind.keyType, wanted.keyType)
        return _either([keys, _some(F.map_values(value), kind.valueType, wanted.valueType)])
    if isinstance(kind, T.StructType) and isinstance(wanted, T.StructType):
        # Spark takes fields by their place, whatever their names.
        if kind.names != wanted.names:
            return value.isNotNull()
        pairs = zip(kind.fields, wanted.fields, strict=True)
        return _either([lost(value[a.name], a.dataType, b.dataType) for a, b in pairs])
    changed = _changed(value, kind, wanted)
    return None if changed is None else value.isNotNull() & changed


def _some(values: Column, kind: T.DataType, wanted: T.DataType) -> Column | None:
    if lost(F.lit(None), kind, wanted) is None:
        return None
    return F.coalesce(F.exists(values, lambda x: _known(lost(x, kind, wanted))), F.lit(False))


def _known(flag: Column | None) -> Column:
    return F.lit(False) if flag is None else F.coalesce(flag, F.lit(False))


def _either(flags: list[Column | None]) -> Column | None:
    found = [flag for flag in flags if flag is not None]
    if not found:
        return None
    either = _known(found[0])
    for flag in found[1:]:
        either = either | _known(flag)
    return either


def _changed(value: Column, kind: T.DataType, wanted: T.DataType) -> Column | None:
    """Whether a value that is not null is lost, of types that are not nested."""
    made = value.try_cast(wanted)
    if isinstance(wanted, T.StringType) or (isinstance(kind, T.DateType) and isinstance(wanted, _TIMES)):
        return None
    if isinstance(kind, T.StringType):
        wrong = made.isNull()
        if isinstance(wanted, T.DecimalType):
            return wrong | ~F.trim(value).rlike(f"^{_PLAIN_DECIMAL % wanted.scale}$")
        if isinstance(wanted, _FLOATS):
            return wrong | (_infinite(made) & ~F.lower(value).rlike("inf"))
        pattern = _TEXTS.get(type(wanted))
        return wrong if pattern is None else wrong | ~F.trim(value).rlike(f"^{pattern}$")
    if isinstance(wanted, _FLOATS) and isinstance(kind, (*_FLOATS, T.DecimalType)):
        return _infinite(made) & ~_infinite(value)
    return ~made.try_cast(kind).eqNullSafe(value)


def _infinite(value: Column) -> Column:
    return F.abs(value).cast("double") == F.lit(float("inf"))

"""Spark types: their DDL text, what the keys may be, and fingerprints of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

from pyspark.errors import PySparkException
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import SchemaError
from dedup_storage.schema import LogSchema

__all__ = [
    "check_types",
    "comparable_text",
    "compared_as_they_are",
    "ddl",
    "fingerprint",
    "has_hidden_nulls",
    "not_nan",
    "orderable",
    "struct_of",
]

_USER_TYPES = (T.IntegerType, T.LongType, T.StringType)
_KEY_TYPES = (*_USER_TYPES, T.ByteType, T.ShortType, T.DateType, T.DecimalType, T.TimestampType, T.TimestampNTZType)
_ITEM_TYPES = (*_USER_TYPES, T.ByteType, T.ShortType, T.DateType, T.BinaryType)
# JSON leaves microseconds out unless a pattern asks for them.
_JSON = {
    "ignoreNullFields": "false",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
_UNSTORABLE = (T.NullType, T.CalendarIntervalType, T.DayTimeIntervalType, T.YearMonthIntervalType)


def ddl(data_type: T.DataType) -> str:
    """DDL text that Spark parses back to the same type, whatever characters nested field names hold.

    Example: ``struct<`a b`:int>``
    """
    if isinstance(data_type, T.ArrayType):
        return f"array<{ddl(data_type.elementType)}>"
    if isinstance(data_type, T.MapType):
        return f"map<{ddl(data_type.keyType)},{ddl(data_type.valueType)}>"
    if isinstance(data_type, T.StructType):
        fields = ",".join(f"`{f.name.replace('`', '``')}`:{ddl(f.dataType)}" for f in data_type.fields)
        return f"struct<{fields}>"
    return data_type.simpleString()


def struct_of(types: Mapping[str, str]) -> T.StructType:
    """The columns with the DDL types given.

    Raises:
        SchemaError: a text is no type.
    """
    fields = []
    for name, kind in types.items():
        try:
            fields.append(T.StructField(name, T.DataType.fromDDL(kind)))
        except PySparkException:
            raise SchemaError(
                f"the type of the column {name} is not known",
                expected="a Spark type such as bigint",
                got=kind,
            ) from None
    return T.StructType(fields)


def compared_as_they_are(left: T.DataType, right: T.DataType) -> bool:
    """Whether Spark compares two types without a cast that could make two values one: equal types, or integers."""
    return left == right or (isinstance(left, T.IntegralType) and isinstance(right, T.IntegralType))


def check_types(schema: LogSchema, fields: Iterable[T.StructField]) -> None:
    """Check that each role's column has a type that can play it.

    Raises:
        SchemaError: names the column, the types expected and the type found.
    """
    types = {f.name: f.dataType for f in fields}

    def _is_unsigned(column: str) -> bool:
        # How unsigned integers of 64 bits are stored.
        return types[column] == T.DecimalType(20, 0)

    def demand(column: str, role: str, allowed: tuple[type[T.DataType], ...], text: str) -> None:
        if column in types and not isinstance(types[column], allowed) and not (role == "item" and _is_unsigned(column)):
            raise SchemaError(
                f"the {role} {column} has a type that cannot be used",
                expected=text,
                got=types[column].simpleString(),
                fix="Cast the column in the log, or name another one in the schema.",
            )

    demand(schema.user, "user key", _USER_TYPES, "int, bigint or string")
    for column in schema.request:
        demand(column, "request key", _KEY_TYPES, "an integer, string, decimal, date or timestamp")
    if schema.event_time:
        times = (T.TimestampType, T.TimestampNTZType, T.DateType)
        demand(schema.event_time, "event time", times, "timestamp or date")
    # The reader hands ids out as integers of 64 bits or texts: what is neither would be rounded there.
    demand(schema.item, "item", _ITEM_TYPES, "an integer of at most 64 bits, a string or a date")
    if schema.position:
        integers = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
        demand(schema.position, "position", integers, "an integer")
    for column in (*schema.sequence_columns, *schema.candidates):
        demand(column, "list column", (T.ArrayType,), "array<…>")
    for name, data_type in types.items():
        if isinstance(data_type, _UNSTORABLE):
            raise SchemaError(
                f"the column {name} has a type that no table can hold",
                got=data_type.simpleString(),
                fix="Drop or cast it in the log.",
            )


def orderable(column: str, data_type: T.DataType) -> Column:
    """The column in a form that sorts: maps, which have no order, as JSON."""
    return comparable_text(F.col(column), data_type) if _contains_map(data_type) else F.col(column)


def comparable_text(column: Column, data_type: T.DataType) -> Column:
    """A text that is equal for equal values alone: maps in the order of their keys, times with their microseconds."""
    return F.to_json(F.struct(_ordered(column, data_type).alias("value")), _JSON)


def _ordered(column: Column, kind: T.DataType) -> Column:
    """The column with each map as the list of its entries by key."""
    if not _contains_map(kind):
        return column
    if isinstance(kind, T.MapType):
        entries = F.map_entries(column)
        inner = kind.valueType
        made = F.transform(
            entries, lambda e: F.struct(e["key"].alias("key"), _ordered(e["value"], inner).alias("value"))
        )
        return F.array_sort(
            made, lambda a, b: F.when(a["key"] < b["key"], -1).when(a["key"] > b["key"], 1).otherwise(0)
        )
    if isinstance(kind, T.ArrayType):
        element = kind.elementType
        return F.transform(column, lambda e: _ordered(e, element))
    fields = kind.fields if isinstance(kind, T.StructType) else []
    made = F.struct(*(_ordered(column[f.name], f.dataType).alias(f.name) for f in fields))
    return F.when(column.isNotNull(), made)


def _contains_map(data_type: T.DataType) -> bool:
    if isinstance(data_type, T.MapType):
        return True
    if isinstance(data_type, T.ArrayType):
        return _contains_map(data_type.elementType)
    return isinstance(data_type, T.StructType) and any(_contains_map(f.dataType) for f in data_type.fields)


def _probe(element: T.DataType) -> Column | None:
    """A value of the element type that a log hardly holds; ``None`` where no such value can be named."""
    if isinstance(element, T.LongType):
        return F.lit(-(2**63) + 1).cast(element)
    if isinstance(element, T.IntegerType):
        return F.lit(-(2**31) + 1).cast(element)
    if isinstance(element, (T.FloatType, T.DoubleType)):
        return F.lit(-1.2345e-30).cast(element)
    if isinstance(element, T.StringType):
        return F.lit("\u0001dedup\u0001")
    if isinstance(element, (T.DateType, T.TimestampType, T.TimestampNTZType)):
        return F.lit("0001-01-02").cast(element)
    return None


def has_hidden_nulls(fields: Iterable[T.StructField]) -> Column:
    """True when ``fingerprint`` without ``strict`` could overlook a null inside a list of this row.

    ``xxhash64`` skips nulls, so [1, null] and [null, 1] hash alike. ``array_contains`` is null when a list holds a
    null and not the probe, and runs as generated code: far cheaper than looking at each element with a lambda.
    """
    flags = []
    for field in fields:
        if isinstance(field.dataType, T.ArrayType):
            probe = _probe(field.dataType.elementType)
            if probe is not None:
                flags.append(
                    F.col(field.name).isNotNull() & F.coalesce(F.array_contains(field.name, probe), F.lit(True))
                )
    return reduce(lambda a, b: a | b, flags, F.lit(False))


def not_nan(column: Column, kind: T.DataType) -> Column:
    """The column, null where it is NaN: Spark takes NaN for greater than every number."""
    return F.when(~F.isnan(column), column) if isinstance(kind, (T.FloatType, T.DoubleType)) else column


def fingerprint(fields: Iterable[T.StructField], *, strict: bool = False) -> Column:
    """64-bit hash of a row's values (xxHash64, https://xxhash.com), nulls told apart by column and list length.

    Args:
        fields: Columns to cover.
        strict: Also cover the places of nulls inside lists (slower; see ``has_hidden_nulls``).

    Returns:
        bigint. Equal rows hash alike; unequal rows differ but for one chance in 2**64.
    """
    parts: list[Column] = []
    for field in fields:
        column, kind = F.col(field.name), field.dataType
        parts.append(column.isNull())
        if isinstance(kind, T.ArrayType) and not isinstance(kind.elementType, (T.ArrayType, T.MapType, T.StructType)):
            parts += [F.size(column), column]
            if strict or _probe(kind.elementType) is None:
                parts.append(F.transform(column, lambda x: x.isNull()))
        elif isinstance(kind, (T.ArrayType, T.MapType, T.StructType)):
            parts.append(comparable_text(column, kind))
        else:
            parts.append(column)
    return F.xxhash64(*parts) if parts else F.lit(0).cast("bigint")

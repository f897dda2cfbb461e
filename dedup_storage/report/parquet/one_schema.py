"""One schema over many files, and a file's rows in it. Pure Arrow.

Types are brought together only where no value changes; everything else is refused, naming column, types and files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.errors import InputError

__all__ = [
    "conform",
    "constant",
    "file_schema",
    "index_columns",
    "is_plain",
    "joined",
    "one_schema",
    "open_parquet",
    "plain_type",
]

_SIGNED = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
# The signed type that holds every value of an unsigned one.
_UNSIGNED = {
    pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20, 0),
}  # fmt: skip
_FLOATS = (pa.float32(), pa.float64())


# Stands for the zone of Parquet's old 96-bit times: instants, which Arrow alone would read as times without a zone.
_INT96 = "INT96"


def open_parquet(stream: object) -> pq.ParquetFile:
    """A Parquet file, its 96-bit times in microseconds as Spark wrote them."""
    return pq.ParquetFile(stream, coerce_int96_timestamp_unit="us")


def file_schema(file: pq.ParquetFile) -> pa.Schema:
    """The schema of a file, its 96-bit times with a zone of their own."""
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    old = {leaf.path.partition(".")[0] for leaf in leaves if leaf.physical_type == _INT96}
    schema = file.schema_arrow
    if not old:
        return schema
    return pa.schema([f.with_type(_zoned(f.type)) if f.name in old else f for f in schema])


def _zoned(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", _INT96) if kind.tz is None else kind
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_zoned(f.type)) for f in kind])
    if pa.types.is_map(kind):
        return pa.map_(_zoned(kind.key_type), _zoned(kind.item_type))
    return pa.list_(_zoned(kind.value_type)) if _is_list(kind) else kind


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: dictionaries, views, large and fixed-size forms are how a value is kept.

    Raises:
        ValueError: neither format nor Spark has such a type; says which.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if kind in _UNSIGNED:
        return _UNSIGNED[kind]
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date64(kind):
        return pa.date32()
    if types.is_timestamp(kind):
        # Every instant of a finer unit is kept or refused by the cast; what Arrow calls a zone is how it is shown.
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct([pa.field(f.name, plain_type(f.type)) for f in kind])
    if _is_list(kind):
        return pa.list_(pa.field("element", plain_type(kind.value_type)))
    if (
        types.is_struct(kind)
        or types.is_time(kind)
        or types.is_interval(kind)
        or types.is_decimal256(kind)
        or types.is_union(kind)
    ):
        raise ValueError(str(kind))
    return kind


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        or types.is_list_view(kind) or types.is_large_list_view(kind)
    )  # fmt: skip


def joined(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of two plain types; ``None`` when there is none."""
    if a.equals(b) or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    for order in (_SIGNED, _FLOATS):
        if a in order and b in order:
            return order[max(order.index(a), order.index(b))]
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        return pa.timestamp("us", "UTC")
    if pa.types.is_decimal(a) and pa.types.is_decimal(b) and a.scale == b.scale:
        return a if a.precision >= b.precision else b
    if pa.types.is_map(a) and pa.types.is_map(b):
        key, item = joined(a.key_type, b.key_type), joined(a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_list(a) and pa.types.is_list(b):
        element = joined(a.value_type, b.value_type)
        return None if element is None else pa.list_(pa.field("element", element))
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _joined_struct(a, b)
    return None


def _joined_struct(a: pa.StructType, b: pa.StructType) -> pa.DataType | None:
    fields = {f.name: f.type for f in a}
    for field in b:
        kind = joined(fields[field.name], field.type) if field.name in fields else field.type
        if kind is None:
            return None
        fields[field.name] = kind
    return pa.struct(list(fields.items()))


def one_schema(found: Iterable[tuple[str, pa.Schema]], remedy: str | None = None) -> pa.Schema:
    """Every column that any file has, in the type that holds all their values; pandas' index columns are left out.

    Args:
        found: Each file's name and schema; memory grows with the columns, not with the files.
        remedy: What to do about a column of several types, ``{}`` for its name; by default it is to be cast.

    Raises:
        InputError: a column's types cannot be one, or a type cannot be stored; names column, types and files.
    """
    kinds: dict[str, pa.DataType] = {}
    first: dict[str, tuple[str, pa.DataType]] = {}
    known: dict[pa.DataType, pa.DataType] = {}
    for file, schema in found:
        left_out = index_columns(schema)
        for field in schema:
            if field.name in left_out:
                continue
            try:
                kind = known.setdefault(field.type, plain_type(field.type))
            except ValueError as error:
                raise InputError(
                    f"the column {field.name} has a type that cannot be stored: {error}, in {file}",
                    fix=f"Cast the column {field.name} in the log, for example to a number or a text.",
                ) from None
            one = joined(kinds[field.name], kind) if field.name in kinds else kind
            if one is None:
                other, theirs = first[field.name]
                raise InputError(
                    f"the column {field.name} has types that cannot be one without changing values",
                    expected=f"{theirs} as in {other}",
                    got=f"{field.type} in {file}",
                    fix=(remedy or "Cast the column {} in one of them.").format(field.name),
                )
            if field.name not in first or pa.types.is_null(first[field.name][1]):
                first[field.name] = (file, field.type)
            kinds[field.name] = one
    return pa.schema([(name, _counted(kind)) for name, kind in kinds.items()])


def _counted(kind: pa.DataType) -> pa.DataType:
    """Durations, which are of one unit now, as numbers of it: no table has a type for them."""
    types = pa.types
    if types.is_duration(kind):
        return pa.int64()
    if types.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([f.with_type(_counted(f.type)) for f in kind])
    return pa.list_(pa.field("element", _counted(kind.value_type))) if types.is_list(kind) else kind


def index_columns(schema: pa.Schema) -> set[str]:
    """Columns that hold nothing but the numbers by which pandas called its rows."""
    return {f.name for f in schema if f.name.startswith("__index_level_")}


def is_plain(file: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Spark, told to read a file's column as the plain type ``wanted``, gives the values that Arrow gives."""
    types = pa.types
    if isinstance(file, pa.BaseExtensionType) or types.is_float16(file):
        return False
    if types.is_null(file):
        return wanted in _SIGNED
    if types.is_duration(file):
        return wanted == pa.int64()
    if types.is_timestamp(file):
        as_instant = file.tz != _INT96 or (types.is_timestamp(wanted) and wanted.tz is not None)
        return file.unit != "ns" and types.is_timestamp(wanted) and as_instant
    if types.is_map(file) and types.is_map(wanted):
        return is_plain(file.key_type, wanted.key_type) and is_plain(file.item_type, wanted.item_type)
    if types.is_struct(file) and types.is_struct(wanted):
        there = {f.name: f.type for f in wanted}
        return all(f.name in there and is_plain(f.type, there[f.name]) for f in file)
    if _is_list(file) and types.is_list(wanted):
        return is_plain(file.value_type, wanted.value_type)
    return plain_type(file) == wanted or joined(plain_type(file), wanted) == wanted


def conform(table: pa.Table, schema: pa.Schema, constants: Mapping[str, object] | None = None) -> pa.Table:
    """A file's rows in one schema: columns that it lacks are null, or the constants given (of its path).

    Raises:
        pa.ArrowInvalid: a value does not fit the type; its text names the column.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            try:
                columns.append(_chunks(table[field.name], field.type))
            except pa.ArrowInvalid as error:
                raise pa.ArrowInvalid(f"the column {field.name}: {error}") from None
        elif constants is not None and field.name in constants:
            value = constant(str(constants[field.name]), field.type)
            columns.append(pa.chunked_array([pa.repeat(value, table.num_rows)]))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
    return pa.Table.from_arrays(columns, schema=schema)


def constant(text: str, kind: pa.DataType) -> pa.Scalar:
    """A path's text as a value; a time without a zone is UTC.

    Raises:
        pa.ArrowInvalid: it is none.
    """
    value = pa.scalar(text, pa.string())
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return value.cast(kind)
    try:
        return value.cast(kind)
    except pa.ArrowInvalid:
        return pa.scalar(value.cast(pa.timestamp(kind.unit)).value, pa.int64()).cast(kind)


def _chunks(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return pa.chunked_array([_cast(chunk, kind) for chunk in column.chunks], kind)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    types = pa.types
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type == kind:
        return array
    if types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if types.is_dictionary(array.type):
        return _cast(array.dictionary_decode(), kind)
    if types.is_struct(kind) and types.is_struct(array.type):
        there = {f.name: i for i, f in enumerate(array.type)}
        parts = [
            _cast(pc.struct_field(array, [there[f.name]]), f.type) if f.name in there else pa.nulls(len(array), f.type)
            for f in kind
        ]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=array.is_null())
    if types.is_map(kind) and types.is_map(array.type):
        keys, items = _cast(array.keys, kind.key_type), _cast(array.items, kind.item_type)
        offsets, missing = _offsets(array)
        return pa.MapArray.from_arrays(offsets, keys, items, mask=missing)
    if types.is_list(kind) and _is_list(array.type):
        if not (types.is_list(array.type) or types.is_large_list(array.type)):
            array = array.cast(pa.list_(array.type.value_type))
        lists = array.cast(pa.list_(array.type.value_type)) if types.is_large_list(array.type) else array
        offsets, missing = _offsets(lists)
        return pa.ListArray.from_arrays(offsets, _cast(lists.values, kind.value_type), kind, mask=missing)
    if types.is_timestamp(array.type) and types.is_timestamp(kind):
        # Arrow would take a naive time for one of the other's zone; here every naive time is UTC.
        unit = array.view(pa.int64()).view(pa.timestamp(array.type.unit)).cast(pa.timestamp(kind.unit))
        return unit if kind.tz is None else unit.view(pa.int64()).view(kind)
    if types.is_duration(array.type):
        return array.view(pa.int64())
    return array.cast(kind)


def _offsets(array: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """List offsets, and which lists are missing, as ``from_arrays`` takes them.

    The slot of a missing list may hold elements, as that of every list of a fixed size does; offsets that are null
    would give them to the list before it.
    """
    return pa.array(array.offsets.to_numpy(), pa.int32()), array.is_null() if array.null_count else None

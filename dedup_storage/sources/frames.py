"""A source's rows as a Spark frame: the same files, the same schema as Arrow reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from dedup_storage.errors import InputError
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.sources.address import Kind
from dedup_storage.sources.source import Source
from dedup_storage.spark.errors import translated

__all__ = ["arrow_types", "files_frame", "source_frame", "spark_type"]

_GLOB = re.compile(r"([\[\]{}*?\\])")
_SIMPLE: tuple[tuple[pa.DataType, T.DataType], ...] = (
    (pa.int8(), T.ByteType()),
    (pa.int16(), T.ShortType()),
    (pa.int32(), T.IntegerType()),
    (pa.int64(), T.LongType()),
    (pa.float32(), T.FloatType()),
    (pa.float64(), T.DoubleType()),
    (pa.bool_(), T.BooleanType()),
    (pa.string(), T.StringType()),
    (pa.binary(), T.BinaryType()),
    (pa.date32(), T.DateType()),
    (pa.timestamp("us", "UTC"), T.TimestampType()),
    (pa.timestamp("us"), T.TimestampNTZType()),
)


def source_frame(spark: SparkSession, source: Source) -> DataFrame:
    """The rows of a source.

    Raises:
        DedupStorageError: Spark cannot find the table or a file.
    """
    with translated():
        if source.address.kind is Kind.TABLE:
            return spark.table(source.address.source)
        return files_frame(spark, source.files, source.schema, source.address.place)


def files_frame(spark: SparkSession, files: Sequence[DataFile], schema: pa.Schema, base: str) -> DataFrame:
    """Rows of Parquet files in one schema.

    Args:
        spark: Session to read with.
        files: Files that ``is_plain`` holds for.
        schema: Their schema, with the columns that stand in their paths alone.
        base: Folder below which the paths tell columns.

    Raises:
        InputError: Spark has no type for a column.
    """
    inside = [f for f in schema if not any(f.name in file.partition for file in files)]
    fields = [*inside, *(f for f in schema if f not in inside)]
    told = T.StructType([T.StructField(f.name, spark_type(f.type, f.name)) for f in fields])
    # Of files that do not say in which calendar their dates are, Parquet's own counts, as to Arrow.
    reader = spark.read.schema(told).options(datetimeRebaseMode="CORRECTED", int96RebaseMode="CORRECTED")
    if len(inside) < len(fields):
        reader = reader.option("basePath", base)
    # A name is a name here, never a pattern.
    return reader.parquet(*(_GLOB.sub(r"\\\1", file.path) for file in files))


def spark_type(kind: pa.DataType, column: str) -> T.DataType:
    """Spark's type of a plain Arrow type.

    Raises:
        InputError: there is none; names the column.
    """
    simple = next((there for here, there in _SIMPLE if here.equals(kind)), None)
    if simple is not None:
        return simple
    if pa.types.is_decimal128(kind):
        return T.DecimalType(kind.precision, kind.scale)
    if pa.types.is_map(kind):
        return T.MapType(spark_type(kind.key_type, column), spark_type(kind.item_type, column))
    if pa.types.is_list(kind):
        return T.ArrayType(spark_type(kind.value_type, column))
    if pa.types.is_struct(kind):
        return T.StructType([T.StructField(f.name, spark_type(f.type, column)) for f in kind])
    raise InputError(
        f"the column {column} has a type that cannot be stored", got=str(kind), fix=f"Cast {column} in the log."
    )


def arrow_types(schema: T.StructType) -> dict[str, pa.DataType]:
    """Column -> Arrow's type of a Spark schema's columns; those that Arrow has no type for are left out."""
    found = {f.name: _arrow(f.dataType) for f in schema.fields}
    return {name: kind for name, kind in found.items() if kind is not None}


def _arrow(kind: T.DataType) -> pa.DataType | None:
    simple = next((here for here, there in _SIMPLE if there == kind), None)
    if simple is not None:
        return simple
    if isinstance(kind, T.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, T.ArrayType):
        element = _arrow(kind.elementType)
        return None if element is None else pa.list_(pa.field("element", element))
    if isinstance(kind, T.MapType):
        key, item = _arrow(kind.keyType), _arrow(kind.valueType)
        return None if key is None or item is None else pa.map_(key, item)
    if isinstance(kind, T.StructType):
        fields = [(f.name, _arrow(f.dataType)) for f in kind.fields]
        return None if any(k is None for _, k in fields) else pa.struct(fields)
    return None

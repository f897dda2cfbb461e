"""Columns that Delta tables get after they were created, null in every row that is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import SparkSession

from dedup_storage.errors import UsageError
from dedup_storage.lake.delta.layout import file_properties, writer_names
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.layout import PROMOTED_PROPERTY, DatasetSpec, TableSpec

__all__ = ["add_logged", "add_promoted", "set_encodings"]


def add_promoted(spark: SparkSession, ref: DeltaRef, columns: Mapping[str, str]) -> None:
    """See ``TableFormat.add_columns``.

    Raises:
        UsageError: one is there with another type.
    """
    new = _missing(spark, ref, columns)
    # Set before any row has them, so that what else looks at the table knows them for what they are.
    promoted = ref.properties.get(PROMOTED_PROPERTY, "")
    names = ",".join(sorted({*filter(None, promoted.split(",")), *columns}))
    _set(spark, ref, {PROMOTED_PROPERTY: names})
    _add(spark, ref, new)


def add_logged(
    spark: SparkSession,
    ref: DeltaRef,
    spec: DatasetSpec,
    table: TableSpec,
    columns: Mapping[str, str],
    dictionaries: Collection[str],
) -> None:
    """See ``TableFormat.extend``.

    Raises:
        UsageError: one is there with another type.
    """
    _add(spark, ref, _missing(spark, ref, columns))
    # What Delta itself goes by stays as it is; the rest is the Parquet writer's.
    encodings = {k: v for k, v in file_properties(spec, table, (), dictionaries).items() if not k.startswith("delta.")}
    _set(spark, ref, {key: value for key, value in encodings.items() if key not in ref.properties})


def set_encodings(spark: SparkSession, ref: DeltaRef, properties: Mapping[str, str]) -> None:
    """See ``TableFormat.set_encodings``.

    Raises:
        UsageError: one is no property of a Delta table.
    """
    named = writer_names(properties)
    if len(named) < len(properties):
        missing = sorted(key for key in properties if not writer_names({key: properties[key]}))
        raise UsageError(
            f"a Delta table has no property for {', '.join(missing)}",
            expected="page size, row-group size and dictionaries; codec and level are those of the session that writes",
        )
    _set(spark, ref, named)


def _path(ref: DeltaRef) -> str:
    return f"delta.`{ref.uri.replace('`', '``')}`"


def _set(spark: SparkSession, ref: DeltaRef, properties: Mapping[str, str]) -> None:
    if properties:
        spark.sql(f"ALTER TABLE {_path(ref)} SET TBLPROPERTIES ({listed(properties)})")


def _add(spark: SparkSession, ref: DeltaRef, columns: Mapping[str, str]) -> None:
    if columns:
        new = ", ".join(f"{quoted(c)} {t}" for c, t in columns.items())
        spark.sql(f"ALTER TABLE {_path(ref)} ADD COLUMNS ({new})")


def _missing(spark: SparkSession, ref: DeltaRef, columns: Mapping[str, str]) -> dict[str, str]:
    """Those of the columns that a table does not have; without column mapping, Delta takes no column away."""
    there = {f.name: f.dataType for f in spark.read.format("delta").load(ref.uri).schema.fields}
    wanted = spark.createDataFrame([], ", ".join(f"{quoted(c)} {t}" for c, t in columns.items())).schema
    for field in wanted.fields:
        if field.name in there and there[field.name] != field.dataType:
            raise UsageError(
                f"the table {ref.name} has a column {field.name} of another type, left by a feature group of before or "
                "by a write that was refused",
                expected=there[field.name].simpleString(),
                got=field.dataType.simpleString(),
                fix="Give the column that type or another name, or leave the group in its own table.",
            )
    return {c: t for c, t in columns.items() if c not in there}

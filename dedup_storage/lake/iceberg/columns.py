"""Columns that Iceberg tables get after they were created, null in every row that is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import SparkSession
from pyspark.sql.types import ByteType, ShortType

from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.lake.groups import columns_of
from dedup_storage.lake.iceberg.holds import holds
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.layout import PROMOTED_PROPERTY, DatasetSpec, TableSpec
from dedup_storage.table_properties import encoding_properties

__all__ = ["add_logged", "add_promoted", "set_properties"]


def add_promoted(spark: SparkSession, lake: Lake, spec: DatasetSpec, table: str, columns: Mapping[str, str]) -> None:
    """See ``TableFormat.add_columns``.

    Raises:
        UsageError: one is there with another type, and a kept version shows it.
    """
    _add(spark, lake, spec, table, columns)
    # Set before any row has them, so that what else looks at the table knows them for what they are.
    promoted = lake.catalog.load_table((spec.name, table)).properties.get(PROMOTED_PROPERTY, "")
    names = ",".join(sorted({*filter(None, promoted.split(",")), *columns}))
    set_properties(spark, lake, spec.name, table, {PROMOTED_PROPERTY: names})


def add_logged(
    spark: SparkSession,
    lake: Lake,
    spec: DatasetSpec,
    table: TableSpec,
    columns: Mapping[str, str],
    dictionaries: Collection[str],
) -> None:
    """See ``TableFormat.extend``.

    Raises:
        UsageError: one is there with another type, and a kept version shows it.
        ConflictError: the same, no version shows it, and runs have rows staged.
    """
    _add(spark, lake, spec, table.name, columns, logged=True)
    there = lake.catalog.load_table((spec.name, table.name)).properties
    encodings = encoding_properties(spec, table, (), dictionaries)
    new = {key: value for key, value in encodings.items() if key not in there}
    set_properties(spark, lake, spec.name, table.name, new)


def set_properties(spark: SparkSession, lake: Lake, dataset: str, table: str, properties: Mapping[str, str]) -> None:
    """Set properties of a table; without any, nothing is committed."""
    if properties:
        spark.sql(f"ALTER TABLE {_name(lake, dataset, table)} SET TBLPROPERTIES ({listed(properties)})")


def _name(lake: Lake, dataset: str, table: str) -> str:
    return quoted(lake.settings.catalog.name, dataset, table)


def _add(
    spark: SparkSession, lake: Lake, spec: DatasetSpec, table: str, columns: Mapping[str, str], *, logged: bool = False
) -> None:
    name = _name(lake, spec.name, table)
    there = {f.name: f.dataType for f in spark.read.table(name).schema.fields}
    # Iceberg widens 8- and 16-bit integers.
    wanted = spark.createDataFrame([], ", ".join(f"{quoted(c)} {t}" for c, t in columns.items())).schema
    for field in wanted.fields:
        kind, plain = columns[field.name], field.dataType.simpleString()
        if isinstance(field.dataType, (ByteType, ShortType)):
            kind = plain = "int"
        if field.name in there and there[field.name].simpleString() == plain:
            continue
        if field.name in there:
            _refuse_needed(lake, spec, table, field.name, (there[field.name].simpleString(), plain), logged=logged)
            spark.sql(f"ALTER TABLE {name} DROP COLUMN {quoted(field.name)}")
        spark.sql(f"ALTER TABLE {name} ADD COLUMN {quoted(field.name)} {kind}")


def _refuse_needed(
    lake: Lake, spec: DatasetSpec, table: str, column: str, types: tuple[str, str], *, logged: bool
) -> None:
    """Refuse to take away a column that is there with another type, where anybody may need it.

    A snapshot of before keeps its schema. But once a rollback brings it back, or an erasure lays it anew, its files are
    read by the table's schema, and that finds nothing in them under a column that was added later.
    """
    meta = lake.load(spec.name)
    shown = [v for v in meta.version_numbers if table in meta.snapshots(v) and column in columns_of(meta, v, table)]
    if shown:
        raise UsageError(
            f"the table {spec.name}.{table} has a column {column} of another type, which version {shown[-1]} shows",
            expected=types[0],
            got=types[1],
            fix="Give the column that type or another name, or leave the group in its own table. Once no kept version "
            "shows the column any more, its name is free.",
        )
    if logged and holds(meta.tables):
        raise ConflictError(
            f"the column {column} is in {spec.name}.{table} with another type, and runs have rows staged",
            expected=types[1],
            got=types[0],
            fix="Let them finish, or give them up: dedup-storage versions status.",
        )

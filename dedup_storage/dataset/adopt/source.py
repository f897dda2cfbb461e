"""What a log that is to be adopted is, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import ConstancyError, DuplicateRowsError, InputError
from dedup_storage.lake.engine.stores import require_file_system
from dedup_storage.lake.folders import Store
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.schema import DateGrain, Grain, LogSchema
from dedup_storage.sources.address import Address, Kind, find_address
from dedup_storage.sources.check import check_source
from dedup_storage.sources.frames import source_frame
from dedup_storage.sources.grains import detect_grains, varying_requests
from dedup_storage.sources.raw import Form, RawLog
from dedup_storage.sources.source import open_source, read_schemas
from dedup_storage.sources.wanted import wanted_columns
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["Source", "adopted_spec", "find_source"]


@dataclass(frozen=True)
class Source:
    """A log that is there.

    Attributes:
        kind: What holds it: an Iceberg table, a Delta table or a folder of Parquet files.
        place: ``namespace.table``, or the folder's absolute path or address.
        frame: Its rows.
        files: Its data files; none of an Iceberg table.
        table: The full name of an Iceberg table.
    """

    kind: Kind
    place: str
    frame: DataFrame
    files: tuple[DataFile, ...] = ()
    table: str | None = None

    def stored(self) -> tuple[int, int]:
        """How many data files it has, and their bytes; from metadata."""
        if self.table is None:
            return len(self.files), sum(file.size_bytes or 0 for file in self.files)
        files = self.frame.sparkSession.read.table(f"{self.table}.files").filter("content = 0")
        row = only_row(files.agg(F.count(F.lit(1)).alias("files"), F.sum("file_size_in_bytes").alias("bytes")))
        return int(row["files"]), int(row["bytes"] or 0)


def find_source(
    spark: SparkSession, settings: Settings, source: str, schema: LogSchema, lies_at: Callable[[str], str]
) -> Source:
    """Find out what a log is, as every command does, and whether it can be adopted as it lies.

    Args:
        spark, settings, source, schema: As for ``adopt``.
        lies_at: Where a table lies, which a stopped adoption may have moved.

    Raises:
        InputError: there is no log, it is of a kind that the configured format cannot adopt, or its files differ.
        SchemaError: the log does not fit the schema.
    """
    require_file_system(spark, source)
    store = Store(settings.catalog.properties)
    address = find_address(source, store=store)
    if address.kind is Kind.TABLE:
        if settings.format != "iceberg":
            raise InputError(
                f"{source} names an Iceberg table, and the configured format is {settings.format}",
                fix="Set format: iceberg, adopt it there, and convert it.",
            )
        parts = source.removeprefix(f"{settings.catalog.name}.").split(".")
        if len(parts) != 2:
            raise InputError(f"{source} is no table's name", expected="namespace.table, or a path with a slash in it")
        place = lies_at(".".join(parts))
        table = f"{settings.catalog.name}.{place}"
        return Source(Kind.ICEBERG, place, spark.read.table(table), table=table)
    if address.kind is Kind.ICEBERG:
        raise InputError(f"{source} is an Iceberg table's folder", fix="Adopt it by its name: namespace.table.")
    if address.kind is Kind.DELTA and settings.format != "delta":
        raise InputError(
            f"{source} is a Delta table, and the configured format is {settings.format}",
            fix="Set format: delta, adopt it there, and convert it.",
        )
    if address.kind is Kind.PARQUET:
        _refuse_mixed(address)
    elif address.kind is not Kind.DELTA:
        raise InputError(
            f"{source} holds {address.kind.value.upper()}",
            expected="Parquet files, or a Delta or Iceberg table",
            fix=_FIX,
        )
    opened = open_source(source, wanted=wanted_columns(schema), store=store)
    check_source(opened, schema)
    if address.kind is Kind.DELTA:
        frame = spark.read.format("delta").load(address.place)
        return Source(Kind.DELTA, address.place, frame, opened.files)
    if opened.files != address.files:
        raise InputError(f"the files of {source} hold types that no table keeps as they lie", fix=_FIX)
    return Source(Kind.PARQUET, address.place, source_frame(spark, opened), opened.files)


_FIX = "Write it into a dataset: dedup-storage write."


def _refuse_mixed(address: Address) -> None:
    """A folder's files must have one schema, and none in their paths."""
    if [file.path for file in address.files] == [address.place]:
        raise InputError(f"{address.source} is one file", expected="a folder of Parquet files, or namespace.table")
    named = next((file for file in address.files if file.partition), None)
    if named is not None:
        raise InputError(
            f"the folder {address.source} keeps columns in its paths ({next(iter(named.partition))}=…)",
            expected="files that hold every column",
            fix=_FIX,
        )
    first: tuple[str, pa.Schema] | None = None
    for file, found, _ in read_schemas(address.files, address.store):
        name, schema = file.path.removeprefix(f"{address.place}/"), found.remove_metadata()
        if first is None:
            first = (name, schema)
        elif not schema.equals(first[1]):
            types = {f.name: str(f.type) for f in schema}
            before = {f.name: str(f.type) for f in first[1]}
            column = next((c for c in (*before, *types) if before.get(c) != types.get(c)), "their order")
            raise InputError(
                f"the files of {address.source} have different schemas: {column} is {before.get(column, 'missing')} in "
                f"{first[0]} and {types.get(column, 'missing')} in {name}",
                fix=_FIX,
            )


def adopted_spec(source: Source, name: str, schema: LogSchema, date_grain: DateGrain, buckets: int) -> DatasetSpec:
    """Describe a log as a dataset in flat layout, as it lies.

    Raises:
        InputError: it has no usable key.
        ConstancyError: a request-grain column differs inside a request.
    """
    if schema.forms:
        raise InputError(
            f"the columns of {source.place} are to be read in forms of their own: {', '.join(schema.forms)}",
            expected="columns that can stay as they lie, since nothing is copied",
            fix=_FIX,
        )
    made = [s.column for s in schema.sequences if s.unit is not None or s.longer == "newest"]
    made += [schema.event_time] if schema.event_time is not None and schema.time_unit is not None else []
    if made:
        raise InputError(
            f"the schema makes something else of {', '.join(made)} than {source.place} holds",
            expected="a schema without units of times and without lists that are cut: nothing is rewritten",
            fix=_FIX,
        )
    raw = RawLog.from_frame(source.frame, schema)
    if raw.form is not Form.FLAT:
        raise InputError(
            f"{source.place} holds request rows with lists of candidates",
            expected="one row for each impression",
            fix=_FIX,
        )
    _refuse_key(source, schema)
    _refuse_segments(source, schema, date_grain, buckets)
    resolved = detect_grains(raw, schema).schema(schema)
    grains = resolved.declared_grains()
    fields = [
        f for f in raw.frame.schema.fields if grains[f.name] is Grain.REQUEST and f.name not in schema.request_key
    ]
    varying = (
        {c: n for c, n in varying_requests(raw.frame, schema.request_key, fields)[1].items() if n} if fields else {}
    )
    if varying:
        raise ConstancyError(
            f"request-grain columns of {source.place} differ inside requests: "
            + ", ".join(f"{c} in {n}" for c, n in varying.items()),
            fix="Declare these columns impression-grain.",
        )
    types = raw.source_types()
    if types.get("event_date") == "date" and grains["event_date"] is Grain.REQUEST:
        _refuse_undated(source)
    else:
        # Nothing is added to the files, so without such a column there are no event dates to filter on.
        times = {schema.event_time: Grain.REQUEST} if schema.event_time else {}
        resolved = resolved.model_copy(update={"event_time": None, "columns": {**resolved.columns, **times}})
    spec = DatasetSpec.build(name, resolved, types, layout=Layout.FLAT, date_grain=date_grain, buckets=buckets)
    return spec.model_copy(update={"adopted": True})


def _refuse_segments(source: Source, schema: LogSchema, date_grain: DateGrain, buckets: int) -> None:
    """Files stay in the segments that they lie in: what a schema asks for beside those cannot be had."""
    for key, asked, found in (
        ("date_grain", schema.date_grain, date_grain), ("buckets", schema.buckets, buckets),
    ):  # fmt: skip
        if asked is not None and asked != found:
            raise InputError(
                f"the schema asks for {key}: {asked}, and the files of {source.place} lie by {key}: {found}",
                expected="segments as the files lie in, since nothing is rewritten",
                fix=f"Leave {key} out of the schema file, and convert the dataset later (dedup-storage convert), or "
                "write the log into a dataset (dedup-storage write).",
            )


def _refuse_undated(source: Source) -> None:
    """Rows without an event date lie in no segment: whoever goes through a dataset by its dates would not see them."""
    undated = source.frame.filter(F.col("event_date").isNull()).count()
    if undated:
        raise InputError(
            f"the column event_date of {source.place} is null in {counted(undated, 'row')}",
            expected="a date in every row",
            fix=_FIX,
        )


def _refuse_key(source: Source, schema: LogSchema) -> None:
    """Nothing is rewritten, so the log must have its own position."""
    if schema.position is None:
        raise InputError(
            f"the log {source.place} has no usable key: the schema names no position",
            expected="a column that numbers the candidates of a request (position)",
            fix="Name it in the schema, or write the log into a dataset, which numbers them: dedup-storage write.",
        )
    keys = [*schema.request_key, schema.position]
    empty = F.lit(False)
    for key in keys:
        empty = empty | F.col(key).isNull()
    by_key = source.frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("n"))
    row = only_row(
        by_key.agg(
            F.sum(F.when(empty, F.col("n"))).alias("nulls"), F.sum(F.when(F.col("n") > 1, F.col("n"))).alias("twice")
        )
    )
    if row["nulls"]:
        raise InputError(
            f"the log {source.place} has no usable key: a key column is null in {counted(row['nulls'], 'row')}",
            expected=f"{', '.join(keys)} in every row",
        )
    if row["twice"]:
        raise DuplicateRowsError(
            f"the log {source.place} has no usable key: {counted(row['twice'], 'row', 'shares')} theirs with another",
            expected=f"one row for each {', '.join(keys)}",
            fix="Write it into a dataset: dedup-storage write --on-duplicates keep-one.",
        )

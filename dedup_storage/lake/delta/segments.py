"""Segments of Delta tables: conditions on the partition columns, and files by segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.lake.delta.files import LiveFiles
from dedup_storage.lake.delta.layout import bucket_column, partition_columns
from dedup_storage.lake.segments import Segment, segments_where
from dedup_storage.lake.sql import literal, quoted
from dedup_storage.layout import DatasetSpec

__all__ = ["file_of_row", "files_frame", "segments_condition"]

_FILES = pa.schema(
    [
        ("date", pa.string()),
        ("bucket", pa.int32()),
        ("content", pa.int32()),
        ("file_path", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


def segments_condition(spec: DatasetSpec, segments: Iterable[Segment]) -> str:
    """A SQL condition on the partition columns that holds for the rows of the segments."""
    column = quoted(partition_columns(spec)[0])

    def months(parts: Sequence[str]) -> str:
        listed = ", ".join(f"'{literal(p)}'" for p in parts)
        return f"{column} IN ({listed})"

    return segments_where(spec, segments, bucket=quoted(bucket_column(spec)), column=column, months=months)


def file_of_row(spec: DatasetSpec) -> Column:
    """The data file of a row that was just read, by its place in the table's folder, as the log has it."""
    levels = len(partition_columns(spec))
    return F.regexp_extract(F.col("_metadata.file_path"), f"((?:[^/]+/){{{levels}}}[^/]+)$", 1)


def files_frame(spark: SparkSession, spec: DatasetSpec, files: LiveFiles) -> DataFrame:
    """The files of a Delta version with their segment, as ``TableFormat.files`` gives them."""
    table, count = files.table, files.table.num_rows
    listed = [
        pc.fill_null(_partition(table, *partition_columns(spec)[:-1]).cast(pa.string()), ""),
        _partition(table, bucket_column(spec)).cast(pa.int32()),
        pa.array([0] * count, pa.int32()),
        *(table[name].combine_chunks() for name in ("path", "num_records", "size_bytes")),
    ]
    columns = {field.name: values.cast(field.type) for field, values in zip(_FILES, listed, strict=True)}
    for end, name in (("low", f"min.{spec.schema_.user}"), ("high", f"max.{spec.schema_.user}")):
        known = name in table.column_names
        columns[end] = _plain(table[name].combine_chunks()) if known else pa.nulls(count, pa.string())
    return spark.createDataFrame(pa.table(columns))


def _plain(bounds: pa.Array) -> pa.Array:
    """Of a long text Delta keeps the first characters, and puts marks behind those of the greatest: without these, or
    neighbours whose texts begin alike would seem to overlap."""
    if not pa.types.is_string(bounds.type) and not pa.types.is_large_string(bounds.type):
        return bounds
    return pc.replace_substring_regex(bounds, "[\x7f\U0010ffff]+$", "")


def _partition(table: pa.Table, *names: str) -> pa.Array:
    """Values of the one partition column named, if there is one and the table is divided by it; else nulls."""
    for name in names:
        if f"partition.{name}" in table.column_names:
            return table[f"partition.{name}"].combine_chunks()
    return pa.nulls(table.num_rows)

"""Segments of Iceberg tables: conditions that prune partitions, and data files by segment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructType

from dedup_storage.lake.iceberg.manifests import BOUND_LENGTH
from dedup_storage.lake.segments import Segment, segments_where
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import DatasetSpec

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["all_partition_fields", "bucket_sql", "buckets_in", "files_by_segment", "partition_fields", "segments_sql"]


def partition_fields(table: Table) -> list[tuple[str, str]]:
    """Partition field -> its transform, of what is written from now on."""
    return [(f.name, str(f.transform)) for f in table.spec().fields]


def all_partition_fields(table: Table) -> dict[int, list[tuple[str, str]]]:
    """The same of every file: partition field -> its transform, by the id of the partitions."""
    return {number: [(f.name, str(f.transform)) for f in spec.fields] for number, spec in table.specs().items()}


def buckets_in(fields: Iterable[tuple[str, str]]) -> int | None:
    """How many buckets partition fields divide rows into; ``None`` for those without."""
    return next((int(t[len("bucket[") : -1]) for _, t in fields if t.startswith("bucket[")), None)


def bucket_sql(spec: DatasetSpec, catalog: str, prefix: str = "") -> str:
    """A row's user bucket as SQL, the same function as the partition's."""
    return f"{quoted(catalog)}.system.bucket({spec.buckets}, {prefix}{quoted(spec.schema_.user)})"


def segments_sql(spec: DatasetSpec, catalog: str, segments: Iterable[Segment], alias: str = "") -> str:
    """A SQL condition that holds for the rows of the segments, in a form that Iceberg prunes partitions by."""
    prefix = f"{quoted(alias)}." if alias else ""
    column = prefix + quoted(spec.event_date_column) if spec.event_date_column else "NULL"

    def months(parts: Sequence[str]) -> str:
        firsts = [date.fromisoformat(part + "-01") for part in parts]
        ends = [(low + timedelta(days=32)).replace(day=1) for low in firsts]
        return " OR ".join(
            f"({column} >= DATE'{low}' AND {column} < DATE'{high}')" for low, high in zip(firsts, ends, strict=True)
        )

    return segments_where(spec, segments, bucket=bucket_sql(spec, catalog, prefix), column=column, months=months)


def files_by_segment(
    frame: DataFrame, specs: Mapping[int, Sequence[tuple[str, str]]], *, bounds_of: str | None = None
) -> DataFrame:
    """Data files of Iceberg's ``files`` table with their segment.

    Args:
        frame: The ``files`` metadata table of one snapshot.
        specs: Id of partitions -> their fields, each with its transform; a file has those that it was written by.
        bounds_of: Column whose least and greatest value in each file are given as well.

    Returns:
        ``date`` string, ``bucket`` int, ``content`` (0 data, 1 deletes), ``file_path``, ``rows``, ``bytes``, and
        ``low`` and ``high`` if asked for.
    """
    when, bucket = F.lit(""), F.lit(0)
    for number, fields in sorted(specs.items()):
        own = F.col("spec_id") == number
        for name, transform in fields:
            value = F.col("partition").getField(name)
            if transform == "identity":
                when = F.when(own, F.date_format(value, "yyyy-MM-dd")).otherwise(when)
            elif transform == "month":
                month = F.add_months(F.lit("1970-01-01").cast("date"), value.cast("int"))
                when = F.when(own, F.date_format(month, "yyyy-MM")).otherwise(when)
            elif transform.startswith("bucket"):
                bucket = F.when(own, value.cast("int")).otherwise(bucket)
    size = F.when(F.col("content") == 0, F.col("file_size_in_bytes")).otherwise(
        F.coalesce(F.col("content_size_in_bytes"), F.col("file_size_in_bytes"))
    )
    ends = _ends(frame, bounds_of) if bounds_of else {}
    return frame.select(
        F.coalesce(when, F.lit("")).alias("date"),
        bucket.alias("bucket"),
        "content",
        "file_path",
        F.col("record_count").alias("rows"),
        size.alias("bytes"),
        *(value.alias(name) for name, value in ends.items()),
    )


def _ends(frame: DataFrame, column: str) -> dict[str, Column]:
    """The least and the greatest value of a column in each file, as far as they are known.

    Of a long text Iceberg keeps the first characters, and of the greatest the next text after these: that one is put
    back, or neighbours whose texts begin alike would seem to overlap.
    """
    bounds = F.col("readable_metrics").getField(column)
    low, high = bounds.getField("lower_bound"), bounds.getField("upper_bound")
    metrics = frame.schema["readable_metrics"].dataType
    kept = cast(StructType, cast(StructType, metrics)[column].dataType)["upper_bound"].dataType
    if isinstance(kept, StringType):
        last = F.ascii(F.substring(high, BOUND_LENGTH, 1))
        begun = F.concat(F.substring(high, 1, BOUND_LENGTH - 1), F.char(last - 1))
        high = F.when((F.length(high) == BOUND_LENGTH) & last.between(1, 127), begun).otherwise(high)
    return {"low": low, "high": high}

"""Which columns belong to the request and which to the impression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.schema import Grain, LogSchema
from dedup_storage.sources.raw import Form, RawLog
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import fingerprint

__all__ = ["ColumnGrain", "GrainReport", "detect_grains", "varying_requests"]


@dataclass(frozen=True)
class ColumnGrain:
    """One column's grain.

    Attributes:
        column: Its name.
        grain: Declared, or detected: a column constant inside every request is request-grain.
        declared: Whether the schema says so.
        requests: Requests that were compared; 0 where the schema or the log's form tells every grain.
        varying_requests: Requests in which the column has more than one value.
    """

    column: str
    grain: Grain
    declared: bool
    requests: int
    varying_requests: int


@dataclass(frozen=True)
class GrainReport:
    """The grain of every column, for confirmation."""

    columns: tuple[ColumnGrain, ...]

    def schema(self, schema: LogSchema) -> LogSchema:
        """The schema with these grains declared."""
        return schema.with_grains({c.column: c.grain for c in self.columns})


def detect_grains(raw: RawLog, schema: LogSchema | None = None) -> GrainReport:
    """Find the grain of every column that the schema leaves open.

    For a flat log that takes one pass over these columns, which shuffles 16 bytes a column and request. For nested and
    two-frame logs it takes none: their form tells the grain.

    Raises:
        DedupStorageError: the log cannot be read.
    """
    schema = schema or raw.schema
    declared = schema.declared_grains()
    if raw.form is not Form.FLAT:
        by_form = {f.name: Grain.REQUEST for f in raw.request_fields()}
        by_form |= {f.name: Grain.IMPRESSION for f in raw.impression_fields()}
        return GrainReport(tuple(ColumnGrain(c, declared.get(c, g), c in declared, 0, 0) for c, g in by_form.items()))
    open_fields = [f for f in raw.frame.schema.fields if f.name not in declared]
    requests, varying = varying_requests(raw.frame, schema.request_key, open_fields) if open_fields else (0, {})
    rows = []
    for field in raw.frame.schema.fields:
        seen = varying.get(field.name, 0)
        detected = Grain.IMPRESSION if seen else Grain.REQUEST
        grain = declared.get(field.name, detected)
        rows.append(ColumnGrain(field.name, grain, field.name in declared, requests if open_fields else 0, seen))
    return GrainReport(tuple(rows))


def varying_requests(
    frame: DataFrame, keys: Sequence[str], fields: Sequence[T.StructField]
) -> tuple[int, dict[str, int]]:
    """Count the requests, and for each column those in which it has more than one value."""
    hashed = frame.select(*keys, *(fingerprint([f], strict=True).alias(f"_h{i}") for i, f in enumerate(fields)))
    spread = [(F.min(f"_h{i}") != F.max(f"_h{i}")).cast("int").alias(f"_v{i}") for i in range(len(fields))]
    grouped = hashed.groupBy(*keys).agg(*spread)
    with translated():
        totals = [F.sum(f"_v{i}").alias(f"s{i}") for i in range(len(fields))]
        row = only_row(grouped.agg(F.count(F.lit(1)).alias("n"), *totals))
    return int(row["n"]), {f.name: int(row[f"s{i}"] or 0) for i, f in enumerate(fields)}

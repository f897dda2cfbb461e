"""Lists that are longer than a schema allows and are to be cut: only their newest elements are kept."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.schema import LogSchema, SequenceColumn

__all__ = ["cut_to_newest", "newest_only"]


def newest_only(schema: LogSchema) -> tuple[SequenceColumn, ...]:
    """The sequences whose longer lists are cut."""
    return tuple(s for s in schema.sequences if s.longer == "newest" and s.max_length is not None)


def cut_to_newest(frame: DataFrame, schema: LogSchema) -> DataFrame:
    """The frame with each such list's newest ``max_length`` elements in their order; a missing list stays missing."""
    for sequence in newest_only(schema):
        if sequence.column in frame.columns and isinstance(frame.schema[sequence.column].dataType, T.ArrayType):
            column, most = F.col(sequence.column), int(sequence.max_length or 0)
            start = F.greatest(F.array_size(column) - F.lit(most - 1), F.lit(1))
            frame = frame.withColumn(sequence.column, F.slice(column, start, F.lit(most)))
    return frame

"""A first schema for a log nobody has described yet: grains and history lists from the data, for confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.forms import ChosenForm
from dedup_storage.schema import Grain, LogSchema, SequenceColumn, TimeUnit
from dedup_storage.sources.grains import GrainReport
from dedup_storage.sources.raw import Form, RawLog
from dedup_storage.sources.times import time_unit
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row

__all__ = ["propose_schema", "propose_sequences", "with_evidence"]

# Fewer rows than this for each request tell nothing of what is constant inside one.
_ROWS_PER_REQUEST = 1.01


def with_evidence(raw: RawLog, grains: GrainReport) -> GrainReport:
    """The grains, those of scalars taken back where hardly a request has a second row that could differ.

    A column of impressions is stored right whatever it is; one that was taken for a request's would refuse a later day.
    """
    requests = max((c.requests for c in grains.columns), default=0)
    if raw.form is not Form.FLAT or not requests:
        return grains
    with translated():
        rows = raw.frame.count()
    if rows >= _ROWS_PER_REQUEST * requests:
        return grains
    lists = {f.name for f in raw.frame.schema.fields if isinstance(f.dataType, T.ArrayType)}
    kept = [
        c if c.declared or c.column in lists else replace(c, grain=Grain.IMPRESSION, requests=0)
        for c in grains.columns
    ]  # fmt: skip
    return GrainReport(tuple(kept))


def propose_schema(raw: RawLog, grains: GrainReport, times: Mapping[str, str | None] | None = None) -> LogSchema:
    """The log's schema with every grain declared and its undeclared request-grain lists taken as sequences.

    Args:
        raw: The log.
        grains: What was found of its columns.
        times: Lists whose numbers are times -> their unit.

    Raises:
        DedupStorageError: the log cannot be read.
    """
    described = grains.schema(raw.schema)
    # What was chosen is what a model is to find: no history.
    outcomes = {form.chosen for form in described.forms.values() if isinstance(form, ChosenForm)}
    known = {*described.sequence_columns, *described.candidates, *outcomes}
    lists = [c.column for c in grains.columns if c.grain is Grain.REQUEST and c.column not in known]
    found = tuple(_as_times(s, (times or {}).get(s.column)) for s in propose_sequences(raw, lists))
    return described.model_copy(
        update={
            "columns": {c: g for c, g in described.columns.items() if c not in {s.column for s in found}},
            "sequences": (*described.sequences, *found),
        }
    )


def _as_times(sequence: SequenceColumn, unit: str | None) -> SequenceColumn:
    return sequence if unit is None else sequence.model_copy(update={"times": True, "unit": TimeUnit(unit)})


def propose_sequences(raw: RawLog, columns: list[str]) -> tuple[SequenceColumn, ...]:
    """Describe those of ``columns`` that are lists of scalars.

    Lists that have equal lengths in every row form one group; lists of timestamps are taken for event times, and so
    are lists of numbers that ascend in every row and all lie between 1990 and 2100 in one unit. One pass over the
    lists.
    """
    kinds = {f.name: f.dataType for f in raw.frame.schema.fields if f.name in columns}
    lists = {c: k.elementType for c, k in kinds.items() if isinstance(k, T.ArrayType) and _scalar(k.elementType)}
    if not lists:
        return ()
    pairs = list(combinations(lists, 2))
    different = [
        F.max((~F.size(a).eqNullSafe(F.size(b))).cast("int")).alias(f"_p{i}") for i, (a, b) in enumerate(pairs)
    ]
    numbers = [c for c, kind in lists.items() if isinstance(kind, (T.IntegerType, T.LongType, T.DoubleType))]
    leader, units = {column: column for column in lists}, {}
    if pairs or numbers:
        with translated():
            row = only_row(raw.frame.agg(*different, *(look for c in numbers for look in _looks(c))))
        for i, (a, b) in enumerate(pairs):
            if row[f"_p{i}"] == 0:
                leader[b] = leader[a]
        for column in numbers:
            unit = time_unit(row[f"_low_{column}"], row[f"_high_{column}"])
            if unit is not None and row[f"_wrong_{column}"] == 0 and row[f"_longest_{column}"] > 1:
                units[column] = unit.value
    members = list(leader.values())
    return tuple(
        SequenceColumn(
            column=column,
            group=leader[column] if members.count(leader[column]) > 1 else None,
            times=column in units or isinstance(element, (T.TimestampType, T.TimestampNTZType)),
            unit=units.get(column),
        )
        for column, element in lists.items()
    )


def _looks(column: str) -> list[Column]:
    """What tells whether lists of numbers hold times: their bounds, and rows that do not ascend or hold fractions."""
    known = F.array_compact(column)
    broken = (F.sort_array(known) != known) | F.exists(known, lambda x: x != F.floor(x))
    return [
        F.min(F.array_min(column)).alias(f"_low_{column}"),
        F.max(F.array_max(column)).alias(f"_high_{column}"),
        F.max(F.array_size(column)).alias(f"_longest_{column}"),
        F.count_if(broken).alias(f"_wrong_{column}"),
    ]


def _scalar(kind: T.DataType) -> bool:
    return not isinstance(kind, (T.ArrayType, T.MapType, T.StructType))

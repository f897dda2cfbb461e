"""Creating a dataset for logs like one at hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.choices import choice
from dedup_storage.config import Settings
from dedup_storage.dataset.handle import Handle, open_handle
from dedup_storage.dataset.write.agreement import fits, refuse_epochs, refuse_layout, refuse_schema, with_units
from dedup_storage.dataset.write.groups import propose_groups
from dedup_storage.errors import SchemaError
from dedup_storage.lake.formats import table_format
from dedup_storage.layout import DatasetSpec, EpochGrain, Layout, ProposedGroup, propose_epochs, propose_segments
from dedup_storage.schema import DateGrain, LogSchema, check_name
from dedup_storage.sources.glance import dictionary_columns
from dedup_storage.sources.grains import detect_grains
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated
from dedup_storage.table_properties import Dictionaries

__all__ = ["create_dataset", "dictionaries_of", "drop_unwritten", "epochs_for", "log_dates"]


def create_dataset(
    spark: SparkSession,
    settings: Settings,
    name: str,
    schema: LogSchema,
    raw: RawLog,
    *,
    layout: Layout | str | None = None,
    date_grain: DateGrain | str | None = None,
    buckets: int | None = None,
    epoch_grain: EpochGrain | str | None = None,
    dry_run: bool = False,
) -> Handle:
    """Create a dataset for logs like ``raw``, or open it when it is there and agrees.

    Args:
        spark, settings: The lake.
        name: Dataset name.
        schema: Meaning of the columns; grains left open are detected from ``raw``.
        raw: A log: its columns, types and size decide what is not given.
        layout: ``split`` (default), ``flat`` or ``user``.
        date_grain, buckets: Segments; from the schema, else proposed from the size of ``raw``.
        epoch_grain: Layout ``user``: epochs by which events are partitioned, ``month`` or ``none``; else proposed.
        dry_run: Describe it, and make nothing.

    Raises:
        DatasetExistsError: it is there and differs in what was given.
        SchemaError: the schema does not fit the log.
        UsageError: epochs for a dataset that has none.
    """
    check_name(name, "dataset name")
    form = None if layout is None else choice(Layout, layout, "layout")
    grain = schema.date_grain if date_grain is None else choice(DateGrain, date_grain, "date grain")
    number = buckets or schema.buckets
    epochs = None if epoch_grain is None else choice(EpochGrain, epoch_grain, "epoch grain")
    tables = table_format(spark, settings)
    with translated():
        schema = with_units(schema, raw.schema)
        existing = tables.find(name)
        if existing is not None:
            refuse_layout(existing.spec, form, grain, number, epochs)
            if existing.current:
                refuse_schema(existing.spec, schema, {*raw.source_types()} & {*existing.spec.types})
            if existing.current or (existing.spec.types == raw.source_types() and fits(existing.spec, schema)):
                return Handle(spark, settings, existing.spec, tables)
        chosen = form or Layout.SPLIT
        refuse_epochs(name, chosen, schema, epochs)
        if existing is not None and not dry_run:
            # Made by a write that was refused: nobody has read it, and another schema is given now.
            tables.drop(existing.spec)
        resolved = detect_grains(raw, schema).schema(schema)
        dates, size = cache(partial(log_dates, raw, resolved)), cache(raw.stored_bytes)
        if grain is None or number is None:
            proposed_grain, proposed_number = propose_segments(size(), *dates())
            grain = grain or proposed_grain
            number = number or proposed_number
        types = raw.source_types()
        groups = propose_groups(raw, resolved) if chosen is Layout.USER else ()
        if epochs is None:
            epochs = epochs_for(grain, lambda: dates()[0], size) if groups else EpochGrain.MONTH
        spec = DatasetSpec.build(
            name, resolved, types, layout=chosen, date_grain=grain, buckets=number, groups=groups, epoch_grain=epochs
        )
        if dry_run:
            return Handle(spark, settings, spec, tables)
        columns = {**types, spec.position_column: types.get(spec.position_column, "int")}
        if spec.event_date_column:
            columns.setdefault(spec.event_date_column, "date")
        tables.create(spec, columns, dictionaries=dictionaries_of(spec, groups, dictionary_columns(raw, resolved)))
        # Another process may have created it in the same moment; the catalog's word counts.
        return open_handle(spark, settings, name)


def drop_unwritten(handle: Handle) -> None:
    """Remove a dataset that a refused first write made; one that has a version stays."""
    found = handle.tables.find(handle.name)
    if found is not None and not found.current:
        handle.tables.drop(found.spec)


def epochs_for(grain: DateGrain, days: Callable[[], int], input_bytes: Callable[[], int]) -> EpochGrain:
    """Epochs for the events of a log of this size and time span, which are looked at only where they decide.

    Args:
        grain: Date part of the dataset's segments.
        days: Gives the log's distinct dates (``log_dates``).
        input_bytes: Gives its stored bytes.
    """
    return EpochGrain.NONE if grain is DateGrain.NONE else propose_epochs(input_bytes(), days(), grain)


def dictionaries_of(spec: DatasetSpec, groups: Sequence[ProposedGroup], lists: Collection[str]) -> Dictionaries:
    """Table -> columns that take a dictionary.

    Args:
        spec: The dataset.
        groups: Its groups of events as they were found, in the same order.
        lists: Sequence columns whose lists take one.
    """
    of_events = {group.table: found.dictionaries for group, found in zip(spec.events, groups, strict=True)}
    return {table.name: of_events.get(table.name, lists) for table in spec.tables}


def log_dates(raw: RawLog, schema: LogSchema) -> tuple[int, int]:
    """Distinct dates and months of a log; none without event time."""
    if not schema.event_time:
        return 0, 0
    if schema.event_time not in raw.frame.columns:
        raise SchemaError(f"the event time {schema.event_time} is not a column of the request rows")
    day = F.to_date(schema.event_time)
    row = raw.frame.agg(F.countDistinct(day).alias("d"), F.countDistinct(F.trunc(day, "month")).alias("m")).first()
    return (0, 0) if row is None else (int(row["d"]), int(row["m"]))

"""``dedup-storage write``: a raw log into a dataset."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from dedup_storage.cli.options import DatasetOption, GateOption, LogFormat, RunIdOption, SchemaOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.errors import DatasetNotFoundError, DedupStorageError, UsageError
from dedup_storage.layout import Layout
from dedup_storage.schema import DateGrain, LogSchema, check_name

__all__ = ["write"]


@job
def write(
    job: Job,
    source: Annotated[
        str,
        typer.Argument(help="The raw log: a file, a folder, or a table's name."),
    ],
    dataset: DatasetOption,
    schema: SchemaOption = None,
    impressions: Annotated[
        str | None, typer.Option(help="The impressions, when SOURCE holds the requests alone (two frames).")
    ] = None,
    format: Annotated[LogFormat | None, typer.Option(help="Format; told by the file's name if left out.")] = None,
    mode: Annotated[Mode, typer.Option(help="Append, or replace the event dates that the log holds.")] = Mode.APPEND,
    layout: Annotated[Layout | None, typer.Option(help="Layout of a new dataset.")] = None,
    date_grain: Annotated[DateGrain | None, typer.Option(help="Date part of a new dataset's segments.")] = None,
    buckets: Annotated[int | None, typer.Option(min=1, help="User buckets of a new dataset.")] = None,
    on_inconstant: Annotated[
        OnInconstant, typer.Option(help="What to do with request columns that differ inside a request.")
    ] = OnInconstant.REFUSE,
    on_duplicates: Annotated[
        OnDuplicates, typer.Option(help="What to do with impressions that are there twice.")
    ] = OnDuplicates.REFUSE,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Write a raw log into the dataset: collapse, audit, publish."""
    check_name(dataset, "dataset name")
    described = LogSchema.from_yaml(schema) if schema else None
    if described is None and (layout or date_grain or buckets):
        raise UsageError(
            "the layout of an existing dataset cannot be given",
            fix="Leave out --layout, --date-grain and --buckets, or give --schema for a new dataset.",
        )
    job.require(source, impressions, gate=gate)
    exists = _exists(job, dataset, needed=described is None)
    if described is not None and impressions is None:
        _look(job, source, format.value if format else None, described)
    with job.spark() as spark:
        from dedup_storage.dataset.facade import Dataset
        from dedup_storage.dataset.write.create import drop_unwritten
        from dedup_storage.sources.raw import RawLog

        with job.step("Reading the raw log", spark):
            found = Dataset.open(spark, job.settings, dataset) if exists else None
            meaning = described if described is not None else cast(Dataset, found).schema
            log = RawLog.read(
                spark, source, format=format.value if format else None, schema=meaning, impressions=impressions,
                types=None if found is None else found.spec.types,
                scratch=job.scratch(spark),
            )  # fmt: skip
        target = found
        if described is not None:
            with job.step("Looking at the columns", spark):
                target = Dataset.create(
                    spark, job.settings, dataset, described, log, layout=layout, date_grain=date_grain, buckets=buckets
                )
        written = cast(Dataset, target)
        try:
            with job.step(f"Writing {dataset}", spark):
                summary = written.write(
                    log,
                    run_id=run_id,
                    mode=mode.value,
                    on_inconstant=on_inconstant.value,
                    on_duplicates=on_duplicates.value,
                    gate=gate,
                )
        except DedupStorageError:
            if found is None:
                # A first write that is refused leaves no dataset, so that the next one may bring another schema.
                drop_unwritten(written.handle)
            raise
    job.shown(f"Wrote {dataset}", summary.shown(), summary)


def _look(job: Job, source: str, format: str | None, schema: LogSchema) -> None:
    """What footers tell is told before Spark starts; texts, which must be read whole, are looked at once, later."""
    from dedup_storage.sources.address import Kind, find_address
    from dedup_storage.sources.check import check_source
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    if find_address(source, format, job.store).kind is Kind.PARQUET:
        check_source(open_source(source, format=format, wanted=wanted_columns(schema), store=job.store), schema)


def _exists(job: Job, dataset: str, *, needed: bool) -> bool:
    """Whether the dataset is there; told before Spark starts where it is needed and is not."""
    try:
        job.metadata(dataset)
    except DatasetNotFoundError as error:
        if not needed:
            return False
        raise DatasetNotFoundError(
            error.what, expected=error.expected, got=error.got, fix="Give --schema FILE to create it."
        ) from None
    return True

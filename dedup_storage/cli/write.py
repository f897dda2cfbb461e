"""``dedup-storage write``: a raw log into a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dedup_storage.cli.options import DatasetOption, DryRunOption, GateOption, LogFormat, RunIdOption, SchemaOption
from dedup_storage.cli.outdated import with_outdated
from dedup_storage.cli.runtime import Job, job
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.errors import DatasetNotFoundError, DedupStorageError, UsageError
from dedup_storage.layout import EpochGrain, Layout
from dedup_storage.schema import DateGrain, LogSchema, check_name

if TYPE_CHECKING:
    from dedup_storage.dataset.write.summary import WriteSummary
    from dedup_storage.lake.history import DatasetMetadata

__all__ = ["write"]

Options = tuple[Mode, OnInconstant, OnDuplicates, str | None, str | None]


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
    layout: Annotated[Layout | None, typer.Option(help="Layout of a new dataset (user: each event once).")] = None,
    date_grain: Annotated[DateGrain | None, typer.Option(help="Date part of a new dataset's segments.")] = None,
    buckets: Annotated[int | None, typer.Option(min=1, help="User buckets of a new dataset.")] = None,
    epoch_grain: Annotated[
        EpochGrain | None,
        typer.Option(help="Layout user: by what a new dataset's events are partitioned beside buckets."),
    ] = None,
    on_inconstant: Annotated[
        OnInconstant, typer.Option(help="What to do with request columns that differ inside a request.")
    ] = OnInconstant.REFUSE,
    on_duplicates: Annotated[
        OnDuplicates, typer.Option(help="What to do with impressions that are there twice.")
    ] = OnDuplicates.REFUSE,
    add_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]|all", help="Columns of the log that the dataset gets, null in the rows before."
        ),
    ] = None,
    fill_columns: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]|all", help="Columns of the dataset that the log may lack, null in its rows."),
    ] = None,
    gate: GateOption = True,
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Write a raw log into the dataset: collapse, audit, publish."""
    check_name(dataset, "dataset name")
    described = LogSchema.from_yaml(schema) if schema else None
    if described is None and (layout or date_grain or buckets or epoch_grain):
        raise UsageError(
            "the layout of an existing dataset cannot be given",
            fix="Leave out --layout, --date-grain, --buckets and --epoch-grain, or give --schema for a new dataset.",
        )
    job.require(source, impressions, gate=gate)
    if described is not None:
        from dedup_storage.sources.declared import refuse_unkept

        refuse_unkept(described.types)
    meta = _found(job, dataset, needed=described is None)
    if meta is not None and run_id is not None and _agrees(meta, described, layout, date_grain, buckets, epoch_grain):
        options = (mode, on_inconstant, on_duplicates, add_columns, fill_columns)
        origins = {"log": source, **({} if impressions is None else {"impressions": impressions})}
        done = _published(job, meta, run_id, origins, format.value if format else None, options, dry_run=dry_run)
        if done is not None:
            job.shown(_held(done), done.shown(), done)
            return
    if described is not None and impressions is None:
        _look(job, source, format.value if format else None, described, fill_columns, meta)
    with job.spark() as spark:
        from dedup_storage.dataset.facade import Dataset
        from dedup_storage.dataset.write.create import create_dataset, drop_unwritten
        from dedup_storage.sources.raw import RawLog

        with job.step("Reading the raw log", spark):
            found = Dataset.open(spark, job.settings, dataset) if meta is not None else None
            meaning = described if described is not None else cast(Dataset, found).schema
            log = RawLog.read(
                spark, source, format=format.value if format else None, schema=meaning, impressions=impressions,
                types=None if found is None else found.spec.types,
                fill_columns=fill_columns,
            )  # fmt: skip
        target = found
        if described is not None:
            with job.step("Looking at the columns", spark):
                handle = create_dataset(
                    spark, job.settings, dataset, described, log, layout=layout, date_grain=date_grain, buckets=buckets,
                    epoch_grain=epoch_grain, dry_run=dry_run,
                )  # fmt: skip
                target = Dataset(handle)
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
                    add_columns=add_columns,
                    fill_columns=fill_columns,
                    dry_run=dry_run,
                )
        except DedupStorageError:
            if found is None and not dry_run:
                # A first write that is refused leaves no dataset, so that the next one may bring another schema.
                drop_unwritten(written.handle)
            raise
    summary = with_outdated(job, dataset, summary)
    title = f"{'Would write' if dry_run else 'Wrote'} {dataset}"
    job.shown(_held(summary) if summary.already_published else title, summary.shown(), summary)


def _agrees(
    meta: DatasetMetadata,
    schema: LogSchema | None,
    layout: Layout | None,
    date_grain: DateGrain | None,
    buckets: int | None,
    epoch_grain: EpochGrain | None,
) -> bool:
    """Whether the dataset is what is given for one; where it is not, or the log has to tell, it is judged later."""
    from dedup_storage.dataset.write.agreement import fits, refuse_layout, with_units

    if schema is not None:
        refuse_layout(meta.spec, layout, date_grain or schema.date_grain, buckets or schema.buckets, epoch_grain)
    return schema is None or fits(meta.spec, with_units(schema, meta.spec.schema_))


def _held(summary: WriteSummary) -> str:
    return f"{summary.dataset} holds it already, as version {summary.version}: nothing was done"


def _look(
    job: Job, source: str, format: str | None, schema: LogSchema, fill_columns: str | None, meta: DatasetMetadata | None
) -> None:
    """What footers tell is told before Spark starts; texts, which must be read whole, are looked at once, later."""
    from dedup_storage.sources.absent import without_absent
    from dedup_storage.sources.address import Kind, find_address
    from dedup_storage.sources.check import check_named, check_source
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    if find_address(source, format, job.store).kind is Kind.PARQUET:
        wanted = wanted_columns(schema, None if meta is None else meta.spec.types)
        opened = open_source(source, format=format, wanted=wanted, store=job.store)
        wished = without_absent(schema, opened.schema.names, fill_columns)
        check_source(opened, wished)
        if meta is None:
            check_named(opened, wished)


def _found(job: Job, dataset: str, *, needed: bool) -> DatasetMetadata | None:
    """The dataset, if it is there; told before Spark starts where it is needed and is not."""
    try:
        return job.metadata(dataset)
    except DatasetNotFoundError as error:
        if not needed:
            return None
        raise DatasetNotFoundError(
            error.what, expected=error.expected, got=error.got, fix="Give --schema FILE to create it."
        ) from None


def _published(
    job: Job,
    meta: DatasetMetadata,
    run_id: str,
    sources: Mapping[str, str],
    format: str | None,
    options: Options,
    *,
    dry_run: bool,
) -> WriteSummary | None:
    """The summary of a run that a version holds already, found before Spark starts.

    Raises:
        UsageError: the run was asked for something else; names what differs.
    """
    from dedup_storage.dataset.write.asked import by_origins, with_options
    from dedup_storage.dataset.write.summary import WriteSummary
    from dedup_storage.dataset.write.told import written_before
    from dedup_storage.lake.catalogs import open_lake
    from dedup_storage.lake.publishing import require_same
    from dedup_storage.sources.origin import Origin

    if meta.version_of_run(run_id) is None:
        return None
    origins = {name: Origin.find(place, format, job.store) for name, place in sources.items()}
    asked = by_origins(job.settings, open_lake(job.settings).state, origins)
    if asked is None:
        # Rows have to be looked at.
        return None
    done = require_same(meta, with_options(asked, *options).text, run_id)
    summary = WriteSummary(
        dataset=meta.spec.name, run_id=run_id, version=done or 0, already_published=True, mode=options[0].value
    )
    return summary if dry_run else written_before(job.settings, meta, summary, origins.items())

"""``dedup-storage convert``: a dataset in another layout or table format."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from dedup_storage.cli.options import DatasetOption, DryRunOption, RunIdOption, VersionOption
from dedup_storage.cli.progress import part_progress
from dedup_storage.cli.runtime import Job, job, local_spark
from dedup_storage.lake.runs import named_run
from dedup_storage.layout import EpochGrain, Layout
from dedup_storage.schema import DateGrain, check_name

__all__ = ["convert"]


class TableFormatName(StrEnum):
    """Table formats."""

    ICEBERG = "iceberg"
    DELTA = "delta"


@job
def convert(
    job: Job,
    target: Annotated[str, typer.Argument(help="Name of the dataset to write; one that this run began goes on.")],
    dataset: DatasetOption,
    to_format: Annotated[TableFormatName | None, typer.Option(help="Table format; else the configured one.")] = None,
    layout: Annotated[Layout | None, typer.Option(help="Layout; else that of the source.")] = None,
    date_grain: Annotated[DateGrain | None, typer.Option(help="Date part of a segment; else the source's.")] = None,
    buckets: Annotated[int | None, typer.Option(min=1, help="User buckets; else those of the source.")] = None,
    epoch_grain: Annotated[
        EpochGrain | None,
        typer.Option(
            help="Layout user: by what events are partitioned beside buckets; else the source's, or proposed."
        ),
    ] = None,
    version: VersionOption = None,
    drop_features: Annotated[bool, typer.Option("--drop-features", help="Leave feature groups behind.")] = False,
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Write a dataset into another layout or table format, verified part by part; stopped runs go on."""
    check_name(target, "dataset name")
    job.metadata(dataset)
    both = job.settings
    if to_format is TableFormatName.DELTA:
        # A session that knows Delta knows Iceberg too.
        both = both.model_copy(update={"format": "delta"})
    with local_spark(both, debug=job.debug) as spark:
        from dedup_storage.dataset.facade import Dataset

        source = Dataset.open(spark, job.settings, dataset)
        options: dict[str, Any] = {
            "format": None if to_format is None else to_format.value,
            "layout": layout,
            "date_grain": date_grain,
            "buckets": buckets,
            "epoch_grain": epoch_grain,
            "version": version,
            "drop_features": drop_features,
            "run_id": named_run(run_id, "convert"),
        }
        plan = source.convert(target, dry_run=True, **options)
        if dry_run:
            # What only writing counts is no nought.
            uncounted = {"version", "parts", "already_done", "requests", "impressions", "target_bytes", "seconds"}
            shown = {name: value for name, value in plan.model_dump(mode="json").items() if name not in uncounted}
            job.shown(f"Would convert {dataset} to {target}", shown, plan)
            return
        for left in plan.left:
            job.note(f"not converted: {left}")
        with part_progress() as progress:
            summary = source.convert(target, progress=progress, **options)
    title = f"Converted {dataset} to {target}"
    if summary.parts and summary.already_done == len(summary.parts):
        title += f" before, as version {summary.version}: every part was compared again"
    job.shown(title, summary.model_copy(update={"parts": ()}), summary)

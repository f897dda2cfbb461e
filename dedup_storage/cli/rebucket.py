"""``dedup-storage rebucket``: another number of user buckets, in place, as a new version."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, DryRunOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.schema import check_name

__all__ = ["rebucket"]


@job
def rebucket(
    job: Job,
    dataset: DatasetOption,
    buckets: Annotated[int, typer.Option(min=1, help="User buckets from the new version on.")],
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Give a dataset another number of user buckets, as a new version; every table is written anew once."""
    check_name(dataset, "dataset name")
    with job.dataset(dataset) as target, job.step(f"Rebucketing {dataset}", target.spark):
        summary = target.rebucket(buckets, run_id, dry_run=dry_run)
    title = f"{'Would rebucket' if dry_run else 'Rebucketed'} {dataset}"
    if summary.unchanged:
        title = f"{dataset} has {buckets} buckets: nothing to do"
    if summary.already_published:
        title += f" before, as version {summary.version}"
    job.shown(title, summary, summary)

"""``dedup-storage adopt``: a log that is there becomes a dataset, nothing copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, DryRunOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.schema import LogSchema, check_name

__all__ = ["adopt"]


@job
def adopt(
    job: Job,
    source: Annotated[str, typer.Argument(help="namespace.table, or the folder of a Delta table or Parquet files.")],
    dataset: DatasetOption,
    schema: Annotated[Path, typer.Option("--schema", help="Log schema (YAML), with a position.")],
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Register a flat log as a dataset without copying it; convert it later to gain what segments give."""
    check_name(dataset, "dataset name")
    described = LogSchema.from_yaml(schema)
    job.require(source)
    with job.spark() as spark:
        from dedup_storage.dataset.adopt import adopt as run

        with job.step(f"{'Looking at' if dry_run else 'Adopting'} {source}", spark):
            summary = run(spark, job.settings, dataset, described, source, run_id, dry_run=dry_run)
    job.done(f"{'Would adopt' if dry_run else 'Adopted'} {source} as {dataset}", summary)

"""``dedup-storage report``: what deduplication saves, column by column."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, VersionOption
from dedup_storage.cli.output import stdout
from dedup_storage.cli.runtime import Job, job

__all__ = ["report"]


@job
def report(
    job: Job,
    dataset: DatasetOption,
    raw: Annotated[str, typer.Option(help="The flat log to compare with: Parquet files, a directory, or a table.")],
    version: VersionOption = None,
) -> None:
    """Report the stored bytes of a dataset against its flat log, column by column, from Parquet footers alone."""
    from dedup_storage.report.dataset_files import dataset_files, input_files
    from dedup_storage.report.summary import summarize, summary_table

    with job.step("Reading footers"):
        summary = summarize(dataset_files(job.settings, dataset, version), input_files(raw, job.settings))
    if str(job.json) != "-":
        stdout.print(summary_table(summary, f"Stored bytes of {dataset}"))
    job.write_json(asdict(summary) | {"ratio": summary.ratio, "dedup_factor": summary.dedup_factor})

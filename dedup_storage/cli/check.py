"""``dedup-storage check``: the quality suite on a published version."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, VersionOption
from dedup_storage.cli.output import stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import QualityGateError

__all__ = ["check"]


@job
def check(
    job: Job,
    dataset: DatasetOption,
    version: VersionOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every page of every file too: rows, checksums.")] = False,
) -> None:
    """Prove a version whole (tables, lineage, rows, files) and run the quality suite on it; exit status 3 otherwise."""
    with job.dataset(dataset) as opened, job.step(f"Checking {dataset}", opened.spark):
        verdict = opened.check(version, deep=deep)
    job.done(f"Checked {dataset}", verdict)
    if str(job.json) != "-":
        for hint in verdict.hints:
            stdout.print(hint)
    if not verdict.passed:
        raise QualityGateError(
            f"{dataset} does not pass the quality suite", fix="See the expectations listed as failed."
        )
